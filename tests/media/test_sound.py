"""Sound beside written video: copied where MP4 holds it, else encoded, and never in the way."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition

from v2v_jax.media.video_writer import VideoWriter

SECONDS = 1.2


def write_sound(path, codec, rate=48000, layout="stereo", container=None):
    """A file with a tone alone; its name's extension says of which container."""
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        kind, channels = stream.codec_context.format, len(stream.codec_context.layout.channels)
        samples = int(SECONDS * rate)
        tone = np.sin(2 * np.pi * 440 * np.arange(samples) / rate) / 2
        scale, dtype = {"flt": (1, "f4"), "s16": (2**15 - 1, "i2"), "s32": (2**31 - 1, "i4")}[
            kind.name.removesuffix("p")
        ]
        values = np.repeat((tone * scale).astype(dtype)[None], channels, axis=0)
        size = stream.codec_context.frame_size or 1024
        for start in range(0, samples, size):
            part = values[:, start : start + size]
            part = part if kind.is_planar else part.T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(part), format=kind.name, layout=layout
            )
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def write_with_sound(tmp_path, source, frames=25):
    path = tmp_path / "out.mp4"
    with VideoWriter(path, 25, sound_of=source) as writer:
        for _ in range(frames):
            writer.add(np.zeros((32, 48, 3), np.uint8))
        writer.finish()
    return path


def packets(path):
    with av.open(str(path)) as file:
        return [bytes(p) for p in file.demux(audio=0) if p.size]


def heard(path):
    """(codec, rate, seconds, loudness) of a file's sound; None without."""
    with av.open(str(path)) as file:
        if not file.streams.audio:
            return None
        stream = file.streams.audio[0]
        frames = [f.to_ndarray().astype(np.float64) for f in file.decode(stream)]
        samples = sum(f.shape[1] for f in frames)
        codec = stream.codec_context.codec.canonical_name
        return codec, stream.rate, samples / stream.rate, np.abs(np.concatenate(frames, 1)).max()


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        ("aac", "a.mp4"),
        ("libmp3lame", "a.mp3"),
        ("ac3", "a.mkv"),
        ("eac3", "a.mkv"),
        ("flac", "a.flac"),
        ("libopus", "a.webm"),
        ("alac", "a.mov"),
    ],
)
def test_sound_that_mp4_holds_is_copied_bit_by_bit(tmp_path, codec, name):
    source = write_sound(tmp_path / name, codec)
    copied = packets(write_with_sound(tmp_path, source))
    original = packets(source)
    assert copied and len(original) * 0.7 < len(copied) <= len(original)  # 1 s of 1.2 s
    skipped = next(i for i, packet in enumerate(original) if packet == copied[0])
    assert skipped <= 1  # what a decoder needs before the beginning
    assert copied == original[skipped : skipped + len(copied)]


@pytest.mark.parametrize(
    ("codec", "rate", "layout", "name", "written"),
    [
        ("pcm_s16le", 192_000, "stereo", "a.wav", 48_000),
        ("pcm_s16le", 5_512, "mono", "a.wav", 8_000),
        ("pcm_s32le", 96_000, "stereo", "a.mkv", 48_000),
        ("pcm_s16le", 44_100, "5.1", "a.mkv", 44_100),
        ("pcm_mulaw", 8_000, "mono", "a.wav", 8_000),
        ("mp2", 22_050, "mono", "a.mpg", 22_050),
    ],
)
def test_other_sound_becomes_aac(tmp_path, codec, rate, layout, name, written):
    source = write_sound(tmp_path / name, codec, rate, layout)
    codec, found, seconds, loudness = heard(write_with_sound(tmp_path, source))
    assert (codec, found) == ("aac", written)
    assert abs(seconds - 1) < 0.1 and 0.1 < loudness < 1.5


def damage(path, at):
    data = bytearray(path.read_bytes())
    begin = int(at * len(data))
    data[begin : begin + 400] = bytes(400)
    path.write_bytes(data)
    return path


def test_a_format_that_ffmpeg_has_no_decoder_for(tmp_path, caplog):
    source = write_sound(tmp_path / "a.mkv", "ac3")
    source.write_bytes(source.read_bytes().replace(b"A_AC3", b"A_XC3"))
    assert heard(write_with_sound(tmp_path, source)) is None
    [record] = caplog.records
    assert "a.mkv is left out (FFmpeg has no decoder for it)" in record.getMessage()


def test_damaged_sound_ends_or_goes_on_but_the_video_is_written(tmp_path):
    for name, codec in (("a.mpg", "mp2"), ("a.flac", "flac"), ("a.wav", "pcm_s16le")):
        source = damage(write_sound(tmp_path / name, codec), 0.5)
        with av.open(str(write_with_sound(tmp_path, source))) as file:
            assert sum(1 for _ in file.decode(video=0)) == 25


@pytest.mark.parametrize(
    ("name", "default", "expected"),
    [
        ("a.mkv", 1, "stereo"),
        ("a.mkv", 0, "mono"),
        ("a.mp4", 1, "stereo"),
        ("a.mov", 0, "mono"),
        ("a.ts", None, "stereo"),  # which has no default: the best one
    ],
)
def test_one_of_several_tracks_is_the_sound(tmp_path, name, default, expected):
    """A commentary in one channel before the film's sound, and subtitles."""
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    layouts = ("mono", "stereo")
    with av.open(str(tmp_path / name), "w") as file:
        video = file.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        tracks = [file.add_stream("aac", rate=48000, layout=layout) for layout in layouts]
        subtitles = None
        if name == "a.mkv":
            with av.open(str(tmp_path / "a.srt")) as text:
                subtitles = file.add_stream_from_template(text.streams[0])
                lines = [packet for packet in text.demux() if packet.size]
        for number, track in enumerate(tracks):
            if default is not None:
                track.disposition = Disposition.default if number == default else Disposition(0)
        for packet in lines if subtitles else ():
            packet.stream = subtitles
            file.mux(packet)
        for _ in range(25):
            black = av.VideoFrame.from_ndarray(np.zeros((32, 48, 3), np.uint8), format="rgb24")
            file.mux(video.encode(black))
        file.mux(video.encode(None))
        for track, layout in zip(tracks, layouts, strict=True):
            values = np.zeros((len(track.layout.channels), 48000), np.float32)
            sound = av.AudioFrame.from_ndarray(values, format="fltp", layout=layout)
            sound.sample_rate, sound.pts = 48000, 0
            for part in (sound, None):
                file.mux(track.encode(part))
    with av.open(str(write_with_sound(tmp_path, tmp_path / name))) as written:
        assert [stream.type for stream in written.streams] == ["video", "audio"]
        assert written.streams.audio[0].layout.name == expected


def test_no_sound_and_no_file(tmp_path, caplog):
    silent = write_with_sound(tmp_path, None)
    assert heard(write_with_sound(tmp_path, silent.rename(tmp_path / "silent.mp4"))) is None
    assert caplog.records == []
    assert heard(write_with_sound(tmp_path, tmp_path / "none.mp4")) is None
    assert "none.mp4 is left out (No such file" in caplog.records[0].getMessage()


def test_only_files_are_opened(tmp_path, caplog):
    """A playlist would lead to other files, or addresses."""
    inner = write_sound(tmp_path / "a.mp4", "aac")
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{inner}\n#EXT-X-ENDLIST\n")
    assert heard(write_with_sound(tmp_path, playlist)) is None
    assert "list.m3u8 is left out" in caplog.records[0].getMessage()


def write_flash_and_tone(path, begin, offset):
    """Pictures from `begin` on (s), white at begin + 0.5; a tone at the same time, in a stream of
    sound that begins `offset` after the pictures."""
    flash, rate = 0.5, 48000
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=25, options={"bf": "0"})
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        sound = file.add_stream("aac", rate=rate)
        samples = np.arange(int(1.2 * rate)) / rate + offset
        tone = np.where((samples >= flash) & (samples < flash + 0.1), 0.5, 0)
        tone = (tone * np.sin(2 * np.pi * 440 * samples)).astype(np.float32)
        pictures = [np.full((32, 48, 3), 255 * (k / 25 == flash), np.uint8) for k in range(25)]
        for k, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = k + round(25 * begin), Fraction(1, 25)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        for start in range(0, len(samples), 1024):
            part = np.stack([tone[start : start + 1024]] * 2)
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = start + round((begin + offset) * rate)
            file.mux(sound.encode(frame))
        file.mux(sound.encode(None))
    return path


@pytest.mark.parametrize("name", ["a.ts", "a.mkv", "a.mp4", "a.mov"])
@pytest.mark.parametrize(("begin", "offset"), [(0, 0), (3, 0), (3, -0.2), (2, 0.3)])
def test_sound_stays_with_its_picture(tmp_path, name, begin, offset):
    """Files that do not begin at 0, sound that begins before or after the pictures."""
    source = write_flash_and_tone(tmp_path / name, begin, offset)
    with av.open(str(write_with_sound(tmp_path, source))) as file:
        loud = []
        for frame in file.decode(audio=0):
            level = np.abs(frame.to_ndarray()).max(0)
            loud += (frame.time + np.flatnonzero(level > 0.2) / frame.sample_rate).tolist()
    assert 0.47 < loud[0] < 0.53 and loud[-1] < 0.68


def test_names_with_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_sound(tmp_path / "at 12:30.mp4", "aac")
    with VideoWriter("out 12:30.mp4", 25, sound_of="at 12:30.mp4") as writer:
        for _ in range(25):
            writer.add(np.zeros((32, 48, 3), np.uint8))
        writer.finish()
    codec, *_ = heard(tmp_path / "out 12:30.mp4")
    assert codec == "aac"
