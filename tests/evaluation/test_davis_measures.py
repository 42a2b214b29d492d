"""DAVIS's measures against a slow transcription of their definition in float64."""

import math

import numpy as np
import pytest

from v2v_jax.evaluation import davis_measures
from v2v_jax.evaluation.davis_measures import Statistics, measure, statistics, summarize


def slow_contour(mask):
    """By the definition: a pixel that differs from its right, lower or lower right neighbour."""
    h, w = mask.shape
    edge = np.zeros((h, w), bool)
    for y in range(h):
        for x in range(w):
            others = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            inside = [mask[p] for p in others if p[0] < h and p[1] < w]
            edge[y, x] = any(other != mask[y, x] for other in inside)
    return edge


def slow_f(mask, truth):
    """Every boundary pixel against every other one."""
    reach = math.ceil(0.008 * math.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2))
    one, other = (np.argwhere(slow_contour(m)).astype(np.float64) for m in (mask, truth))
    if len(one) == 0 or len(other) == 0:
        return 1.0 if len(one) == len(other) else 0.0
    distance = np.sqrt(((one[:, None] - other[None]) ** 2).sum(-1))
    precision = np.mean(distance.min(1) <= reach)
    recall = np.mean(distance.min(0) <= reach)
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def slow_j(mask, truth):
    either = float(np.sum(mask | truth))
    return 1.0 if either == 0 else float(np.sum(mask & truth)) / either


def blobs(rng, count, size=(45, 60)):
    """Smooth random masks, some empty."""
    h, w = size
    y, x = np.mgrid[:h, :w]
    masks = []
    for _ in range(count):
        place, radius = rng.uniform((0, 0), size), rng.uniform(-3, 18)
        wave = 3 * np.sin(x / 4 + rng.uniform(0, 6))
        masks.append(np.hypot(y - place[0] + wave, x - place[1]) < radius)
    return np.array(masks)


def test_against_the_definition():
    rng = np.random.default_rng(0)
    masks, truth = blobs(rng, 30), blobs(rng, 30)
    masks[:8] = np.roll(truth[:8], 2, axis=2)  # near misses, as a network's are
    masks[8], truth[8] = False, False
    masks[9] = False
    j = [slow_j(m, t) for m, t in zip(masks, truth)]
    f = [slow_f(m, t) for m, t in zip(masks, truth)]
    np.testing.assert_allclose(davis_measures.region(masks, truth), j, atol=1e-12)
    np.testing.assert_allclose(davis_measures.boundary(masks, truth), f, atol=1e-12)
    assert len(set(np.round(f, 6))) > 8 and 0.0 in f and 1.0 in f
    for mask in masks[:12]:
        np.testing.assert_array_equal(davis_measures.contour(mask), slow_contour(mask))


def test_statistics_by_hand():
    # Ten frames: quarters are frames 0..2, 2..5, 5..7 and 7..9 (the benchmark's rounding).
    values = np.array([0.9, 0.9, 0.9, 0.8, 0.5, 0.6, 0.7, 0.3, 0.2, 0.1])
    found = statistics(values)
    assert found.mean == pytest.approx(0.59) and found.recall == 0.6
    assert found.decay == pytest.approx(0.9 - 0.2)


def test_first_and_last_frame_do_not_count():
    truth = blobs(np.random.default_rng(1), 8).astype(np.uint8) * 255
    masks = (truth > 0).astype(np.uint8)
    masks[0] = masks[-1] = 1 - masks[0]
    assert measure(masks, truth) == {name: Statistics(1.0, 1.0, 0.0) for name in ("J", "F")}


def test_sequences_count_alike():
    one, other = Statistics(0.8, 1.0, 0.1), Statistics(0.4, 0.2, -0.1)
    found = summarize({"a": {"J": one, "F": other}, "b": {"J": other, "F": other}})
    assert found["J"] == pytest.approx((0.6, 0.6, 0.0)) and found["F"] == pytest.approx(other)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="expected the same"):
        measure(np.zeros((5, 4, 6)), np.zeros((5, 6, 4)))
    with pytest.raises(ValueError, match="at least three frames"):
        measure(np.zeros((2, 4, 6)), np.zeros((2, 4, 6)))
