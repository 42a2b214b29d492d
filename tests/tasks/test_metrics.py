"""Metrics: exact counts, pooled ratios, and nothing that depends on how clips are batched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from v2v_jax.tasks import metrics

K = 5
CLIP = (2, 3, 4)
few = settings(max_examples=10, deadline=None)
confusion_of = jax.jit(metrics.confusion_matrix, static_argnums=3)
distance_of = jax.jit(metrics.distance_sums)


def labelled(seed, clips=7):
    """True and predicted labels of some clips, part of the voxels ignored (255)."""
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(0, K, (2, clips, *CLIP)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.2] = 255
    return labels, predictions


@few
@given(st.integers(0, 2**31))
def test_confusion_matrix_equals_reference(seed):
    labels, predictions = labelled(seed)
    valid = labels != 255
    valid[4:] = False  # clips that only pad the batch
    found = confusion_of(labels, predictions, valid, K)
    assert found.dtype == jnp.int32 and found.shape == (K, K)
    np.testing.assert_array_equal(found, reference.confusion_matrix(labels, predictions, valid, K))


def test_rows_are_the_truth():
    labels, predictions = np.full((1, *CLIP), 1), np.full((1, *CLIP), 3)
    found = confusion_of(labels, predictions, np.ones(labels.shape, bool), K)
    assert found[1, 3] == found.sum() == np.prod(CLIP)


def test_confusion_matrix_of_a_large_clip_is_exact():
    labels = np.zeros((1, 16, 112, 112), np.uint8)
    labels[0, 0, 0, 0] = 1
    found = confusion_of(labels, np.zeros_like(labels), np.ones(labels.shape, bool), 2)
    np.testing.assert_array_equal(found, [[16 * 112 * 112 - 1, 0], [1, 0]])


@few
@given(st.integers(0, 2**31))
def test_ratios_equal_their_definitions(seed):
    labels, predictions = labelled(seed)
    labels[labels == 2] = 255  # so that class 2 does not occur …
    labels[labels == 3], predictions[predictions == 3] = 0, 0  # … and 3 is not even predicted
    predictions.flat[0] = 2
    valid = labels != 255
    valid.flat[0] = True
    labels.flat[0] = 0
    confusion = metrics.add(None, {"c": confusion_of(labels, predictions, valid, K)})["c"]
    truth, guess = labels[valid], predictions[valid]
    assert metrics.accuracy(confusion) == np.mean(truth == guess)
    assert metrics.majority_accuracy(confusion) == max(np.mean(truth == k) for k in range(K))
    recall, iou = [], []
    for k in range(K):
        both, either = np.sum((truth == k) & (guess == k)), np.sum((truth == k) | (guess == k))
        recall.append(np.nan if k in (2, 3) else both / np.sum(truth == k))
        iou.append(np.nan if k == 3 else both / either)
    np.testing.assert_allclose(metrics.per_class_accuracy(confusion), recall, rtol=1e-12)
    np.testing.assert_allclose(metrics.intersection_over_union(confusion), iou, rtol=1e-12)
    assert iou[2] == 0  # predicted without occurring: wrong, not unknown
    np.testing.assert_allclose(metrics.mean_iou(confusion), np.mean([iou[k] for k in (0, 1, 2, 4)]))


def test_iou_is_pooled_over_batches():
    """Class 1 is missed in one of two batches: a mean of the batches' values would be another."""
    first, second = np.array([[10, 0], [0, 0]]), np.array([[5, 0], [4, 1]])
    pooled = metrics.mean_iou(first + second)
    assert pooled == pytest.approx((15 / 19 + 1 / 5) / 2)
    average = (metrics.mean_iou(first) + metrics.mean_iou(second)) / 2
    assert abs(average - pooled) > 0.1


def test_nothing_counted_is_nan_without_a_warning(recwarn):
    empty = np.zeros((K, K), np.int64)
    for value in (
        metrics.accuracy(empty),
        metrics.mean_iou(empty),
        metrics.ratio(0.0, 0),
        metrics.majority_accuracy(empty),
        metrics.mean_of_known(np.full(3, np.nan)),
    ):
        assert isinstance(value, float) and np.isnan(value)
    assert np.isnan(metrics.per_class_accuracy(empty)).all()
    assert np.isnan(metrics.intersection_over_union(empty)).all()
    assert metrics.mean_of_known(np.array([1.0, np.nan, 2.0])) == 1.5
    assert not recwarn.list


@pytest.mark.parametrize("channels", [2, 3])  # EPE, ADE
def test_distances_equal_reference(channels):
    rng = np.random.default_rng(channels)
    prediction, target = rng.standard_normal((2, 6, *CLIP, channels)).astype(np.float32)
    valid = rng.random((6, *CLIP)) < 0.6
    target[~valid] = np.nan
    sums = distance_of(prediction, target, valid)
    assert sums.shape == (6,) and sums.dtype == jnp.float32
    total = metrics.add(None, {"distance": sums, "count": jax.jit(metrics.count)(valid)})
    assert total["count"] == valid.sum()
    found = metrics.ratio(total["distance"], total["count"])
    assert found == pytest.approx(reference.mean_distance(prediction, target, valid), rel=1e-6)


def test_a_distance_is_the_length_of_the_difference():
    prediction, target = np.zeros((1, 1, 1, 1, 2)), np.array([3.0, -4.0]).reshape(1, 1, 1, 1, 2)
    np.testing.assert_allclose(distance_of(prediction, target, np.ones((1, 1, 1, 1), bool)), [5])


@pytest.mark.parametrize("sizes", [(4, 4, 4), (1,) * 7, (3, 2, 5), (8,)])
def test_sums_do_not_depend_on_the_batches(sizes):
    """Seven clips at once, and in batches of any size, the rest padded and masked."""
    labels, predictions = labelled(3)
    rng = np.random.default_rng(4)
    flow, truth = rng.standard_normal((2, 7, *CLIP, 2)).astype(np.float32)

    def sums(rows, mask):
        valid = (labels[rows] != 255) & mask[:, None, None, None]
        return {
            "confusion": confusion_of(labels[rows], predictions[rows], valid, K),
            "distance": distance_of(flow[rows], truth[rows], valid),
            "count": metrics.count(valid),
        }

    whole = metrics.add(None, sums(np.arange(7), np.ones(7, bool)))
    total, first = None, 0
    for size in sizes:
        rows = np.arange(first, first + size)
        total = metrics.add(total, sums(np.where(rows < 7, rows, 0), rows < 7))
        first += size
    assert first >= 7
    np.testing.assert_array_equal(total["confusion"], whole["confusion"])
    assert total["count"] == whole["count"] == (labels != 255).sum()
    assert total["distance"] == pytest.approx(whole["distance"], rel=1e-6)
    assert metrics.mean_iou(total["confusion"]) == metrics.mean_iou(whole["confusion"])


def test_totals_stay_exact_beyond_float32_and_int32():
    """2^24 + 1 is no float32; 2^31 is no int32: the host adds in int64 and float64."""
    batch = {
        "confusion": jnp.array([[2**24 + 1, 0], [1, 2**30]], jnp.int32),
        "count": jnp.array([2**30, 2**30, 2**30 + 1], jnp.int32),
        "distance": jnp.array([2.0**24, 1.0], jnp.float32),
    }
    total = None
    for _ in range(5):
        total = metrics.add(total, batch)
    np.testing.assert_array_equal(total["confusion"], [[5 * (2**24 + 1), 0], [5, 5 * 2**30]])
    assert total["confusion"].dtype == np.int64
    assert total["count"] == 5 * (3 * 2**30 + 1)
    assert total["distance"] == 5 * (2.0**24 + 1)
