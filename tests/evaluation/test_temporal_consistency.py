"""Warp errors against slow float64 loops, on motion that is known, and with Brox's flow."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import temporal_consistency as experiment
from v2v_jax.datasets.scenes import Scenes
from v2v_jax.evaluation import temporal_consistency
from v2v_jax.evaluation.temporal_consistency import (
    brox_motion,
    color_changes,
    forward_backward_valid,
    label_changes,
)
from v2v_jax.inference.network import read_network
from v2v_jax.inference.predictor import Predictor

pytestmark = pytest.mark.usefixtures("compilation_cache")


def slow_changes(frames, flow, valid, interpolate):
    """Voxel by voxel: the sum of the differences along the flow, and how many were compared."""
    t, h, w = frames.shape[:3]
    total, count = 0.0, 0
    for i in range(t - 1):
        for y in range(h):
            for x in range(w):
                if not valid[i, y, x]:
                    continue
                u, v = (float(f) for f in flow[i, y, x])
                if not (0 <= x + u <= w - 1 and 0 <= y + v <= h - 1):
                    continue
                value = interpolate(frames[i + 1], x + u, y + v)
                total += difference(value, frames[i, y, x])
                count += 1
    return total, count


def difference(a, b):
    return math.dist(a, b) if np.ndim(a) else float(a != b)


def nearest(frame, x, y):
    return frame[math.floor(y + 0.5), math.floor(x + 0.5)]


def mixed(frame, x, y):
    """The four neighbours weighted by the area opposite; those of weight 0 may lie outside."""
    result = np.zeros(3)
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            weight = (1 - abs(y - i)) * (1 - abs(x - j))
            if weight > 0:
                result += weight * frame[i, j].astype(np.float64)
    return result


def random_case(seed, shape, dtype=np.float32):
    rng = np.random.default_rng(seed)
    flow = (2 * rng.standard_normal((*shape, 2))).astype(dtype)
    flow[rng.random(shape) < 0.2] = 0.5  # half way between voxels
    flow[rng.random(shape) < 0.2] = -1
    valid = rng.random(shape) < 0.8
    flow[~valid] = np.nan
    labels = rng.integers(0, 3, shape).astype(np.uint8)
    colors = rng.random((*shape, 3))
    return labels, colors, flow, valid


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 7), st.integers(1, 7),
    st.sampled_from([np.float16, np.float32, np.float64]),
)  # fmt: skip
def test_changes_equal_slow_loops(seed, t, h, w, dtype):
    labels, colors, flow, valid = random_case(seed, (t, h, w), dtype)
    assert label_changes(labels, flow, valid) == slow_changes(labels, flow, valid, nearest)
    total, count = slow_changes(colors, flow, valid, mixed)
    found = color_changes(colors, flow, valid)
    assert found[1] == count and found[0] == pytest.approx(total, rel=1e-9, abs=1e-12)
    # The last frame's flow leads nowhere: with and without it is the same.
    assert label_changes(labels, flow[: t - 1], valid[: t - 1]) == label_changes(
        labels, flow, valid
    )


def translated(u, v, t=5, h=20, w=24, seed=0):
    """A (T,H,W,3) uint8 video of a wide texture that moves by (u,v) pixels a frame."""
    rng = np.random.default_rng(seed)
    margin = t * max(abs(u), abs(v))
    wide = rng.integers(0, 256, (h + 2 * margin, w + 2 * margin, 3)).astype(np.uint8)
    cut = lambda i: wide[margin - i * v :, margin - i * u :][:h, :w]
    return np.stack([cut(i) for i in range(t)])


@pytest.mark.parametrize("u, v", [(0, 0), (2, 0), (0, -3), (-1, 2)])
def test_a_translation_is_perfectly_consistent_along_its_flow_only(u, v):
    video = translated(u, v)
    labels = video[..., 0] // 64
    shape = video.shape[:3]
    flow = np.broadcast_to(np.float32([u, v]), (*shape, 2))
    valid = np.ones(shape, bool)
    counted = 4 * (20 - abs(v)) * (24 - abs(u))
    assert label_changes(labels, flow, valid) == (0, counted)
    assert color_changes(video, flow, valid) == (0.0, counted)
    wrong = np.broadcast_to(np.float32([u + 1, v]), (*shape, 2))
    changed, of = label_changes(labels, wrong, valid)
    assert changed / of > 0.5
    distance, of = color_changes(video, wrong, valid)
    assert distance / of > 0.3
    # One flickering frame disturbs the two pairs that it is in.
    labels[2] = 7
    changed, of = label_changes(labels, flow, valid)
    assert changed == of // 2
    # Bytes and numbers of 0..1 are the same colours.
    noise = np.random.default_rng(1).integers(0, 256, video.shape).astype(np.uint8)
    assert color_changes(noise, flow, valid) == color_changes(noise / 255, flow, valid)


def test_nothing_to_compare_in_a_single_frame_or_without_valid_flow():
    labels, colors, flow, valid = random_case(0, (1, 4, 5))
    assert label_changes(labels, flow, valid) == (0, 0)
    assert color_changes(colors, flow, valid) == (0.0, 0)
    labels, colors, flow, valid = random_case(0, (3, 4, 5))
    assert color_changes(colors, flow, np.zeros_like(valid)) == (0.0, 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda labels, flow, valid: (labels[..., None], flow, valid),
        lambda labels, flow, valid: (labels, flow[:, :3], valid[:, :3]),
        lambda labels, flow, valid: (labels, flow, valid[1:]),
        lambda labels, flow, valid: (labels, flow[:1], valid[:1]),
        lambda labels, flow, valid: (labels, flow, valid.astype(np.uint8)),
        lambda labels, flow, valid: (labels[:0], flow[:0], valid[:0]),
    ],
)
def test_shapes_that_do_not_fit(change):
    labels, _, flow, valid = random_case(0, (4, 5, 6))
    with pytest.raises(ValueError, match=r"The frames are \("):
        label_changes(*change(labels, flow, valid))


def test_forward_and_backward_flow_must_agree():
    """A square moves right over a still background: what it covers has no counterpart."""
    forward, backward = np.zeros((2, 1, 12, 16, 2), np.float32)
    forward[0, 4:8, 4:8, 0] = 4
    backward[0, 4:8, 8:12, 0] = -4
    expected = np.ones((1, 12, 16), bool)
    expected[0, 4:8, 8:12] = False  # still background, then the square
    np.testing.assert_array_equal(forward_backward_valid(forward, backward), expected)
    forward[0, 0, 15] = (1, 0)  # leaves the frame
    forward[0, 1, 0] = np.nan
    expected[0, 0, 15] = expected[0, 1, 0] = False
    np.testing.assert_array_equal(forward_backward_valid(forward, backward), expected)


@pytest.mark.slow  # compiles Brox's method
def test_brox_flow_finds_the_motion_to_warp_along(monkeypatch):
    """A smooth texture that moves: true and estimated flow give nearly the same warp error."""
    y, x = np.mgrid[:48, :64].astype(np.float64)
    pattern = lambda x, y: np.stack([np.sin(x / 5 + k) * np.cos(y / 4 - k) for k in range(3)], -1)
    frames = [pattern(x - 1.25 * i, y + 0.75 * i) for i in range(4)]
    video = np.rint(127.5 + 120 * np.stack(frames)).astype(np.uint8)
    monkeypatch.setattr(temporal_consistency, "_PAIRS_AT_ONCE", 2)  # three pairs: one is padded
    flow, valid = brox_motion(video)
    assert flow.shape == (3, 48, 64, 2) and valid.shape == (3, 48, 64)
    assert valid[:, 8:-8, 8:-8].all()
    np.testing.assert_allclose(flow[:, 8:-8, 8:-8].mean((0, 1, 2)), [1.25, -0.75], atol=0.08)
    distance, count = color_changes(video, flow, valid)
    still, of = color_changes(video, np.zeros_like(flow), np.ones_like(valid))
    assert distance / count < 0.1 * still / of


@pytest.mark.slow
@pytest.mark.parametrize("name, flow", [("seg", "auto"), ("color", "brox")])
def test_experiment_measures_every_way_of_a_run(trained, tmp_path, capsys, name, flow):
    run = trained(name)
    output = tmp_path / "new" / "consistency.json"
    arguments = [str(run.workdir), "--videos=2", "--frames=10", f"--flow={flow}"]
    experiment.main([*arguments, f"--output={output}"])
    (result,) = json.loads(output.read_text())
    assert result["videos"] == 2
    assert result["flow"] == ("the dataset's" if flow == "auto" else "Brox's")
    ways = ["truth", "frame by frame", "windows of 8, end to end", "windows of 8, overlapping"]
    assert list(result["ways"]) == ways
    printed = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "0." in line]
    predictor = Predictor(read_network(run.workdir))
    dataset = Scenes("test", num_videos=3, num_frames=12, frame_size=(48, 64))
    totals = np.zeros((2, 4))
    for video in (0, 2):  # spread over the three
        clip = dataset.read(video, 0, 10, ("video", "labels", "flow", "flow_valid"))
        motion = clip["flow"], clip["flow_valid"]
        if flow == "brox":
            motion = brox_motion(clip["video"])
        frames = [predictor(clip["video"][t : t + 1])[0] for t in range(10)]
        for i, predicted in enumerate((np.stack(frames), predictor(clip["video"]))):
            if name == "seg":
                right = (predicted == clip["labels"]).sum()
                totals[i] += *label_changes(predicted, *motion), right, predicted.size
            else:
                distance = np.linalg.norm((predicted / 255.0) - clip["video"] / 255.0, axis=-1)
                totals[i] += *color_changes(predicted, *motion), distance.sum(), distance.size
    for i, way in enumerate((ways[1], ways[3])):
        found = result["ways"][way]
        change, score = totals[i, 0] / totals[i, 1], totals[i, 2] / totals[i, 3]
        assert found["change"] == pytest.approx(change) and found["score"] == pytest.approx(score)
        assert found["voxels"] == totals[i, 1] > 1000
        assert [way, f"{change:.4f}", f"{score:.4f} |"] in [line[1:] for line in printed]
    exact = result["ways"]["truth"]
    if name == "seg":  # labels of scenes follow their motion exactly; colours are interpolated
        assert exact["score"] == 1 and exact["change"] == 0
    else:
        assert exact["score"] == 0 and 0 < exact["change"] < 0.3


def test_experiment_refuses_other_tasks_in_one_sentence(trained, capsys):
    run = trained("flow")
    with pytest.raises(SystemExit) as stopped:
        experiment.main([str(run.workdir)])
    assert stopped.value.code == 1
    message = capsys.readouterr().err
    assert "is for the task flow; known: segmentation, color" in message
    assert message.count("\n") == 1
