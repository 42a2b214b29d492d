"""Video files: frame-exact reading, damaged files, writing."""

import contextlib
import io
import os
import resource
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
from av.stream import Disposition

import v2v_jax.media.video as video_module
from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.media.frame_sources import open_source
from v2v_jax.media.pictures import Picture
from v2v_jax.media.video import VideoFile, VideoStream, read_video, write_video
from v2v_jax.media.video_writer import VideoWriter

REAL = os.environ.get("V2V_REAL_DATA", "")
needs_real_data = pytest.mark.skipif(
    not os.path.isdir(REAL), reason="V2V_REAL_DATA is not a folder with the real videos"
)
# name, codec, codec options
KINDS = {
    "mpeg4.avi": ("mpeg4", {"g": "8"}),
    "bframes.avi": ("mpeg4", {"g": "8", "bf": "2"}),
    "bframes.mkv": ("libx264", {"g": "10", "bf": "3", "sc_threshold": "0"}),
    "open_gop.mp4": ("libx264", {"x264-params": "keyint=9:min-keyint=9:open-gop=1:bframes=3"}),
    "plain.mp4": ("libx264", {"g": "12", "bf": "0"}),
    "mjpeg.avi": ("mjpeg", {}),
}


def moving_frames(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """(T,H,W,3): frame t is recognisable by a grey step of its own and a moving red square."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    for t in range(count):
        frames[t] = 40 + (t * 37) % 160
        x = (t * 3) % (width - 16)
        frames[t, 16:32, x : x + 16] = (220, 30, 30)
    return frames


def encode(path: Path, frames: np.ndarray, codec: str, options: dict[str, str]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.bit_rate = 2_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def decode_all(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize("name", KINDS)
def test_any_window_equals_the_same_frames_of_the_whole(tmp_path, name):
    codec, options = KINDS[name]
    frames = moving_frames(40)
    encode(tmp_path / name, frames, codec, options)
    video = VideoFile(tmp_path / name)
    assert video.num_frames == decode_all(tmp_path / name) == 40
    assert video.fps == 25
    whole = video.read(0, 40)
    # Not only self-consistent: each is the frame that was written.
    np.testing.assert_allclose(whole[:, 4, 4], frames[:, 4, 4], atol=12)
    for start in range(40):
        stop = min(start + 5, 40)
        np.testing.assert_array_equal(video.read(start, stop), whole[start:stop])


def test_not_coded_frames_do_not_count(tmp_path):
    # An MPEG-4 "not coded" VOP (vop_coded = 0) is a packet that the decoder drops.
    path = tmp_path / "drops.avi"
    encode(tmp_path / "full.avi", moving_frames(12), "mpeg4", {"g": "30"})
    with av.open(str(tmp_path / "full.avi")) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if not packet.size:
                continue
            data = bytes(packet)
            if packet.dts == 5:
                data = bytes.fromhex("000001b6") + bytes([0b01010000, 0b01000000, 0x7F])
            copy = av.Packet(data)
            copy.pts, copy.dts, copy.time_base = packet.dts, packet.dts, packet.time_base
            copy.stream, copy.is_keyframe = stream, packet.is_keyframe
            target.mux(copy)
    video = VideoFile(path)
    assert video.num_frames == decode_all(path) == 11
    np.testing.assert_array_equal(video.read(7, 10), video.read(0, 11)[7:10])


@needs_real_data
def test_real_videos_are_frame_exact():
    paths = [*Path(REAL, "videos").iterdir(), *sorted(Path(REAL, "ucf101").rglob("*.avi"))[:6]]
    assert len(paths) == 10
    rng = np.random.default_rng(0)
    for path in paths:
        video = VideoFile(path)
        assert video.num_frames == decode_all(path), path
        whole = video.read(0, video.num_frames, (64, 86))
        for start in rng.integers(0, video.num_frames - 16, 6):
            np.testing.assert_array_equal(
                video.read(start, start + 16, (64, 86)), whole[start : start + 16], str(path)
            )


def test_resizing_is_antialiased_and_keeps_colours(tmp_path):
    board = (np.indices((240, 320)).sum(0) % 2 * 255).astype(np.uint8)
    write_video(tmp_path / "board.mp4", np.repeat(board[None, ..., None], 3, axis=-1))
    frames, _ = read_video(tmp_path / "board.mp4", size=(128, 171))
    assert frames.shape == (1, 128, 171, 3) and frames.dtype == np.uint8
    assert frames[0, 8:-8, 8:-8].std() < 8  # without antialiasing: over 40
    red = np.zeros((3, 48, 64, 3), np.uint8) + np.array([200, 40, 90], np.uint8)
    write_video(tmp_path / "red.mp4", red)
    for size in (None, (20, 30)):
        frames, _ = read_video(tmp_path / "red.mp4", size=size)
        np.testing.assert_allclose(frames, np.broadcast_to(red[0, 0, 0], frames.shape), atol=4)


def test_rotated_videos_are_shown_upright(tmp_path):
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:24, :32] = 255  # top left
    write_video(tmp_path / "lying.mp4", [frame] * 3)
    data = bytearray((tmp_path / "lying.mp4").read_bytes())
    # The 3x3 matrix of the track header, 40 bytes into it: a quarter turn clockwise.
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    (tmp_path / "upright.mp4").write_bytes(data)
    frames, _ = read_video(tmp_path / "upright.mp4")
    assert frames.shape == (3, 64, 48, 3)
    assert frames[0, 10, 38].min() > 230 and frames[0, 10, 10].max() < 25  # now top right
    assert VideoFile(tmp_path / "upright.mp4").size == (64, 48)
    assert VideoFile(tmp_path / "lying.mp4").size == (48, 64)
    resized, _ = read_video(tmp_path / "upright.mp4", size=(32, 20))
    assert resized.shape == (3, 32, 20, 3)
    assert resized[0, 5, 16].min() > 230 and resized[0, 5, 4].max() < 25


# What players do with a display matrix (a, b, c, d): (column, row) → (ax + cy, bx + dy).
DISPLAYED = {
    (1, 0, 0, 1): lambda f: f,
    (-1, 0, 0, 1): lambda f: f[:, ::-1],  # front cameras
    (1, 0, 0, -1): lambda f: f[::-1],
    (-1, 0, 0, -1): lambda f: f[::-1, ::-1],
    (0, 1, -1, 0): lambda f: np.rot90(f, -1),
    (0, -1, 1, 0): lambda f: np.rot90(f),
    (0, 1, 1, 0): lambda f: f.swapaxes(0, 1),
    (0, -1, -1, 0): lambda f: np.rot90(f, 2).swapaxes(0, 1),
}


@pytest.mark.parametrize("matrix", DISPLAYED)
def test_mirrored_and_turned_videos(tmp_path, matrix):
    """A quarter of the picture is of one colour each, so that all eight look different."""
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:24, :32], frame[:24, 32:], frame[24:, :32] = (220, 30, 30), (30, 220, 30), (30, 30, 220)
    write_video(tmp_path / "plain.mp4", [frame] * 2)
    data = bytearray((tmp_path / "plain.mp4").read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "shown.mp4").write_bytes(data)
    plain, _ = read_video(tmp_path / "plain.mp4")
    shown, _ = read_video(tmp_path / "shown.mp4")
    expected = DISPLAYED[matrix](plain[0])
    np.testing.assert_array_equal(shown[0], expected)
    assert VideoFile(tmp_path / "shown.mp4").size == expected.shape[:2]
    np.testing.assert_array_equal(next(iter(VideoStream(tmp_path / "shown.mp4"))), expected)


@pytest.mark.parametrize("turned", [False, True])
def test_pixels_that_are_not_square(tmp_path, turned):
    """PAL's: a prediction gets the aspect that its video has, as it is shown."""
    with VideoWriter(tmp_path / "pal.mp4", 25, pixel_aspect=Fraction(16, 11)) as writer:
        for frame in moving_frames(3):
            writer.add(frame)
        writer.finish()
    if turned:
        data = bytearray((tmp_path / "pal.mp4").read_bytes())
        at = data.index(b"tkhd") + 4 + 40
        quarter = (0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
        data[at : at + 36] = struct.pack(">9i", *quarter)
        (tmp_path / "pal.mp4").write_bytes(data)
    expected = Fraction(11, 16) if turned else Fraction(16, 11)
    assert open_source(tmp_path / "pal.mp4").pixel_aspect == expected
    write_video(tmp_path / "square.mp4", moving_frames(3))
    assert open_source(tmp_path / "square.mp4").pixel_aspect == 1


def test_colours_say_how_they_are_coded_and_are_read_so(tmp_path):
    """Untagged, a player takes them for BT.709 where a video is large, and shows other colours."""
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[:32], frame[32:] = (200, 40, 60), (30, 160, 90)
    write_video(tmp_path / "own.mp4", [frame] * 2)
    with av.open(str(tmp_path / "own.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range) == (6, 1)
    for name, matrix, limits in (("709", 1, 1), ("601", 5, 1), ("2020", 9, 1), ("full", 1, 2)):
        with av.open(str(tmp_path / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            stream.codec_context.colorspace = matrix
            stream.codec_context.color_range = limits
            coded = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=matrix, dst_color_range=limits
            )
            coded.pts = 0
            container.mux(stream.encode(coded))
            container.mux(stream.encode(None))
    for name in ("own", "709", "601", "2020", "full"):
        for size in (None, (32, 32)):
            found = read_video(tmp_path / f"{name}.mp4", size=size)[0][0]
            quarter = len(found) // 4
            for row, colour in ((quarter, (200, 40, 60)), (3 * quarter, (30, 160, 90))):
                np.testing.assert_allclose(found[row, quarter], colour, atol=5, err_msg=name)


def test_interlaced_videos_are_named(tmp_path, caplog):
    encode(tmp_path / "fields.ts", moving_frames(9), "libx264", {"x264-params": "tff=1"})
    encode(tmp_path / "frames.ts", moving_frames(9), "libx264", {})
    assert len(list(VideoStream(tmp_path / "frames.ts"))) == 9 and caplog.records == []
    assert len(list(VideoStream(tmp_path / "fields.ts"))) == 9
    [record] = caplog.records
    assert "fields.ts is interlaced" in record.getMessage()


def test_a_cover_is_not_the_video(tmp_path):
    """A picture that comes first, as music and podcasts have it."""
    cover = encode_picture(np.full((96, 96, 3), 200, np.uint8))
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        attached = container.add_stream("mjpeg", rate=25)
        attached.width = attached.height = 96
        attached.pix_fmt = "yuvj420p"
        attached.disposition = Disposition.attached_pic
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        packet = av.Packet(cover)
        packet.stream, packet.pts, packet.dts, packet.time_base = attached, 0, 0, Fraction(1, 25)
        container.mux(packet)
        for frame in moving_frames(5):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
    frames, _ = read_video(tmp_path / "a.mkv")
    assert frames.shape == (5, 48, 64, 3)
    assert len(list(VideoStream(tmp_path / "a.mkv"))) == 5


@pytest.mark.parametrize("name", ["song.m4a", "song.mp3", "song.flac"])
def test_a_cover_alone_is_no_video(tmp_path, name):
    """A song whose cover is a picture of one frame."""
    codec = {"song.mp3": "libmp3lame", "song.flac": "flac"}.get(name, "aac")
    with av.open(str(tmp_path / name), "w", format="mp4" if "m4a" in name else None) as file:
        sound = file.add_stream(codec, rate=48000)
        attached = file.add_stream("mjpeg", rate=25)
        attached.width, attached.height, attached.pix_fmt = 96, 96, "yuvj420p"
        attached.disposition = Disposition.attached_pic
        packet = av.Packet(encode_picture(np.full((96, 96, 3), 200, np.uint8)))
        packet.stream, packet.pts, packet.dts, packet.time_base = attached, 0, 0, Fraction(1, 25)
        file.mux(packet)
        kind = sound.codec_context.format
        dtype = {"s16": np.int16, "s32": np.int32, "flt": np.float32}[kind.name.removesuffix("p")]
        shape = (2, 4800) if kind.is_planar else (1, 9600)
        silence = av.AudioFrame.from_ndarray(np.zeros(shape, dtype), kind.name, "stereo")
        silence.sample_rate, silence.pts = 48000, 0
        for part in (silence, None):
            file.mux(sound.encode(part))
    for read in (VideoFile, lambda path: open_source(path).frames):
        with pytest.raises(CorruptVideoError, match="has no video stream; give a file with moving"):
            read(tmp_path / name)


@pytest.mark.parametrize("left_out", [0, 3, 7, 13, 25])
@pytest.mark.parametrize("options", [{"bf": "0"}, {"bf": "2"}])
def test_a_trimmed_mp4_is_whole(tmp_path, left_out, options):
    """Telephones trim a video by its edit list alone; FFmpeg leaves whole groups out then."""
    frames = moving_frames(40)
    encode(tmp_path / "a.mp4", frames, "libx264", {"g": "10", **options})
    whole, _ = read_video(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        ticks = round(left_out / stream.average_rate / stream.time_base)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    at = data.index(b"elst") + 12
    milliseconds, first = struct.unpack(">Ii", data[at : at + 8])
    shown = milliseconds - 1000 * left_out // 25
    data[at : at + 8] = struct.pack(">Ii", shown, first + ticks)
    (tmp_path / "a.mp4").write_bytes(data)
    np.testing.assert_array_equal(read_video(tmp_path / "a.mp4")[0], whole[left_out:])
    source = VideoStream(tmp_path / "a.mp4")
    np.testing.assert_array_equal(np.stack(list(source)), whole[left_out:])
    begins = [shown.begin - source.times[0].begin for shown in source.times]
    np.testing.assert_allclose(np.array(begins, float), np.arange(40 - left_out) / 25, atol=1e-6)
    (tmp_path / "a.mp4").write_bytes(cut_in_the_middle(bytes(data)))
    with pytest.raises(CorruptVideoError, match="fetch it again"):
        list(VideoStream(tmp_path / "a.mp4"))


def cut_in_the_middle(data: bytes) -> bytes:
    """An MP4 file whose pictures break off, and whose header was moved before them."""
    at = data.index(b"moov") - 4
    header, pictures = data[at:], data[:at]
    return header + pictures[: len(pictures) // 2]


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.mov"])
def test_the_best_of_several_tracks_counts(tmp_path, name):
    """A preview before the video: what the file calls its default counts, as for players."""
    frames = moving_frames(16)
    with av.open(str(tmp_path / name), "w") as container:
        preview = container.add_stream("libx264", rate=25)
        preview.height, preview.width, preview.pix_fmt = 24, 32, "yuv420p"
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        video.disposition = Disposition.default
        for frame in frames:
            small = np.ascontiguousarray(frame[::2, ::2])
            for stream, picture in ((preview, small), (video, frame)):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in (preview, video):
            container.mux(stream.encode(None))
    assert read_video(tmp_path / name)[0].shape == frames.shape
    assert next(iter(VideoStream(tmp_path / name))).shape == (48, 64, 3)


def test_streams_that_begin_later(tmp_path):
    """As sound in a broadcast that was recorded before it came; PyAV stumbles at the end."""
    encode(tmp_path / "a.ts", moving_frames(30), "libx264", {"g": "5"})
    with av.open(str(tmp_path / "b.ts"), "w") as container:
        for rate in (25, 25, 25):
            stream = container.add_stream("mpeg2video", rate=rate)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in moving_frames(30):
            for stream in container.streams:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        for stream in container.streams:
            container.mux(stream.encode(None))
    for number in range(10):  # whether PyAV stumbles is for chance to say
        data = (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()[188 * number :]
        (tmp_path / "both.ts").write_bytes(data)
        for read in (lambda path: list(VideoStream(path)), VideoFile):
            with contextlib.suppress(CorruptVideoError):
                read(tmp_path / "both.ts")


def encode_picture(values):
    buffer = io.BytesIO()
    PIL.Image.fromarray(values).save(buffer, "JPEG")
    return buffer.getvalue()


def test_many_threads_may_read_one_file(tmp_path):
    encode(tmp_path / "a.mp4", moving_frames(30), *KINDS["bframes.mkv"])
    video = VideoFile(tmp_path / "a.mp4")
    whole = video.read(0, 30)
    with ThreadPoolExecutor(4) as pool:
        starts = [i % 25 for i in range(60)]
        for start, frames in zip(
            starts, pool.map(lambda s: video.read(s, s + 5), starts), strict=True
        ):
            np.testing.assert_array_equal(frames, whole[start : start + 5])


@pytest.mark.parametrize("window", [(-1, 3), (3, 3), (5, 4), (0, 11)])
def test_frames_that_do_not_exist(tmp_path, window):
    write_video(tmp_path / "a.mp4", moving_frames(10))
    with pytest.raises(ValueError, match=r"a\.mp4: it has 10 frames"):
        VideoFile(tmp_path / "a.mp4").read(*window)


@pytest.mark.parametrize("size", [(0, 5), (-1, 5), (5,), (5.0, 5.0), 5, "55", (5, None)])
def test_sizes_that_are_none_are_no_damage(tmp_path, size):
    write_video(tmp_path / "a.mp4", moving_frames(3))
    PIL.Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    for read in (
        lambda: read_video(tmp_path / "a.mp4", size=size),
        lambda: list(VideoFile(tmp_path / "a.mp4").stream(size)),
        lambda: Picture(tmp_path / "a.png").frame(size),
    ):
        with pytest.raises(ValueError, match=r"size is .*; expected \(H,W\), two whole numbers"):
            read()


def test_parts_of_frames_are_no_damage(tmp_path):
    write_video(tmp_path / "a.mp4", moving_frames(3))
    for start in (0.5, "0", None):
        with pytest.raises(TypeError):
            read_video(tmp_path / "a.mp4", start)
    assert len(read_video(tmp_path / "a.mp4", np.int64(1))[0]) == 2


def test_reading_that_takes_for_ever_is_no_damage(tmp_path, monkeypatch):
    """A network that does not answer ends PyAV's read by our own limit."""
    write_video(tmp_path / "a.mp4", moving_frames(3))

    def late(*_, **__):
        raise av.error.ExitError(1414092869, "Immediate exit requested")

    monkeypatch.setattr(video_module, "open_input", late)
    with pytest.raises(CorruptVideoError, match=r"timed out; check the disk, or the network"):
        VideoFile(tmp_path / "a.mp4")


@pytest.mark.parametrize("name", ["mpeg4.avi", "bframes.avi", "plain.mp4", "bframes.mkv"])
@pytest.mark.parametrize("share", [0.02, 0.4, 0.7, 0.9])
def test_truncated_files_are_corrupt(tmp_path, name, share):
    encode(tmp_path / name, moving_frames(60), *KINDS[name])
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CorruptVideoError, match=f"{name} cannot be read: .*fetch it again"):
        VideoFile(tmp_path / name)


@pytest.mark.parametrize("name", ["empty.avi", "text.avi", "text.mp4", "binary.mkv"])
def test_files_that_are_no_videos(tmp_path, name):
    content = {"empty": b"", "text": b"I am no video.\n" * 300, "binary": bytes(range(256)) * 40}
    (tmp_path / name).write_bytes(content[name.split(".")[0]])
    with pytest.raises(CorruptVideoError, match=f"{name} cannot be read"):
        VideoFile(tmp_path / name)


def test_a_file_with_sound_only_is_corrupt(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        samples = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        samples.sample_rate = 16000
        container.mux(stream.encode(samples))
        container.mux(stream.encode(None))
    with pytest.raises(CorruptVideoError, match="no video stream"):
        VideoFile(tmp_path / "sound.mp4")


def test_damage_within_is_found_while_reading(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
    encode(tmp_path / "a.mp4", noise, "libx264", {"g": "10", "bf": "0"})
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    with av.open(str(tmp_path / "a.mp4")) as container:
        place = [(p.pos, p.size) for p in container.demux(video=0) if p.size][25]
    data[place[0] + 20 : place[0] + place[1]] = bytes(place[1] - 20)
    (tmp_path / "a.mp4").write_bytes(data)
    video = VideoFile(tmp_path / "a.mp4")
    assert video.read(0, 20).shape[0] == 20  # what lies before can still be read
    with pytest.raises(CorruptVideoError, match=r"a\.mp4"):
        video.read(0, 40)


def test_a_file_that_vanishes(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        VideoFile(tmp_path / "none.mp4")
    write_video(tmp_path / "a.mp4", moving_frames(4))
    video = VideoFile(tmp_path / "a.mp4")
    os.unlink(tmp_path / "a.mp4")
    with pytest.raises(CorruptVideoError, match=r"a\.mp4"):
        video.read(0, 2)


def test_no_file_stays_open(tmp_path):
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not show its open files")
    write_video(tmp_path / "a.mp4", moving_frames(4))
    before = len(os.listdir("/proc/self/fd"))
    videos = [VideoFile(tmp_path / "a.mp4") for _ in range(20)]
    for video in videos:
        video.read(1, 3)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("size", [(48, 64), (47, 64), (48, 63), (33, 35)])
def test_written_videos_read_back(tmp_path, size):
    frames = moving_frames(12, *size)
    write_video(tmp_path / "a.mp4", iter(frames), fps=30000 / 1001)
    back, fps = read_video(tmp_path / "a.mp4")
    h, w = size
    assert back.shape == (12, h + h % 2, w + w % 2, 3)
    assert fps == pytest.approx(30000 / 1001)
    assert np.abs(back[:, :h, :w].astype(int) - frames).mean() < 6
    np.testing.assert_array_equal(read_video(tmp_path / "a.mp4", 3, 7)[0], back[3:7])
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "no frames"),
        ([np.zeros((8, 8), np.uint8)], r"expected \(H,W,3\)"),
        ([np.zeros((8, 8, 3), np.float32)], "Frame 0 is .* float32"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 6, 3), np.uint8)], "Frame 1"),
    ],
)
def test_a_failed_write_leaves_what_was_there(tmp_path, frames, message):
    (tmp_path / "a.mp4").write_bytes(b"before")
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "a.mp4", frames)
    assert os.listdir(tmp_path) == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"before"


def test_bad_destinations(tmp_path):
    frames = moving_frames(2)
    with pytest.raises(ValueError, match=r"must end in \.mp4"):
        write_video(tmp_path / "a.avi", frames)
    with pytest.raises(ValueError, match="fps is 0"):
        write_video(tmp_path / "a.mp4", frames, fps=0)
    with pytest.raises(DataError, match="existing, writable folder"):
        write_video(tmp_path / "none" / "a.mp4", frames)
    shutil.rmtree(tmp_path)


# ------------------------------------------------------------------------------------------------
# Hostile files


def write_claiming(path, h, w):
    """An MJPEG video whose pictures claim another size than the 16x16 that they have."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuvj420p"
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    size = lambda h, w: b"\xff\xc0\x00\x11\x08" + h.to_bytes(2, "big") + w.to_bytes(2, "big")
    assert data.count(size(16, 16)) == 4
    path.write_bytes(data.replace(size(16, 16), size(h, w)))


def test_pictures_that_claim_to_be_huge_are_refused_before_decoding(tmp_path):
    """30000x30000 would take 1.3 GB a frame."""
    path = tmp_path / "bomb.avi"
    write_claiming(path, 30_000, 30_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CorruptVideoError):
        VideoFile(path).read(0, 1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # kilobytes


def test_header_that_claims_to_be_huge(tmp_path, monkeypatch):
    path = tmp_path / "v.mp4"
    write_video(path, np.zeros((4, 32, 48, 3), np.uint8))
    monkeypatch.setattr(video_module, "_MAX_PIXELS", 32 * 48 - 1)
    with pytest.raises(CorruptVideoError, match="claims 48x32 pixels, and the limit is 1535"):
        VideoFile(path)


def test_too_many_frames(tmp_path, monkeypatch):
    path = tmp_path / "v.mp4"
    write_video(path, np.zeros((4, 32, 48, 3), np.uint8))
    monkeypatch.setattr("v2v_jax.media.packets._MAX_FRAMES", 3)
    with pytest.raises(CorruptVideoError, match="more than 3 frames"):
        VideoFile(path)


def test_decoding_that_brings_no_frame_times_out(tmp_path, monkeypatch):
    path = tmp_path / "v.mp4"
    write_video(path, np.zeros((4, 32, 48, 3), np.uint8))
    file = VideoFile(path)
    monkeypatch.setattr(video_module, "_STUCK", -1.0)
    av_open = av.open  # which has the same limit
    monkeypatch.setattr(
        video_module.av, "open", lambda *args, timeout, **kwargs: av_open(*args, **kwargs)
    )
    with pytest.raises(CorruptVideoError, match="no frame came within"):
        file.read(0, 1)


def test_codec_that_ffmpeg_does_not_know(tmp_path):
    path = tmp_path / "v.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    assert data.count(b"FMP4") == 2
    path.write_bytes(data.replace(b"FMP4", b"ZZZZ"))
    for read in (VideoFile, VideoStream):
        with pytest.raises(CorruptVideoError, match="no decoder"):
            read(path)


def test_playlist_opens_nothing_else(tmp_path):
    """FFmpeg would follow an HLS playlist, whatever the file's name, to any file or address."""
    write_video(tmp_path / "secret.mp4", np.zeros((4, 32, 48, 3), np.uint8))
    for name, text in {
        "hls.avi": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/secret.mp4\n",
        "concat.avi": f"ffconcat version 1.0\nfile {tmp_path}/secret.mp4\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(CorruptVideoError):
            VideoFile(tmp_path / name)
