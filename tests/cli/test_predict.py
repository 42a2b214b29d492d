"""predict.py: every form of output, sound, speed, bad input, and what is left when it breaks."""

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
from v2v_jax.cli import commands, predict
from v2v_jax.errors import ConfigError, CorruptVideoError, DataError
from v2v_jax.inference.output_files import Drawing, parse_output, predict_to_files
from v2v_jax.inference.predictor import Predictor
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


def smooth(t: int, h: int, w: int) -> np.ndarray:
    """(T,h,w,3) colours that a codec keeps nearly as they are."""
    x = np.indices((t, h, w)).astype(np.float64)
    colors = [120 + 80 * np.sin(x[1] / 9 + x[0] / 5), 90 + x[2] * 120 / w, 60 + x[1] * 150 / h]
    return np.stack(colors, -1).astype(np.uint8)


def with_sound(path: Path, frames: np.ndarray, codec: str = "aac", fps: int = 10) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps)
        video.pix_fmt, (video.height, video.width) = "yuv420p", frames.shape[1:3]
        sound = container.add_stream(codec, rate=48000)
        tone = (3000 * np.sin(np.arange(4800) / 20)).astype(np.int16)
        for number, frame in enumerate(frames):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            part = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
            part.sample_rate, part.pts, part.time_base = 48000, number * 4800, Fraction(1, 48000)
            container.mux(sound.encode(part))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))


def sound_seconds(path: Path) -> float | None:
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        rate = container.streams.audio[0].rate
        return sum(frame.samples for frame in container.decode(audio=0)) / rate


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

    def write(task, values, pattern, **options):
        apply = lambda p, v: v.astype(jnp.float32)[..., : values[0]] * values[1]
        predictor = Predictor(stub(apply, TASKS[task]), scale="native")
        output = parse_output(str(tmp_path / pattern), TASKS[task], **options)
        assert predict_to_files(predictor, open_source(video), output, **options) == 11
        assert len(list((tmp_path / pattern).parent.iterdir())) == 11
        kinds = dict(probabilities=True) if options else {}
        return np.concatenate([chunk.values for chunk in predictor.chunks(video, **kinds)])

    labels = write("segmentation", (3, 1 / 255), "labels/%03d.png")
    np.testing.assert_array_equal(PIL.Image.open(tmp_path / "labels/010.png"), labels[10])
    probabilities = write("segmentation", (3, 1 / 255), "p/%d.npz", probabilities=True)
    with np.load(tmp_path / "p/7.npz") as arrays:
        np.testing.assert_array_equal(arrays["probabilities"], probabilities[7])
        np.testing.assert_array_equal(arrays["labels"], labels[7])
    for name in ("flo/%05d.flo", "kitti/%05d.png", "pfm/%05d.pfm"):
        flow = write("flow", (2, 0.25), name)
        read, valid = read_flow(tmp_path / (name % 10))
        assert valid.all()
        np.testing.assert_allclose(read, flow[10], atol=1 / 64)
    depth = write("depth", (1, 0.5), "depth/%05d.png")
    steps = np.asarray(PIL.Image.open(tmp_path / "depth/00004.png"))
    np.testing.assert_allclose(steps / 256, depth[4], atol=1 / 512 + 1e-6)
    write("color", (3, 1 / 255), "rgb/%05d.png")
    np.testing.assert_array_equal(PIL.Image.open(tmp_path / "rgb/00000.png"), video[0])


@pytest.mark.parametrize(
    "output, task, message",
    [
        ("out.avi", "flow", "NAME.mp4"),
        ("folder", "flow", "NAME.mp4"),
        ("out/%05d.flo", "segmentation", ".png, .npz, not .flo"),
        ("out/%05d.jpg", "color", "not .jpg"),
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
    expected = colors.overlay(video, labels, 8)
    assert np.abs(overlay.astype(int) - expected).max() <= 1
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
    with pytest.raises(DataError, match="the disk is full"):
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


# ------------------------------------------------------------------------------------------------
# The program


@pytest.fixture
def run(monkeypatch, capsys):
    """predict.py with the copying network: exit status, what it printed, its errors."""

    def start(*arguments, load=None):
        monkeypatch.setattr(predict, "_load", load or (lambda options: COPY))
        monkeypatch.setattr("v2v_jax.system.compilation_cache.enable", lambda: None)
        status = commands.execute(["predict", "--checkpoint=x", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return start


def test_one_video(tmp_path, run):
    write_video(tmp_path / "in.mp4", smooth(40, 20, 30), fps=5)
    arguments = f"--video={tmp_path / 'in.mp4'}", f"--output={tmp_path / 'out.mp4'}"
    status, out, err = run(*arguments)
    assert status == 0, err
    assert "40 frames in" in out and "fps with I/O" in out and "after the first result" in out
    assert read_video(tmp_path / "out.mp4")[1] == 5
    before = (tmp_path / "out.mp4").read_bytes()
    status, out, err = run(*arguments)
    assert status == 1 and "exists" in err and err.count("\n") == 1
    assert (tmp_path / "out.mp4").read_bytes() == before
    assert run(*arguments, "--overwrite", "--view=side_by_side")[0] == 0
    assert read_video(tmp_path / "out.mp4")[0].shape == (40, 20, 64, 3)


def test_frames_replace_frames_and_nothing_else(tmp_path, run):
    (tmp_path / "out").mkdir()
    for name in ("00090.png", "notes.txt"):
        (tmp_path / "out" / name).write_text("old")
    write_video(tmp_path / "in.mp4", smooth(3, 20, 30))
    arguments = f"--video={tmp_path / 'in.mp4'}", f"--output={tmp_path / 'out' / '%05d.png'}"
    assert run(*arguments)[0] == 1
    assert run(*arguments, "--overwrite")[0] == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["00000.png", "00001.png", "00002.png", "notes.txt"]


@pytest.mark.parametrize(
    "video, output, message",
    [
        ("missing.mp4", "out.mp4", "does not exist"),
        ("text.mp4", "out.mp4", "cannot be read"),
        ("empty", "out.mp4", "holds neither videos nor"),
        ("videos", "out.mp4", "needs {name}"),
        ("in.mp4", "no/such/out.mp4", "does not exist"),
        ("in.mp4", "out.webm", "Unsupported --output"),
    ],
)
def test_mistakes_are_one_clear_sentence(tmp_path, run, video, output, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "videos").mkdir()
    (tmp_path / "text.mp4").write_text("hello")
    write_video(tmp_path / "in.mp4", smooth(3, 20, 30))
    write_video(tmp_path / "videos" / "in.mp4", smooth(3, 20, 30))
    before = sorted(tmp_path.rglob("*"))
    status, _, err = run(f"--video={tmp_path / video}", f"--output={tmp_path / output}")
    assert status == 1 and message in err and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_videos_each_once_and_failures_at_the_end(tmp_path, run):
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    for name in ("a.mp4", "deep/b.mp4"):
        write_video(tmp_path / "videos" / name, smooth(9, 20, 30))
    (tmp_path / "videos" / "broken.mp4").write_text("hello")
    arguments = f"--video={tmp_path / 'videos'}", f"--output={tmp_path / 'out' / '{name}.mp4'}"
    status, out, _ = run(*arguments)
    assert status == 1 and "2 done (18 frames" in out and "failed: broken:" in out
    made = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.mp4"))
    assert made == ["a.mp4", "deep/b.mp4"]
    status, out, _ = run(*arguments)
    assert status == 1 and "0 done" in out and "2 were there" in out
    assert "2 done" in run(*arguments, "--overwrite", "--threads=2")[1]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def make_videos(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / name, smooth(2, 20, 30))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_source_in_the_output_s_folder_stays(tmp_path, run, overwrite):
    """walk.mp4 has its frames in walk/, where another video and other files lie."""
    videos = tmp_path / "videos"
    make_videos(videos, "walk.mp4", "walk/part2.mp4")
    (videos / "walk" / "notes.txt").write_text("mine")
    (videos / "walk" / "00007.png").write_text("of an earlier, longer video")
    before = contents(videos)
    arguments = f"--video={videos}", f"--output={videos}/{{name}}/%05d.png"
    options = ["--overwrite"] * overwrite
    status, out, err = run(*arguments, *options)
    assert status == 0 and "2 done (4 frames" in out, out + err
    frames = {f"walk/{part}0000{i}.png" for part in ("", "part2/") for i in range(2)}
    after = contents(videos)
    assert after.keys() == before.keys() - {"walk/00007.png"} | frames
    assert all(after[name] == before[name] for name in before.keys() - {"walk/00007.png"})
    status, out, _ = run(*arguments)
    assert status == 0 and "0 done" in out and "2 were there" in out
    assert "2 done" in run(*arguments, "--overwrite")[1]
    assert contents(videos) == after


def test_frames_that_were_not_all_put_in_place_are_not_there(tmp_path, run, monkeypatch):
    make_videos(tmp_path, "videos/walk.mp4")
    target = tmp_path / "out" / "walk"
    target.mkdir(parents=True)
    (target / "notes.txt").write_text("mine")
    arguments = f"--video={tmp_path / 'videos'}", f"--output={tmp_path}/out/{{name}}/%d.png"
    replace, moved = os.replace, []

    def breaking(source, destination):
        if moved:
            raise OSError(5, "Input/output error", str(destination))
        moved.append(destination)
        replace(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", breaking)
        status, out, _ = run(*arguments)
    assert status == 1 and "failed: walk: Input/output error" in out and len(moved) == 1
    assert "1 done" in run(*arguments)[1]
    assert sorted(path.name for path in target.iterdir()) == ["0.png", "1.png", "notes.txt"]


def test_outputs_among_the_videos_are_not_read_back(tmp_path, run):
    make_videos(tmp_path, "videos/a.mp4", "videos/deep/b.mp4")
    videos = tmp_path / "videos"
    inside = f"--video={videos}", f"--output={videos}/out/{{name}}.mp4"
    assert "2 done" in run(*inside)[1]
    assert "0 done" in (second := run(*inside))[1] and "2 were there" in second[1]
    assert "2 done" in run(*inside, "--overwrite")[1]
    assert contents(videos).keys() == {"a.mp4", "deep/b.mp4", "out/a.mp4", "out/deep/b.mp4"}
    (tmp_path / "videos" / "out" / "a.mp4").unlink()
    (tmp_path / "videos" / "out" / "deep" / "b.mp4").unlink()

    beside = f"--video={videos}", f"--output={videos}/{{name}}_seg.mp4"
    assert "2 done" in run(*beside)[1]
    before = contents(videos)
    assert "2 were there" in run(*beside)[1]
    status, _, err = run(*beside, "--overwrite")  # it may as well be a video of the user's
    assert status == 1 and "would replace" in err and "among the videos" in err
    assert contents(videos) == before and "deep/b_seg.mp4" in before


def test_a_video_is_never_its_own_output(tmp_path, run):
    make_videos(tmp_path, "videos/a.mp4", "in.mp4", "cut.partial.mp4")
    (tmp_path / "frames").mkdir()
    PIL.Image.fromarray(smooth(1, 20, 30)[0]).save(tmp_path / "frames" / "00000.png")
    os.symlink(tmp_path / "in.mp4", tmp_path / "link.mp4")
    before = contents(tmp_path)
    for video, output in [
        ("videos", "videos/{name}.mp4"),
        ("in.mp4", "in.mp4"),
        ("in.mp4", "link.mp4"),
        ("cut.partial.mp4", "cut.mp4"),  # where the first frames of a damaged one would go
        ("frames", "frames/%05d.png"),
    ]:
        status, _, err = run(
            f"--video={tmp_path / video}", f"--output={tmp_path / output}", "--overwrite"
        )
        assert status == 1 and "would replace" in err and err.count("\n") == 1, err
    assert contents(tmp_path) == before


def test_hidden_files_are_no_videos(tmp_path, run):
    videos = tmp_path / "videos"
    make_videos(videos, "clip.mp4")
    for name in ("._clip.mp4", f".clip.{'0' * 32}.part.mp4"):
        (videos / name).write_bytes(b"\0\5\x16\7" + bytes(60))
    status, out, err = run(f"--video={videos}", f"--output={tmp_path}/out/{{name}}.mp4")
    assert status == 0 and "1 done (2 frames" in out, out + err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.mp4"]


def test_per_cent_signs_in_names(tmp_path, run):
    make_videos(tmp_path, "in.mp4", "videos/100%d.mp4")
    status, _, err = run(f"--video={tmp_path}/in.mp4", f"--output={tmp_path}/f/50%_%05d.png")
    assert status == 0, err
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == ["50%_00000.png", "50%_00001.png"]
    for form, made in (("{name}.mp4", "100%d.mp4"), ("{name}/%d.png", "100%d/1.png")):
        status, out, _ = run(f"--video={tmp_path}/videos", f"--output={tmp_path}/out/{form}")
        assert status == 0 and (tmp_path / "out" / made).is_file(), out


def test_frames_of_all_videos_need_folders_of_their_own(tmp_path, run):
    make_videos(tmp_path, "videos/a.mp4")
    status, _, err = run(f"--video={tmp_path}/videos", f"--output={tmp_path}/out/{{name}}_%d.png")
    assert status == 1 and "belongs into the folder's name" in err and err.count("\n") == 1


def test_the_program_itself(trained, tmp_path):
    write_video(tmp_path / "in.mp4", smooth(5, 40, 50))
    arguments = [f"--checkpoint={trained('seg').workdir}", f"--video={tmp_path / 'in.mp4'}"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "predict.py"), *arguments, f"--output={tmp_path / 'out.mp4'}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "fps with I/O" in done.stdout, done.stderr
    assert read_video(tmp_path / "out.mp4")[0].shape == (5, 40, 50, 3)


@pytest.mark.slow
def test_the_program_itself_over_ray(trained, tmp_path):
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'v2v_jax[ray]'")
    lengths = {"a": 3, "b": 5, "deep/c": 9, "deep/d": 4}
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    for name, length in lengths.items():
        write_video(tmp_path / "videos" / f"{name}.mp4", smooth(length, 40, 50))
    (tmp_path / "videos" / "broken.mp4").write_text("hello")
    command = [sys.executable, str(ROOT / "predict.py"), "--ray=local", "--workers=2"]
    command += [f"--checkpoint={trained('seg').workdir}", "--video=videos"]
    command += ["--output=out/{name}.mp4"]  # relative: workers must understand it as this does

    def start():
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True, text=True,
        )  # fmt: skip
        found = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*")}
        return done, found

    done, outputs = start()
    assert done.returncode == 1, done.stderr
    assert "4 done (21 frames" in done.stdout and "0 were there, 1 failed" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("failed: broken: ")
    assert outputs.keys() == {tmp_path / "out" / f"{name}.mp4" for name in lengths}
    for name, length in lengths.items():
        assert read_video(tmp_path / "out" / f"{name}.mp4")[0].shape == (length, 40, 50, 3)
    done, again = start()
    assert done.returncode == 1 and "0 done (0 frames" in done.stdout, done.stderr
    assert "4 were there, 1 failed" in done.stdout and again == outputs


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
