"""Table 3, distillation and flow pictures: pooling, tables, and whole runs on tiny data."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments import distillation, flow_methods, flow_pictures, table3
from tests import reference
from tests.sintel_files import make_sequence
from v2v_jax.media.flow_files import write_flow
from v2v_jax.tasks import flow_metrics

SIZE = (20, 36)


def some_flows(seed: int, frames: int):
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 20, (frames, *SIZE, 2)).astype(np.float32)
    found = truth + rng.normal(0, 4, truth.shape).astype(np.float32)
    valid, occluded = rng.random((2, frames, *SIZE)) < 0.6
    return found, truth, valid, occluded


def test_scores_are_pooled_over_voxels():
    parts = [some_flows(0, 1), some_flows(1, 3)]
    scores = [flow_methods.Score() for _ in parts]
    assert not scores[0].counted
    for score, part in zip(scores, parts):
        for frame in zip(*part):  # one frame, (H,W,…), or several, (T,H,W,…): no matter
            score.add(*frame)
    whole = flow_methods.Score()
    for part in parts:
        whole.add(*part)
    pooled = [np.concatenate(arrays) for arrays in zip(*parts)]
    expected = reference.flow_metrics(*pooled, (1, 1))
    assert (scores[0] + scores[1]).values() == pytest.approx(expected, rel=1e-5)
    assert whole.values() == pytest.approx(expected, rel=1e-5)


def test_tables_show_what_is_known():
    score = flow_methods.Score()
    score.add(*some_flows(0, 1)[:3])
    values = score.values() | {"epe_s40+": float("nan")}
    text = table3.markdown({"zero flow": values})
    assert "| paper: V2V | 8.86 | | |" in text and "matched" not in text
    assert f"| zero flow | {values['epe_native']:.2f} |" in text and "| – |" in text
    assert f"{100 * values['fl_all']:.1f} %" in text
    assert set(values) <= set(table3.COLUMNS)
    rows = {"UCF101": dict.fromkeys(distillation.COMPARISONS, float("nan")) | {"x": 1.0}}
    assert "| UCF101 | – | – | – | – | – | 1.000 |" in distillation.markdown(rows)


def make_texture(root, name: str, count: int) -> None:
    """A Sintel sequence whose frames are a texture that moves by its true flow, (2, -1)."""
    make_sequence(root, name, range(1, count + 1), flows=(), passes=("clean",))
    rng = np.random.default_rng(len(name))
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8))
    texture = np.asarray(coarse.resize((160, 120), Image.Resampling.BICUBIC))
    for k in range(1, count + 1):
        top, left = 40 + k, 60 - 2 * k
        frame = texture[top : top + 64, left : left + 96]
        Image.fromarray(frame).save(root / f"training/clean/{name}/frame_{k:04d}.png")
    for k in range(1, count):
        folder = root / "training"
        (folder / "flow" / name).mkdir(parents=True, exist_ok=True)
        flow = np.broadcast_to(np.float32([2, -1]), (64, 96, 2))
        write_flow(folder / "flow" / name / f"frame_{k:04d}.flo", flow)
        for kind in ("invalid", "occlusions"):
            (folder / kind / name).mkdir(parents=True, exist_ok=True)
            mask = np.zeros((64, 96), np.uint8)
            Image.fromarray(mask).save(folder / kind / name / f"frame_{k:04d}.png")


def test_scenes_for_distillation():
    [(frames, indices, flow, valid)] = distillation.scenes(1, 3)
    assert frames.shape == (3, 128, 171, 3) and indices == [0, 1]
    assert flow.shape == (2, 128, 171, 2) and valid.shape == (2, 128, 171)


@pytest.mark.slow
def test_whole_runs(tmp_path, trained, capsys):
    """The teacher finds a texture's motion; zero flow's error is its length."""
    for name, count in (("alley_1", 16), ("cave_4", 16), ("short", 3)):
        make_texture(tmp_path / "sintel", name, count)
    run = trained("flow").workdir
    common = [f"--network={run}", f"--sintel={tmp_path}/sintel", "--render_pass=clean"]
    options = ["--partial", "--folds=2", "--steps=2", "--batch_size=2", f"--workdir={tmp_path}/t3"]
    table3.main([*common, *options])
    printed = json.loads((tmp_path / "t3/table3.json").read_text())
    rows = printed["rows"]
    assert printed["sequences"] == ["alley_1", "cave_4", "short"]
    assert list(rows) == [
        "zero flow",
        *flow_methods.TEACHERS,
        "V2V",
        "V2V, fine-tuned by 2-fold cross-validation",
    ]
    assert rows["zero flow"]["epe_native"] == pytest.approx(np.hypot(2, 1), rel=1e-5)
    for name in flow_methods.TEACHERS:
        assert rows[name]["epe_native"] < 0.5
    assert all(np.isfinite(row["epe_native"]) for row in rows.values())
    assert rows["V2V"]["epe_s10-40"] is None  # nothing is so fast
    assert (tmp_path / "t3/table3.md").read_text() in capsys.readouterr().out
    output = [f"--output={tmp_path}/out", "--partial"]
    distillation.main([*common, *output, "--scenes=0"])
    rows = json.loads((tmp_path / "out/distillation.json").read_text())["rows"]
    assert rows["Sintel"]["zero – truth"] == pytest.approx(np.hypot(2, 1), rel=1e-5)
    assert rows["Sintel"]["teacher – truth"] < 0.5
    assert all(np.isfinite(v) for values in rows.values() for v in values.values())
    flow_pictures.main([*common, *output, "--rows=2"])
    assert Image.open(tmp_path / "out/flow_sintel.png").size[0] > 4 * 96


def test_every_metric_has_a_column():
    score = flow_methods.Score()
    score.add(*some_flows(0, 1))
    assert set(score.values()) == set(table3.COLUMNS)
    assert [f"epe_{name}" in table3.COLUMNS for name in flow_metrics.SPEEDS] == [True] * 3
