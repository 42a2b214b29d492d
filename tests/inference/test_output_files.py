"""Predictions as files: every form of output, sound, bad input, what is left when it breaks."""

import itertools
import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from tests.networks import noise, stub
from tests.videos import smooth, sound_seconds, with_sound
from v2v_jax.errors import ConfigError, CorruptVideoError, DataError
from v2v_jax.inference.output_files import parse_output, predict_to_files
from v2v_jax.inference.predictor import Predictor
from v2v_jax.inference.views import Drawing
from v2v_jax.media.flow_files import read_flow
from v2v_jax.media.frame_sources import open_source
from v2v_jax.media.video import VideoStream, read_video, write_video
from v2v_jax.tasks import Color, Depth, Flow, Segmentation

TASKS = {
    "segmentation": Segmentation("abc"),
    "flow": Flow(),
    "color": Color(residual=False),
    "depth": Depth(),
}
COPY = Predictor(stub(None), scale="native")
ROOT = Path(__file__).resolve().parents[2]
REAL = os.environ.get("V2V_REAL_DATA", "")
needs_real_data = pytest.mark.skipif(
    not os.path.isdir(REAL), reason="V2V_REAL_DATA is not a folder with the real videos"
)


# ------------------------------------------------------------------------------------------------
# Forms of output


@pytest.mark.parametrize("codec, name", [("aac", "in.mp4"), ("pcm_s16le", "in.mov")])
def test_a_coloured_video_keeps_its_sound(tmp_path, codec, name):
    frames = smooth(30, 36, 50)
    with_sound(tmp_path / name, frames, codec)
    output = parse_output(str(tmp_path / "out.mp4"), TASKS["color"])
    source = open_source(tmp_path / name)
    assert source.fps == 10 and source.num_frames == 30
    assert predict_to_files(COPY, source, output, sound_of=tmp_path / name) == 30
    written, fps = read_video(tmp_path / "out.mp4")
    assert fps == 10 and np.abs(written.astype(int) - frames).mean() < 6
    assert abs(sound_seconds(tmp_path / "out.mp4") - 3.0) < 0.1
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "out.mp4"])


def test_a_video_without_sound_gives_one_without(tmp_path):
    write_video(tmp_path / "in.mp4", smooth(9, 20, 30))
    for sound_of in (tmp_path / "in.mp4", None, tmp_path / "missing"):
        output = parse_output(str(tmp_path / "out.mp4"), TASKS["color"])
        predict_to_files(COPY, open_source(tmp_path / "in.mp4"), output, sound_of=sound_of)
        assert sound_seconds(tmp_path / "out.mp4") is None


def test_frames_as_files(tmp_path):
    video = noise(11, 20, 31, 3)

    def write(task, values, pattern, notes=False, **options):
        apply = lambda p, v: v.astype(jnp.float32)[..., : values[0]] * values[1]
        predictor = Predictor(stub(apply, TASKS[task]), scale="native")
        output = parse_output(str(tmp_path / pattern), TASKS[task], **options)
        assert predict_to_files(predictor, open_source(video), output, **options) == 11
        assert len(list((tmp_path / pattern).parent.iterdir())) == 11 + notes
        kinds = dict(probabilities=True) if options else {}
        return np.concatenate([chunk.values for chunk in predictor.chunks(video, **kinds)])

    labels = write("segmentation", (3, 1 / 255), "labels/%03d.png", notes=True)
    np.testing.assert_array_equal(PIL.Image.open(tmp_path / "labels/010.png"), labels[10])
    probabilities = write("segmentation", (3, 1 / 255), "p/%d.npz", notes=True, probabilities=True)
    with np.load(tmp_path / "p/7.npz") as arrays:
        np.testing.assert_array_equal(arrays["probabilities"], probabilities[7])
        np.testing.assert_array_equal(arrays["labels"], labels[7])
    for name in ("flo/%05d.flo", "kitti/%05d.png", "pfm/%05d.pfm"):
        flow = write("flow", (2, 0.25), name, notes=name.endswith("png"))
        read, valid = read_flow(tmp_path / (name % 10))
        assert valid.all()
        np.testing.assert_allclose(read, flow[10], atol=1 / 64)
    depth = write("depth", (1, 0.5), "depth/%05d.png", notes=True)
    steps = np.asarray(PIL.Image.open(tmp_path / "depth/00004.png"))
    np.testing.assert_allclose(steps / 256, depth[4], atol=1 / 512 + 1e-6)
    write("color", (3, 1 / 255), "rgb/%05d.png")
    np.testing.assert_array_equal(PIL.Image.open(tmp_path / "rgb/00000.png"), video[0])


def test_files_that_fill_a_disk_are_said_first_and_compressed(tmp_path, monkeypatch, caplog):
    video = np.zeros((11, 20, 31, 3), np.uint8)
    classes = Segmentation([f"class {i}" for i in range(3)])
    predictor = Predictor(stub(lambda p, v: v.astype(jnp.float32) / 255, classes), scale="native")
    output = parse_output(str(tmp_path / "p/%05d.npz"), classes, probabilities=True)
    predict_to_files(predictor, open_source(video), output, probabilities=True)
    assert caplog.records == []
    size = 11 * 20 * 31 * 3 * 4
    monkeypatch.setattr("v2v_jax.inference.output_files._MUCH", size - 1)
    predict_to_files(predictor, open_source(video), output, probabilities=True)
    [record] = caplog.records
    assert "will hold 11 frames of 0.0 MB" in record.getMessage()
    predict_to_files(predictor, open_source(video), output, probabilities=True)
    assert len(caplog.records) == 1  # of many videos the first is enough
    assert sum(file.stat().st_size for file in (tmp_path / "p").iterdir()) < size / 4


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((240, 320), (24, 32)),
        ((12, 16), (24, 32)),  # enlarged
        ((16, 2000), (16, 2000)),  # not to 24x3000
        ((2000, 16), (2000, 16)),
        ((10, 100), (13, 128)),  # as far as four times the training frames' longer side
        ((240, 24000), (24, 2400)),
    ],
)
def test_long_strips_are_not_blown_up(size, seen):
    assert Predictor(stub(None)).scaled_size(size) == seen


@pytest.mark.parametrize(
    "output, task, message",
    [
        ("out.avi", "flow", "NAME.mp4"),
        ("folder", "flow", "NAME.mp4"),
        ("out/%05d.flo", "segmentation", ".png, .npz, not as .flo"),
        ("out/%05d.jpg", "color", "not as .jpg"),
        ("%05d.png", "color", "a folder of its own"),
        ("out%d/%05d.png", "color", "NAME.mp4"),
    ],
)
def test_outputs_that_are_no_form(output, task, message):
    with pytest.raises(ConfigError, match=message):
        parse_output(output, TASKS[task])
    with pytest.raises(ConfigError, match=".npz"):
        parse_output("out.mp4", TASKS["segmentation"], probabilities=True)


def test_drawings():
    from v2v_jax.drawing import colors
    from v2v_jax.inference.predictor import Chunk

    video = noise(3, 20, 30, 3)
    labels = np.random.default_rng(1).integers(0, 8, (3, 20, 30), dtype=np.uint8)
    classes = Segmentation("abcdefgh")
    overlay = Drawing(classes, "overlay").draw(Chunk(video, labels))
    np.testing.assert_array_equal(overlay, colors.overlay(video, labels, "abcdefgh"))
    plain = Drawing(classes, "plain").draw(Chunk(video, labels))
    np.testing.assert_array_equal(plain, colors.labels_to_color(labels, 8))
    both = Drawing(classes, "side_by_side").draw(Chunk(video, labels))
    assert both.shape == (3, 20, 64, 3)
    np.testing.assert_array_equal(both[:, :, :30], video)
    np.testing.assert_array_equal(both[:, :, 34:], overlay)
    # One scale for the whole video: the same flow has the same colour later on.
    flow = np.zeros((3, 20, 30, 2), np.float32) + (4.0, 1.0)
    drawing = Drawing(TASKS["flow"], "plain")
    first = drawing.draw(Chunk(video, flow))
    drawing.draw(Chunk(video, flow * 9))
    np.testing.assert_array_equal(drawing.draw(Chunk(video, flow)), first)
    gray = Drawing(TASKS["color"], "side_by_side").draw(Chunk(video, video))
    assert (np.ptp(gray[:, :, :30], axis=-1) == 0).all()
    np.testing.assert_array_equal(gray[:, :, 34:], video)


# ------------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize("size", [(1, 8, 8), (1, 40, 30), (2, 8, 8), (5, 9, 17)])
def test_videos_of_one_frame_or_few_pixels(tmp_path, size):
    write_video(tmp_path / "in.mp4", smooth(*size))
    output = parse_output(str(tmp_path / "out/%d.png"), TASKS["color"])
    predictor = Predictor(stub(None))  # scaled up to 24 rows and back
    assert predict_to_files(predictor, open_source(tmp_path / "in.mp4"), output) == size[0]
    seen, _ = read_video(tmp_path / "in.mp4")
    got = np.asarray(PIL.Image.open(tmp_path / "out/0.png"))
    assert got.shape == seen.shape[1:] and np.abs(got.astype(int) - seen[0]).mean() < 12


def encode(path, frames, codec, pix_fmt, format="rgb24"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25))
        stream.pix_fmt, (stream.height, stream.width) = pix_fmt, frames[0].shape[:2]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format=format)))
        container.mux(stream.encode(None))


def test_grey_10_bit_and_transparent_videos(tmp_path):
    frames = smooth(9, 40, 60)
    encode(tmp_path / "ten.mkv", frames, "ffv1", "yuv420p10le")
    encode(tmp_path / "gray.mkv", frames, "ffv1", "gray")
    encode(tmp_path / "rgba.mkv", frames, "ffv1", "bgra")
    read = lambda name: np.stack(list(VideoStream(tmp_path / f"{name}.mkv")))
    ten, gray, rgba = read("ten"), read("gray"), read("rgba")
    assert np.abs(ten.astype(int) - frames).mean() < 3
    assert (np.ptp(gray, axis=-1) <= 2).all() and np.abs(gray.mean() - frames.mean()) < 12
    np.testing.assert_array_equal(rgba, frames)
    for name in ("ten", "gray", "rgba"):
        assert COPY(tmp_path / f"{name}.mkv").shape == frames.shape


def test_a_stream_decodes_as_random_access_does(tmp_path):
    write_video(tmp_path / "in.mp4", smooth(40, 33, 47))
    whole, fps = read_video(tmp_path / "in.mp4")
    stream = VideoStream(tmp_path / "in.mp4")
    assert (stream.fps, stream.num_frames) == (fps, 40)
    np.testing.assert_array_equal(np.stack(list(stream)), whole)


def test_rotation_is_undone(tmp_path):
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:24, :32] = 255
    write_video(tmp_path / "lying.mp4", [frame] * 3)
    data = bytearray((tmp_path / "lying.mp4").read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # the matrix in the track header: a quarter turn clockwise
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    (tmp_path / "upright.mp4").write_bytes(data)
    result = COPY(tmp_path / "upright.mp4")
    assert result.shape == (3, 64, 48, 3)
    assert result[0, 10, 38].min() > 230 and result[0, 10, 10].max() < 25


def test_a_video_whose_frames_change_size(tmp_path):
    # Two streams of H.264 one after the other: the second half has another resolution.
    parts = [smooth(6, 48, 64), smooth(6, 96, 128)]
    data = b""
    for number, frames in enumerate(parts):
        encode(tmp_path / f"{number}.h264", frames, "libx264", "yuv420p")
        data += (tmp_path / f"{number}.h264").read_bytes()
    (tmp_path / "both.h264").write_bytes(data)
    frames = list(VideoStream(tmp_path / "both.h264"))
    assert {frame.shape for frame in frames} == {(48, 64, 3)} and len(frames) == 12
    assert np.abs(frames[-1].astype(int) - parts[1][-1, ::2, ::2]).mean() < 12
    assert COPY(tmp_path / "both.h264").shape == (12, 48, 64, 3)


def test_a_corrupt_tail_keeps_what_came_before_and_says_so(tmp_path):
    encode(tmp_path / "whole.mkv", smooth(60, 48, 64), "mpeg4", "yuv420p")
    data = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    frames = []
    with pytest.raises(CorruptVideoError):
        for frame in VideoStream(tmp_path / "cut.mkv"):
            frames.append(frame)
    assert 20 < len(frames) < 50
    for form, partial in [("out.mp4", "out.partial.mp4"), ("out/%d.png", "out.partial")]:
        output = parse_output(str(tmp_path / form), TASKS["color"])
        with pytest.raises(DataError, match=rf"first {len(frames)} frames are in .*{partial}"):
            predict_to_files(COPY, open_source(tmp_path / "cut.mkv"), output)
        assert not output.path.exists() and output.partial.exists()
    assert read_video(tmp_path / "out.partial.mp4")[0].shape[0] == len(frames)
    assert len(list((tmp_path / "out.partial").iterdir())) == len(frames)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"whole.mkv", "cut.mkv", "out.partial.mp4", "out.partial"}


def test_a_disk_that_fills_up_leaves_nothing(tmp_path):
    # A limit on the size of files fails as a full disk does, in the middle of a write.
    code = """
import resource, sys
import numpy as np
from v2v_jax.errors import DataError
from v2v_jax.media.video_writer import VideoWriter

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
rng = np.random.default_rng(0)
try:
    with VideoWriter(sys.argv[1]) as writer:
        for _ in range(200):
            writer.add(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        writer.finish()
except DataError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out.mp4")], capture_output=True, text=True
    )
    assert "Cannot write" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PIL.Image.Image, "save", full)
    output = parse_output(str(tmp_path / "out/%d.png"), TASKS["color"])
    with pytest.raises(DataError, match="No space left on device.*make room"):
        predict_to_files(COPY, open_source(noise(9, 8, 8, 3)), output)
    assert list(tmp_path.iterdir()) == []


def test_pictures_of_all_kinds_as_frames(tmp_path):
    frames = smooth(12, 20, 30)
    for number, frame in enumerate(frames):
        PIL.Image.fromarray(frame).save(tmp_path / f"{number}.png")  # 2 comes before 10
    np.testing.assert_array_equal(COPY(tmp_path), frames)
    gray = frames[0, ..., 0]
    PIL.Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "12.png")
    PIL.Image.fromarray(gray).save(tmp_path / "13.png")
    PIL.Image.fromarray(np.dstack([frames[1], gray])).save(tmp_path / "14.png")
    PIL.Image.fromarray(frames[2]).quantize(256).save(tmp_path / "15.png")  # a palette
    result = COPY(tmp_path)
    np.testing.assert_array_equal(result[12], np.repeat(gray[..., None], 3, -1))
    np.testing.assert_array_equal(result[13], result[12])
    np.testing.assert_array_equal(result[14], frames[1])
    assert np.abs(result[15].astype(int) - frames[2]).mean() < 12
    (tmp_path / "16.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="16.png cannot be read"):
        COPY(tmp_path)


@needs_real_data
def test_real_videos(tmp_path):
    for name in ("carphone_pristine.mp4", "mmaction2_demo.mp4"):
        stream = VideoStream(Path(REAL, "videos", name))
        frames = np.stack(list(itertools.islice(stream, 20)))
        expected, _ = read_video(Path(REAL, "videos", name), 0, 20)
        np.testing.assert_array_equal(frames, expected)
    clip = sorted(Path(REAL, "ucf101").rglob("*.avi"))[0]
    frames = np.stack(list(VideoStream(clip)))
    np.testing.assert_array_equal(frames, read_video(clip)[0])


MEMORY = """
import resource, sys
import jax.numpy as jnp
import numpy as np
from tests.networks import stub
from v2v_jax.inference.predictor import Predictor
from v2v_jax.tasks import Flow

network = stub(lambda p, v: v[..., :2] / 255.0, Flow())
frame = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
count = sum(1 for _ in Predictor(network).stream(frame.copy() for _ in range(int(sys.argv[1]))))
assert count == int(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_stream():
    peak = {}
    for length in (500, 10_000):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(length)], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        peak[length] = int(done.stdout)
    assert peak[10_000] < 1.1 * peak[500], peak
