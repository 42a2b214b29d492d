"""The label maker: every pair once, whatever is killed; and the check of labels."""

import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.teachers import (
    MINE,
    SIZE,
    content_flow,
    moving_squares,
)
from v2v_jax.cli import commands
from v2v_jax.errors import ConfigError
from v2v_jax.labelling import teachers
from v2v_jax.labelling.label_maker import LabelSet, check_labels, label_videos
from v2v_jax.media.label_codes import encode_flow
from v2v_jax.media.label_files import StoredLabels, label_path
from v2v_jax.media.video import VideoFile, read_video, write_video
from v2v_jax.system.jobs import Backend

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = ["a.mp4", os.path.join("deep", "b.mp4"), "c.mp4"]
FRAMES = {"a.mp4": 7, "deep/b.mp4": 12, "c.mp4": 5}


def label(*arguments: str) -> int:
    """`v2v label …` in this process; its exit status."""
    return commands.execute(["label", *arguments])


@pytest.fixture
def videos(tmp_path):
    rng = np.random.default_rng(1)
    for name, count in FRAMES.items():
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, rng.integers(0, 255, (count, *SIZE, 3), np.uint8))
    return tmp_path / "videos"


def label_set(videos, teacher=MINE, names=NAMES, **options):
    output = str(videos.parent / "labels")
    return LabelSet(str(videos), names, output, teacher, **{"batch_size": 4, **options})


def check_content(labels, names=NAMES, size=None):
    for name in names:
        frames, _ = read_video(os.path.join(labels.videos, name), size=size)
        read = StoredLabels(label_path(labels.output, name)).read(0, len(frames))
        found, known = read["flow"], read["flow_valid"]
        for t in range(len(frames) - 1):
            np.testing.assert_array_equal(found[t], content_flow(frames[t], frames[t + 1]))
        assert known[:-1].all() and not known[-1].any()


def hidden(folder):
    return [path for path in pathlib.Path(folder).rglob(".*")]


@pytest.mark.parametrize(
    "batch_size, backend",
    [
        *((size, Backend(threads=threads)) for size in (1, 4, 32) for threads in (1, 3)),
        (4, Backend(processes=2)),
    ],
)
def test_every_pair_of_every_video(videos, batch_size, backend):
    labels = label_set(videos, batch_size=batch_size)
    report = label_videos(labels, backend)
    assert sorted(report.done) == sorted(NAMES) and report.status == 0
    assert report.frames == sum(FRAMES.values())
    check_content(labels)
    assert not hidden(labels.output) and check_labels(labels) == []
    assert label_videos(labels, Backend()).skipped == NAMES


def test_a_compiled_teacher_sees_one_shape(videos, monkeypatch):
    shapes = set()

    def encoded(frames, step):
        shapes.add(frames.shape)
        flows = [content_flow(*pair) for pair in zip(frames[:-1], frames[1:])]
        return encode_flow(np.stack(flows), step)

    teacher = teachers.Teacher("compiled", {}, encoded, compiled=True)
    monkeypatch.setitem(teachers.TEACHERS, "compiled", lambda: teacher)
    labels = label_set(videos, "compiled", batch_size=5)
    assert label_videos(labels, Backend()).status == 0
    assert shapes == {(6, *SIZE, 3)}
    check_content(labels)


def test_stream_gives_what_read_gives(videos):
    for name in NAMES:
        for size in (None, (8, 10)):
            video = VideoFile(videos / name)
            streamed = np.stack(list(video.stream(size)))
            np.testing.assert_array_equal(streamed, video.read(0, video.num_frames, size))


def test_computing_at_another_size(videos):
    labels = label_set(videos, size=(8, 12))
    assert label_videos(labels, Backend()).status == 0
    check_content(labels, size=(8, 12))
    info = StoredLabels(label_path(labels.output, "a.mp4")).info
    assert info.size == (8, 12) and info.video_size == SIZE
    assert check_labels(labels) == []


def test_large_flow_takes_the_coarser_step_and_too_large_flow_is_an_error(videos):
    for name, gray in (("a.mp4", 20), ("c.mp4", 220)):
        write_video(videos / name, np.full((5, *SIZE, 3), gray, np.uint8))
    labels = label_set(videos, "tests.teachers:huge_flow", ["a.mp4", "c.mp4"])
    report = label_videos(labels, Backend())
    assert report.done == ["a.mp4"] and report.frames == 5
    ((name, reason),) = report.failed
    assert name == "c.mp4" and "longer than the 1024 px that labels can hold" in reason
    found = StoredLabels(label_path(labels.output, "a.mp4"))
    assert found.info.step == 1 / 32
    np.testing.assert_allclose(found.read(0, 4)["flow"], 700.3, atol=1 / 64)
    assert not hidden(labels.output)


def test_a_damaged_video_costs_only_itself(videos):
    (videos / "c.mp4").write_bytes((videos / "c.mp4").read_bytes()[:900])
    write_video(videos / "one.mp4", np.zeros((1, *SIZE, 3), np.uint8))
    labels = label_set(videos, names=[*NAMES, "one.mp4"])
    report = label_videos(labels, Backend(threads=2))
    assert sorted(report.done) == sorted(NAMES[:2])
    failed = dict(report.failed)
    assert failed.keys() == {"c.mp4", "one.mp4"} and "has one frame" in failed["one.mp4"]
    check_content(labels, NAMES[:2])


def test_names_that_arrays_cannot_have(videos):
    """TensorStore takes a backslash for a folder, and cannot have other codes than UTF-8."""
    odd = ["back\\slash.mp4", "caf\udce9.mp4", "100%5C.mp4", "größe 日本.mp4"]
    for name in odd:
        os.link(videos / "a.mp4", videos / name)
    labels = label_set(videos, names=[*NAMES, *odd])
    report = label_videos(labels, Backend(threads=2))
    assert not report.failed and len(report.done) == len(NAMES) + len(odd)
    check_content(labels, [*NAMES, *odd])
    assert check_labels(labels, threads=1) == [] and not hidden(labels.output)
    written = set(os.listdir(labels.output))
    assert {"back%5Cslash.mp4.flow.zarr", "caf%E9.mp4.flow.zarr"} <= written
    assert {"100%5C.mp4.flow.zarr", "größe 日本.mp4.flow.zarr"} <= written


def test_a_video_is_no_folder_of_videos(videos, tmp_path, capsys):
    assert label(f"--videos={videos / 'a.mp4'}", f"--output={tmp_path / 'x'}") == 1
    assert "a.mp4 is no folder; give a folder of video files" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["back\\slash", "caf\udce9"], ids=["backslash", "code"])
def test_folders_that_arrays_cannot_be_in(videos, name, capsys):
    output = str(videos.parent / name)
    assert label(f"--videos={videos}", f"--output={output}", f"--teacher={MINE}") == 1
    assert "choose or rename the folder" in capsys.readouterr().err
    assert not os.path.exists(output)


def run_program(videos, teacher, *options, **environment):
    command = [sys.executable, "-m", "v2v_jax", "label", f"--videos={videos}"]
    command += [f"--output={videos.parent / 'labels'}", f"--teacher={teacher}", *options]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | environment
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_killed_and_started_again(videos, threads):
    """Nothing is lost or done twice: the result is that of a run that nobody killed."""
    teacher = "tests.teachers:deadly_flow"
    options = ["--batch_size=4", f"--threads={threads}"]
    state = videos.parent / "calls"
    run = lambda: run_program(videos, teacher, *options, DEADLY_FLOW=str(state))
    assert run().returncode == -signal.SIGKILL
    labels = label_set(videos, teacher)
    assert hidden(labels.output), "the killed run left no half output"
    written = {name: label_path(labels.output, name) for name in NAMES}
    before = {n: os.stat(p).st_mtime_ns for n, p in written.items() if os.path.exists(p)}
    assert len(before) < len(NAMES)
    second = run()
    assert second.returncode == 0, second.stderr
    assert f"{len(NAMES) - len(before)} done" in second.stdout
    assert f"{len(before)} were there" in second.stdout
    assert {n: os.stat(written[n]).st_mtime_ns for n in before} == before
    check_content(labels)
    assert not hidden(labels.output) and check_labels(labels) == []
    third = run()
    assert third.returncode == 0 and "0 done" in third.stdout and "3 were there" in third.stdout


def test_check_names_everything_that_is_wrong(videos, capsys):
    for name in ("d.mp4", "e.mp4", "f.mp4", "g.mp4"):
        (videos / name).write_bytes((videos / "a.mp4").read_bytes())
    names = [*NAMES, "d.mp4", "e.mp4", "f.mp4", "g.mp4"]
    labels = label_set(videos, names=names)
    assert label_videos(labels, Backend()).status == 0
    arguments = [f"--videos={videos}", f"--output={labels.output}", "--check"]
    assert label(*arguments) == 0
    assert "7 videos, 0 problems" in capsys.readouterr().out

    path = lambda name: pathlib.Path(label_path(labels.output, name))
    path("a.mp4").rename(path("zz.mp4"))  # a.mp4's are missing, and zz.mp4's belong to nothing
    (shard,) = (p for p in (path("deep/b.mp4") / "c").rglob("*") if p.is_file())
    shard.write_bytes(bytes(len(shard.read_bytes())))
    write_video(videos / "c.mp4", np.zeros((5, *SIZE, 3), np.uint8))
    for name, old, new in (("d.mp4", '"num_frames":7', '"num_frames":8'), ("e.mp4", MINE, "me")):
        text = (path(name) / "zarr.json").read_text()
        assert old in text
        (path(name) / "zarr.json").write_text(text.replace(old, new))
    (path("f.mp4") / "zarr.json").write_text("{")
    half = path("a.mp4").with_name(f".g.mp4.flow.{'0' * 32}.part.zarr")
    half.mkdir()

    assert label(*arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    problems = [line for line in lines if ": " in line and "checking" not in line]
    expected = {
        "missing": "a.mp4",
        "damaged": "b.mp4",
        "changed video": "c.mp4",
        "wrong length": "d.mp4",
        "other teacher": "e.mp4",
        "extra": "zz.mp4",
        "half written": ".g.mp4.flow.",
    }
    for kind, name in expected.items():
        assert any(p.startswith(f"{kind}: ") and name in p for p in problems), (kind, problems)
    assert any(p.startswith("damaged: f.mp4") for p in problems)
    assert len(problems) == 8 and not any(" g.mp4" in p for p in problems)

    # Labelling again puts right what can be told without reading all: the check finds the rest.
    label_videos(labels, Backend())
    kinds = {problem.partition(":")[0] for problem in check_labels(labels)}
    assert kinds == {"damaged", "other teacher", "wrong length", "extra"}


def test_a_folder_of_other_things_is_not_replaced(videos):
    labels = label_set(videos)
    mine = pathlib.Path(label_path(labels.output, "a.mp4"), "notes.txt")
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    report = label_videos(labels, Backend())
    assert [name for name, _ in report.failed] == ["a.mp4"] and len(report.done) == 2
    assert mine.read_text() == "mine"


def test_another_teacher_needs_another_folder(videos):
    labels = label_set(videos)
    label_videos(labels, Backend())
    with pytest.raises(ConfigError, match="holds labels of tests.*content_flow.*another --output"):
        label_videos(label_set(videos, "tests.teachers:slow_flow"), Backend())
    with pytest.raises(ConfigError, match="at size None, not of .* at size"):
        label_videos(label_set(videos, size=(8, 8)), Backend())


def test_teachers_that_cannot_be_used(videos, capsys):
    def fails(*options, teacher="none"):
        output = videos.parent / "x"
        arguments = [f"--videos={videos}", f"--output={output}", f"--teacher={teacher}", *options]
        assert label(*arguments) == 1
        return capsys.readouterr()

    assert "Unknown teacher 'none'; known: brox" in fails().err
    assert "cannot be imported (No module" in fails(teacher="no_module:flow").err
    assert "cannot be imported" in fails(teacher="tests.teachers:none").err
    assert "batch_size is 0" in fails("--batch_size=0", teacher=MINE).err
    wrong = fails(teacher="tests.teachers:wrong_flow").out
    assert "returned float32 (2, 16, 24)" in wrong


def test_bad_arguments(tmp_path, capsys):
    assert label(f"--videos={tmp_path / 'none'}", f"--output={tmp_path}") == 1
    assert "does not exist" in capsys.readouterr().err
    assert label(f"--videos={tmp_path}", f"--output={tmp_path}") == 1
    assert "holds no videos" in capsys.readouterr().err
    for arguments in ([], ["--videos=x"], ["--videos=x", "--output=y", "--size=12"]):
        assert label(*arguments) == 2
    assert "expected HxW" in capsys.readouterr().err
    write_video(tmp_path / "a.mp4", np.zeros((2, *SIZE, 3), np.uint8))
    assert label(f"--videos={tmp_path}", f"--output={tmp_path / 'l'}", "--check") == 1
    assert "is not a folder of labels" in capsys.readouterr().err


def test_dis(tmp_path):
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", moving_squares())
    labels = label_set(tmp_path / "videos", "dis", ["a.mp4"])
    assert label_videos(labels, Backend(threads=2)).status == 0
    found = StoredLabels(label_path(labels.output, "a.mp4")).read(0, 5)["flow"]
    assert np.abs(np.median(found, axis=(0, 1, 2)) - [2, 1]).max() < 0.5


def test_dis_without_opencv(tmp_path, monkeypatch):
    monkeypatch.setattr(teachers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs OpenCV"):
        teachers.make_teacher("dis")


@pytest.mark.slow
def test_brox(tmp_path, compilation_cache):
    """The teacher's labels are those of `brox_flow` on the decoded frames."""
    from v2v_jax.brox.brox_flow import brox_flow, grey_of_rgb

    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", moving_squares())
    labels = label_set(tmp_path / "videos", "brox", ["a.mp4"], batch_size=3)
    assert label_videos(labels, Backend()).status == 0
    read = StoredLabels(label_path(labels.output, "a.mp4")).read(0, 5)
    found, known = read["flow"], read["flow_valid"]
    gray = grey_of_rgb(read_video(tmp_path / "videos" / "a.mp4")[0])
    np.testing.assert_allclose(found, brox_flow(gray[:-1], gray[1:]), atol=1 / 100)
    assert known.all() and np.abs(np.median(found, axis=(0, 1, 2)) - [2, 1]).max() < 0.2
    # Frames that are too small for it are refused, not labelled badly.
    write_video(tmp_path / "videos" / "b.mp4", np.zeros((3, 8, 24, 3), np.uint8))
    report = label_videos(label_set(tmp_path / "videos", "brox", ["b.mp4"]), Backend())
    assert "teacher brox needs 16 pixels a side: use --size" in report.failed[0][1]
