"""v2v predict: one video or a folder of them, mistakes, and that no file of the user's is lost."""

import os
import subprocess
import sys

import av
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from tests.networks import stub
from tests.tiny import ROOT
from tests.videos import contents, make_videos, smooth
from v2v_jax.cli import commands, predict
from v2v_jax.inference.predictor import Predictor
from v2v_jax.media.video import read_video, write_video
from v2v_jax.tasks import Flow

COPY = Predictor(stub(None), scale="native")


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
    assert "40 frames in" in out and "frames/s with I/O" in out and "after the first result" in out
    assert read_video(tmp_path / "out.mp4")[1] == 5
    before = (tmp_path / "out.mp4").read_bytes()
    status, out, err = run(*arguments)
    assert status == 1 and "exists" in err and err.count("\n") == 1
    assert (tmp_path / "out.mp4").read_bytes() == before
    assert run(*arguments, "--overwrite", "--view=side_by_side")[0] == 0
    assert read_video(tmp_path / "out.mp4")[0].shape == (40, 20, 64, 3)


def test_presets_of_the_encoder(tmp_path, run):
    """Of one video and of a folder of them: the quicker ones write larger files."""
    make_videos(tmp_path, "videos/in.mp4")
    write_video(tmp_path / "videos" / "in.mp4", smooth(24, 96, 96))
    for number, video in enumerate(("videos/in.mp4", "videos")):
        sizes = []
        for options in (("--preset=ultrafast",), (), ("--preset=slow",)):
            folder = tmp_path / f"{number}{len(sizes)}"
            folder.mkdir()
            output = folder / ("{name}.mp4" if number else "in.mp4")
            arguments = f"--video={tmp_path / video}", f"--output={output}", *options
            assert run(*arguments)[0] == 0
            assert len(read_video(folder / "in.mp4")[0]) == 24
            sizes.append((folder / "in.mp4").stat().st_size)
        assert len(set(sizes)) == 3 and sizes[0] == max(sizes)
    status, _, err = run("--video=x", "--output=y.mp4", "--preset=best")
    assert status == 2 and "preset" in err


def test_the_legend_can_be_left_out(tmp_path, run):
    """Of one video and of a folder of them; what it says is tested with the views."""
    flow = Predictor(stub(lambda p, v: v[..., :2] / 255.0, Flow()), scale="native")
    make_videos(tmp_path, "videos/in.mp4")
    write_video(tmp_path / "videos" / "in.mp4", smooth(3, 80, 96))
    for number, video in enumerate(("videos/in.mp4", "videos")):
        for legend, height in (((), 110), (("--legend=yes",), 110), (("--legend=no",), 80)):
            output = tmp_path / f"{number}{len(legend)}{height}" / "{name}.mp4"
            output.parent.mkdir()
            name = "in" if number else "{name}"
            arguments = f"--video={tmp_path / video}", f"--output={output}"
            assert run(*arguments, *legend, load=lambda options: flow)[0] == 0
            shape = read_video(output.with_name(f"{name}.mp4"))[0].shape
            assert shape[::2] == (3, 96) and (shape[1] == 80) == (height == 80)
    status, _, err = run("--video=x", "--output=y.mp4", "--legend=maybe")
    assert status == 2 and "legend" in err


def test_one_scale_for_several_videos(tmp_path, run):
    """The stub's flow is 1 px a frame: full colour at 1, a quarter of it at 4."""
    constant = stub(lambda p, v: v[..., :2] * 0 + jnp.array([1.0, 0.0]), Flow())
    flow = Predictor(constant, scale="native")
    make_videos(tmp_path, "videos/in.mp4")
    video = np.zeros((3, 80, 96, 3), np.uint8)
    write_video(tmp_path / "videos" / "in.mp4", video)
    options = "--view=plain", f"--video={tmp_path / 'videos'}", "--overwrite"
    for scale, green in (("1", 0), ("4", 191)):
        arguments = f"--output={tmp_path / '{name}.mp4'}", f"--color_scale={scale}"
        assert run(*options, *arguments, load=lambda options: flow)[0] == 0
        shown = read_video(tmp_path / "in.mp4")[0][:, 40, 48]
        assert np.abs(shown - (255.0, green, green)).max() < 8
    video = tmp_path / "videos" / "in.mp4"
    options = f"--video={video}", f"--output={tmp_path / 'out.mp4'}", "--color_scale=-1"
    status, _, err = run(*options, load=lambda options: flow)
    assert status == 1 and "takes --color_scale=SPEED" in err and err.count("\n") == 1


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
        ("in.mp4", "text.mp4/out.mp4", "text.mp4 is no folder"),
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
    failed = f"failed: walk: {target / '0.png'} cannot be used (Input/output error); check the disk"
    assert status == 1 and failed in out and len(moved) == 1
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


def test_an_output_beside_the_frames_is_not_read_back(tmp_path, run):
    """The folder of frames stays one, however often they are predicted to a video in it."""
    frames = tmp_path / "frames"
    frames.mkdir()
    for number, frame in enumerate(smooth(3, 20, 30)):
        PIL.Image.fromarray(frame).save(frames / f"{number}.png")
    (frames / "out.partial.mp4").write_bytes(b"of a run that broke off")
    arguments = f"--video={frames}", f"--output={frames / 'out.mp4'}"
    for options in ((), ("--overwrite",)):
        status, out, err = run(*arguments, *options)
        assert status == 0 and "3 frames" in out, err
    status, _, err = run(f"--video={frames}", f"--output={tmp_path / 'other.mp4'}")
    assert status == 1 and "folder of videos (out.mp4, out.partial.mp4)" in err


def test_what_is_left_of_a_damaged_video_is_not_read_back(tmp_path, run):
    make_videos(tmp_path, "videos/a.mp4", "videos/b_seg.partial.mp4", "videos/c.partial.mp4")
    (tmp_path / "videos" / "b.mp4").write_text("hello")
    arguments = f"--video={tmp_path}/videos", f"--output={tmp_path}/videos/{{name}}_seg.mp4"
    status, out, _ = run(*arguments)
    assert status == 1 and "2 done" in out and "1 failed" in out
    made = contents(tmp_path / "videos").keys()
    assert "c.partial_seg.mp4" in made and "b_seg.partial_seg.mp4" not in made


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


def test_videos_that_differ_in_their_extension_alone(tmp_path, run):
    """As a camera's 1.mts and 1.mp4; the names of the others stay."""
    make_videos(tmp_path, "videos/1.mp4", "videos/2.mp4", "videos/deep/1.mp4")
    os.link(tmp_path / "videos" / "1.mp4", tmp_path / "videos" / "1.mov")
    for output, made in (
        ("out/{name}.mp4", {"1.mp4.mp4", "1.mov.mp4", "2.mp4", "deep/1.mp4"}),
        ("frames/{name}/%d.png", {"1.mp4/0.png", "1.mov/0.png", "2/0.png", "deep/1/0.png"}),
        ("videos/out/{name}.mp4", {"1.mp4.mp4", "1.mov.mp4", "2.mp4", "deep/1.mp4"}),
    ):
        for done in ("4 done", "0 done"):
            status, out, err = run(f"--video={tmp_path}/videos", f"--output={tmp_path}/{output}")
            assert status == 0 and done in out, out + err
        folder = tmp_path / output.partition("/{name}")[0]
        assert {name for name in contents(folder) if not name.endswith("1.png")} == made
    status, out, err = run(f"--video={tmp_path}/videos", f"--output={tmp_path}/videos/{{name}}.mp4")
    assert status == 1 and "would replace" in err


def test_names_of_any_code(tmp_path, run):
    """Names are bytes to Linux, of Latin-1 or Shift-JIS where an old archive was unpacked."""
    make_videos(tmp_path, "videos/a.mp4")
    names = [b"caf\xe9.mp4", b"\x82\xa0.mp4", b"back\\slash.mp4", b"[red]new\nline.mp4"]
    for name in names:
        os.link(tmp_path / "videos" / "a.mp4", os.path.join(os.fsencode(tmp_path), b"videos", name))
    status, out, err = run(f"--video={tmp_path}/videos", f"--output={tmp_path}/out/{{name}}.mp4")
    assert status == 0, out + err
    assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == sorted([b"a.mp4", *names])
    one = os.fsdecode(names[0])
    status, out, err = run(f"--video={tmp_path}/videos/{one}", f"--output={tmp_path}/{one}")
    assert status == 0 and os.path.isfile(tmp_path / one), out + err


def test_colons_in_names(tmp_path, run, monkeypatch):
    """What stands before a colon is no protocol."""
    make_videos(tmp_path, "clip-12:30.mp4")
    monkeypatch.chdir(tmp_path)
    status, _, err = run("--video=clip-12:30.mp4", "--output=out-12:30.mp4")
    assert status == 0, err
    assert read_video("out-12:30.mp4")[0].shape == (2, 20, 30, 3)


def test_frame_rates_that_an_mp4_cannot_have(tmp_path, run):
    make_videos(tmp_path, "in.mp4")
    fast = tmp_path / "fast.mp4"
    with av.open(str(fast), "w") as container:
        stream = container.add_stream("libx264", rate=2000)
        stream.pix_fmt, (stream.height, stream.width) = "yuv420p", (20, 30)
        for frame in smooth(3, 20, 30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    before = contents(tmp_path)
    output = f"--output={tmp_path / 'out.mp4'}"
    for fps in ("0.0001", "1000", "nan"):
        status, _, err = run(f"--video={tmp_path / 'in.mp4'}", f"--fps={fps}", output)
        assert status == 1 and "--fps" in err and err.count("\n") == 1
    assert contents(tmp_path) == before
    assert run(f"--video={fast}", output)[0] == 0  # its own, of 2000 frames a second
    assert read_video(tmp_path / "out.mp4")[1] == 2000
    assert run(f"--video={fast}", output, "--fps=25", "--overwrite")[0] == 0
    assert read_video(tmp_path / "out.mp4")[1] == 25


def test_a_name_that_is_too_long(tmp_path, run):
    make_videos(tmp_path, "in.mp4")
    status, _, err = run(f"--video={tmp_path}/in.mp4", f"--output={tmp_path}/{'y' * 252}.mp4")
    assert status == 1 and "(File name too long); choose a shorter name." in err
    assert err.count("\n") == 1 and contents(tmp_path).keys() == {"in.mp4"}
    longest = f"{'y' * 251}.mp4"  # that there may be, with no room for .partial
    assert run(f"--video={tmp_path}/in.mp4", f"--output={tmp_path}/{longest}")[0] == 0
    assert contents(tmp_path).keys() == {"in.mp4", longest}


def test_frames_of_all_videos_need_folders_of_their_own(tmp_path, run):
    make_videos(tmp_path, "videos/a.mp4")
    status, _, err = run(f"--video={tmp_path}/videos", f"--output={tmp_path}/out/{{name}}_%d.png")
    assert status == 1 and "belongs into the folder's name" in err and err.count("\n") == 1


@pytest.mark.slow
def test_the_program_itself(trained, tmp_path):
    write_video(tmp_path / "in.mp4", smooth(5, 40, 50))
    arguments = [f"--checkpoint={trained('seg').workdir}", f"--video={tmp_path / 'in.mp4'}"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "predict.py"), *arguments, f"--output={tmp_path / 'out.mp4'}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "frames/s with I/O" in done.stdout, done.stderr
    assert read_video(tmp_path / "out.mp4")[0].shape == (5, 40, 50, 3)


@pytest.mark.slow  # labels by several processes are tested quickly (tests/labelling)
def test_several_processes_write_the_same_files(trained, tmp_path, capsys):
    """Byte for byte; and a broken video costs no other."""
    lengths = {"a": 3, "b": 5, "deep/c": 9}
    for name, length in lengths.items():
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / "videos" / f"{name}.mp4", smooth(length, 40, 50))
    (tmp_path / "videos" / "broken.mp4").write_text("hello")
    workdir, found = trained("seg").workdir, []
    capsys.readouterr()
    for how in (["--processes=1"], ["--processes=2", "--threads=2"]):
        out = tmp_path / f"out{len(how)}"
        command = ["predict", f"--checkpoint={workdir}", *how]
        command += [f"--video={tmp_path / 'videos'}", f"--output={out}/{{name}}/%d.png"]
        assert commands.execute(command) == 1
        printed = capsys.readouterr().out
        assert "3 done (17 frames" in printed and "0 were there, 1 failed" in printed
        assert printed.splitlines()[-1].startswith("failed: broken: ")
        found.append(contents(out))
    assert found[0] == found[1]
    pictures = [name for name in found[0] if name.endswith(".png")]
    assert len(pictures) == sum(lengths.values())


def test_a_process_that_cannot_load_the_weights_says_why(tmp_path, capsys):
    make_videos(tmp_path, "videos/a.mp4", "videos/b.mp4")
    command = [f"--video={tmp_path}/videos", f"--output={tmp_path}/{{name}}.mp4", "--processes=2"]
    sentences = []
    for processes in ("--processes=1", "--processes=2"):
        arguments = [f"--checkpoint={tmp_path}/none", *command, processes]
        assert commands.execute(["predict", *arguments]) == 1
        sentences.append(capsys.readouterr().err)
    assert sentences[0] == sentences[1] and sentences[0].count("\n") == 1


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
