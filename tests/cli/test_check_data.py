"""check_data: counts against what the data was made of, and every damaged file in its list."""

import argparse
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.gatech_files import make_pictures, save_mask, truth
from tests.tiny import ROOT, tiny_config
from v2v_jax.cli import check_data
from v2v_jax.cli.command_line import execute
from v2v_jax.datasets.scenes import Scenes
from v2v_jax.errors import DataError
from v2v_jax.media.video import write_video


def gatech_config(root, **overrides):
    return tiny_config(
        "seg",
        "dataset=gatech",
        data__root=str(root),
        preprocessing__frame_size=(36, 36),
        **{"data__validation_share": 0.0, **overrides},
    )


def make_gatech(root):
    make_pictures(root)
    make_pictures(root, "Images_test", videos=(1,), count=20)


def test_counts_of_labelled_pictures(tmp_path):
    make_gatech(tmp_path)
    reports = check_data.check(gatech_config(tmp_path))
    train, test = reports["train"], reports["test"]
    assert (train["videos"], train["frames"], train["clips"]) == (2, 34, 2 * 10)
    assert (test["videos"], test["frames"], test["clips"]) == (1, 20, 2)
    assert train["frames of a video"] == [17, 17.0, 17]
    assert train["original sizes"] == {"36x36": 2}
    assert train["problems"] == test["problems"] == []
    # Stripes of equal width: each of the nine values has a ninth of the voxels.
    assert list(train["labels"]) == [*Scenes.label_names, "(ignored)"]
    np.testing.assert_allclose(list(train["labels"].values()), 1 / 9)
    assert train["mean RGB"] == pytest.approx([7 * 9.0] * 3)  # frame n of 1..17 is grey 7n
    spread = np.std(7 * np.arange(1, 18))
    assert train["standard deviation of RGB"] == pytest.approx([spread] * 3)
    assert train["blank videos"] == []


def test_what_is_held_back_is_read_too(tmp_path):
    make_gatech(tmp_path)
    reports = check_data.check(gatech_config(tmp_path, data__validation_share=0.5))
    assert list(reports) == ["train", "validation", "test"]
    assert [report["videos"] for report in reports.values()] == [1, 1, 1]
    names = [name for name in ("2", "10") if truth(tmp_path, f"{name}_5.tiff").exists()]
    for name in names:
        truth(tmp_path, f"{name}_4.tiff").write_bytes(b"II")
    reports = check_data.check(gatech_config(tmp_path, data__validation_share=0.5))
    assert [len(reports[split]["problems"]) for split in ("train", "validation")] == [1, 1]


def test_damaged_files_are_listed_and_the_others_counted(tmp_path):
    make_gatech(tmp_path)
    save_mask(truth(tmp_path, "10_4.tiff"), np.full((36, 36), 12, np.uint8), "index")
    path = tmp_path / "Images_test" / "Original" / "1_3.tiff"
    path.write_bytes(path.read_bytes()[:200])
    reports = check_data.check(gatech_config(tmp_path))
    ((name, reason),) = reports["train"]["problems"]
    assert name == "10" and "10_4.tiff has the number 12 in row 0, column 0" in reason
    ((name, reason),) = reports["test"]["problems"]
    assert name == "1" and "1_3.tiff cannot be read" in reason
    assert reports["train"]["labels"]["sky"] == pytest.approx(1 / 9)


def test_a_reason_is_told_once_with_the_file_and_there_are_pictures(tmp_path, capfd):
    root, out = tmp_path / "videos", tmp_path / "out"
    for name in ("train/v0", "train/v3", "test/v4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / f"{name}.mp4", np.full((17, 36, 48, 3), 90, np.uint8))
    whole = (root / "train" / "v0.mp4").read_bytes()
    (root / "train" / "v2.mp4").write_bytes(whole[: len(whole) // 2])
    data = [f"--config.data.root={root}", "--config.data.validation_share=0.0"]
    config = "--config=color:demo,dataset=folder"
    assert execute(check_data, [config, *data, f"--workdir={out}"], "v2v check-data") == 1
    text = "".join(capfd.readouterr())
    assert text.count("v2.mp4") == 1 and "leaves out" not in text
    assert json.loads((out / "check_data.json").read_text())["train"]["videos"] == 2
    page = (out / "check_data.html").read_text()
    assert "v0.mp4, 17 frames" in page and page.count("data:image/jpeg") == 3
    assert "v2.mp4 cannot be read" in page


def test_data_that_cannot_be_opened(tmp_path):
    make_pictures(tmp_path)
    reports = check_data.check(gatech_config(tmp_path))
    assert reports["train"]["problems"] == []
    ((name, reason),) = reports["test"]["problems"]
    assert "gatech, test split" in name and "Images_test" in reason


@pytest.mark.parametrize(
    "task,field", [("flow", "flow"), pytest.param("depth", "depth", marks=pytest.mark.slow)]
)
def test_distributions_of_rendered_scenes(task, field):
    config = tiny_config(task, data__num_train_videos=2, data__num_test_videos=1)
    report = check_data.check(config)["train"]
    scenes = Scenes("train", num_videos=2, num_frames=12, frame_size=(48, 64))
    frames = [scenes.read(i, 0, 12, scenes.fields) for i in range(2)]
    values = np.concatenate([f[field].reshape(-1, *f[field].shape[3:]) for f in frames])
    values = values.astype(np.float64)
    if task == "flow":
        valid = np.concatenate([f["flow_valid"].ravel() for f in frames])
        values, found = np.linalg.norm(values, axis=-1), report["flow, px"]
    else:
        valid, found = np.isfinite(values), report["depth, m"]
    assert found["valid share"] == pytest.approx(valid.mean())
    values = values[valid]
    for name, expected in {
        "mean": values.mean(),
        "50 %": np.percentile(values, 50),
        "99 %": np.percentile(values, 99),
        "largest": values.max(),
    }.items():
        assert found[name] == pytest.approx(expected, rel=0.02, abs=1e-3), name


def test_classes_of_videos_are_counted():
    config = tiny_config("c3d", data__num_train_videos=5, data__num_test_videos=1)
    report = check_data.check(config)["train"]
    scenes = Scenes("train", num_videos=5, num_frames=12, frame_size=(48, 64))
    counts = dict.fromkeys(scenes.video_label_names, 0)
    for video in range(5):
        counts[scenes.video_label_names[scenes.video_label(video)]] += 1
    assert report["videos of a class"] == counts and report["problems"] == []


def test_blank_videos_are_named(tmp_path):
    make_gatech(tmp_path)
    for path in (tmp_path / "Images" / "Original").glob("2_*"):
        path.write_bytes((tmp_path / "Images" / "Original" / "10_1.tiff").read_bytes())
    assert check_data.check(gatech_config(tmp_path))["train"]["blank videos"] == ["2"]


def test_report_is_printed_and_written(tmp_path, capsys):
    make_gatech(tmp_path / "data")
    config = gatech_config(tmp_path / "data")
    check_data.run(argparse.Namespace(config=config, workdir=str(tmp_path / "report")))
    written = json.loads((tmp_path / "report" / "check_data.json").read_text())
    assert written == json.loads(json.dumps(check_data.check(config)))
    printed = capsys.readouterr().out
    assert "vertical mix" in printed and "11.11%" in printed and "cannot be read" in printed
    truth(tmp_path / "data", "2_5.tiff").write_bytes(b"II")
    with pytest.raises(DataError, match="1 problem found, listed above with what helps"):
        check_data.run(argparse.Namespace(config=config, workdir=None))
    assert "2_5.tiff cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize("damage,status", [(False, 0), (True, 1)])
def test_program(tmp_path, damage, status):
    make_gatech(tmp_path)
    if damage:
        truth(tmp_path, "2_5.tiff").unlink()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "v2v_jax", "check-data"),
            *("--config=seg:dataset=gatech", f"--config.data.root={tmp_path}"),
        ],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    assert ("2_5.* is missing" in done.stdout) == damage
    assert ("Error: 1 problem found" in done.stderr) == damage
