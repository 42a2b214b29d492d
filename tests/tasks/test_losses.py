"""Losses against their definitions in float64; nothing leaks out of voxels that are not valid."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from v2v_jax.errors import ConfigError
from v2v_jax.tasks import losses

SHAPE = (2, 3, 4, 5)
LOSSES = losses.REGRESSION
LENGTHS = ("distance", "robust")  # one term a voxel, not one a channel
REFERENCES = {
    "huber": reference.huber,
    "half_squared": reference.half_squared,
    "distance": reference.distance,
    "robust": reference.robust,
}
few = settings(max_examples=10, deadline=None)
softmax = jax.jit(losses.softmax_cross_entropy)
softmax_gradient = jax.jit(jax.grad(lambda *args: losses.softmax_cross_entropy(*args)[0]))
jitted = {name: jax.jit(loss) for name, loss in LOSSES.items()}
gradients = {
    name: jax.jit(jax.grad(lambda *args, loss=loss: losses.mean(loss(*args))))
    for name, loss in LOSSES.items()
}


def batch(seed, channels=2):
    """Predictions and targets up to some units apart, and a mask with holes."""
    rng = np.random.default_rng(seed)
    prediction, target = (2 * rng.standard_normal((2, *SHAPE, channels))).astype(np.float32)
    return prediction, target, rng.random(SHAPE) < 0.7


@few
@given(st.integers(0, 2**31))
def test_softmax_equals_reference(seed):
    rng = np.random.default_rng(seed)
    logits = (5 * rng.standard_normal((*SHAPE, 6))).astype(np.float32)
    labels = rng.integers(0, 6, SHAPE).astype(np.uint8)
    valid = rng.random(SHAPE) < 0.7
    labels[~valid] = rng.choice([0, 5, 6, 200, 255], (~valid).sum())
    total, count = softmax(logits, labels, valid)
    expected, number = reference.softmax_cross_entropy(logits, labels, valid)
    assert total.dtype == count.dtype == jnp.float32
    assert count == number == valid.sum()
    np.testing.assert_allclose(total, expected, rtol=1e-5)


WEIGHTS = (0.25, 3.0, 1.0, 0.5, 2.0, 7.0)
WEIGHTED = {
    "softmax": (losses.softmax_cross_entropy, reference.weighted_softmax_cross_entropy),
    "dice": (losses.soft_dice, reference.soft_dice),
}
weighted = {
    name: jax.jit(jax.value_and_grad(functools.partial(loss, class_weights=WEIGHTS), has_aux=True))
    for name, (loss, _) in WEIGHTED.items()
}


@pytest.mark.parametrize("name", WEIGHTED)
@few
@given(st.integers(0, 2**31))
def test_weighted_losses_equal_their_references(name, seed):
    rng = np.random.default_rng(seed)
    logits = (2 * rng.standard_normal((*SHAPE, 6))).astype(np.float32)
    labels = rng.choice([0, 1, 1, 1, 4, 5], SHAPE).astype(np.uint8)  # no clip has 2 or 3
    valid = rng.random(SHAPE) < 0.7
    valid[0] &= labels[0] < 5  # one clip has a class that the other lacks
    labels[~valid] = 255
    (total, count), gradient = weighted[name](logits, labels, valid)
    expected = functools.partial(WEIGHTED[name][1], labels=labels, valid=valid, weights=WEIGHTS)
    np.testing.assert_allclose((total, count), expected(logits), rtol=1e-5)
    assert not np.asarray(gradient)[~valid].any()
    direction = rng.standard_normal(logits.shape)
    slope = reference.derivative(lambda x: expected(x)[0], logits, direction)
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-3, atol=1e-3)


def test_losses_without_weights_are_those_with_equal_ones():
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((*SHAPE, 6)).astype(np.float32)
    labels, valid = rng.integers(0, 6, SHAPE), rng.random(SHAPE) < 0.7
    for loss, _ in WEIGHTED.values():
        np.testing.assert_allclose(
            loss(logits, labels, valid), loss(logits, labels, valid, [1.0] * 6), rtol=1e-6
        )


soft = jax.jit(jax.value_and_grad(losses.soft_cross_entropy, has_aux=True))
soft_weighted = jax.jit(
    jax.value_and_grad(
        functools.partial(losses.soft_cross_entropy, class_weights=WEIGHTS), has_aux=True
    )
)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@few
@given(st.integers(0, 2**31))
def test_soft_targets_equal_their_reference(weights, seed):
    rng = np.random.default_rng(seed)
    logits = (2 * rng.standard_normal((*SHAPE, 6))).astype(np.float32)
    probabilities = rng.integers(0, 256, (*SHAPE, 6), np.uint8)
    probabilities[0, ..., 0, :] = 0  # not known
    valid = rng.random(SHAPE) < 0.7
    expected = functools.partial(
        reference.soft_cross_entropy, probabilities=probabilities, valid=valid, weights=weights
    )
    function = soft if weights is None else soft_weighted
    (total, count), gradient = function(logits, probabilities, valid)
    np.testing.assert_allclose((total, count), expected(logits), rtol=1e-5)
    assert not np.asarray(gradient)[~valid].any()
    assert not np.asarray(gradient)[0, ..., 0, :].any()
    direction = rng.standard_normal(logits.shape)
    slope = reference.derivative(lambda x: expected(x)[0], logits, direction)
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-3, atol=1e-3)


def test_soft_targets_that_are_certain_are_hard_ones():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((*SHAPE, 6)).astype(np.float32)
    labels, valid = rng.integers(0, 6, SHAPE), rng.random(SHAPE) < 0.7
    certain = 255 * np.eye(6, dtype=np.uint8)[labels]
    found = losses.soft_cross_entropy(logits, certain, valid)
    expected = losses.softmax_cross_entropy(logits, labels, valid)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_dice_of_a_perfect_answer_and_of_no_voxels_is_zero():
    labels, valid = np.arange(120).reshape(SHAPE) % 6, np.ones(SHAPE, bool)
    logits = 50 * np.eye(6, dtype=np.float32)[labels]
    total, count = losses.soft_dice(logits, labels, valid)
    assert total < 1e-4 and count == 120
    assert losses.soft_dice(logits, labels, ~valid) == (0, 0)


@few
@given(st.integers(0, 2**31))
def test_softmax_gradient_equals_finite_differences(seed):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((*SHAPE, 6)).astype(np.float32)
    labels, valid = rng.integers(0, 6, SHAPE), rng.random(SHAPE) < 0.7
    labels[~valid] = rng.choice([0, 5, 6, 255], (~valid).sum())
    gradient = np.asarray(softmax_gradient(logits, labels, valid))
    direction = rng.standard_normal(logits.shape)
    expected = reference.derivative(
        lambda x: reference.softmax_cross_entropy(x, labels, valid)[0], logits, direction
    )
    np.testing.assert_allclose((gradient * direction).sum(), expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(gradient[~valid], 0)


def test_softmax_of_huge_logits_is_finite():
    logits = jnp.array([[1e4, -1e4, 0.0]])
    total, _ = softmax(logits, np.array([1]), np.array([True]))
    assert total == 2e4
    assert np.isfinite(softmax_gradient(logits, np.array([1]), np.array([True]))).all()


@pytest.mark.parametrize("name", LOSSES)
@few
@given(st.integers(0, 2**31))
def test_regression_losses_equal_reference(name, seed):
    prediction, target, valid = batch(seed)
    total, count = jitted[name](prediction, target, valid)
    expected, number = REFERENCES[name](prediction, target, valid)
    assert total.dtype == count.dtype == jnp.float32
    assert count == number == (1 if name in LENGTHS else 2) * valid.sum()
    np.testing.assert_allclose(total, expected, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@few
@given(st.integers(0, 2**31))
def test_regression_gradients_equal_finite_differences(name, seed):
    prediction, target, valid = batch(seed)
    gradient = np.asarray(gradients[name](prediction, target, valid))
    direction = np.random.default_rng(seed).standard_normal(prediction.shape)

    def mean(x):
        total, number = REFERENCES[name](x, target, valid)
        return total / number

    expected = reference.derivative(mean, prediction, direction)
    np.testing.assert_allclose((gradient * direction).sum(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", LOSSES)
def test_invalid_targets_reach_neither_loss_nor_gradient(name, bad):
    prediction, target, valid = batch(0)
    expected = jitted[name](prediction, target, valid), gradients[name](prediction, target, valid)
    target[~valid] = bad
    found = jitted[name](prediction, target, valid), gradients[name](prediction, target, valid)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[1][~valid], 0)
    assert np.all(np.asarray(found[1])[valid] != 0)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_targets_are_widened_before_the_difference(name):
    prediction = np.full((1, 1, 1, 1, 1), 1000.25, np.float32)
    target = np.full(prediction.shape, 1000, np.float16)
    total, _ = jitted[name](prediction, target, np.ones((1, 1, 1, 1), bool))
    expected, _ = REFERENCES[name](prediction, target, np.ones((1, 1, 1, 1), bool))
    assert float(total) == pytest.approx(expected, rel=1e-6)


def test_the_distance_is_smooth_where_the_prediction_is_right():
    x = np.zeros((1, 2), np.float32)
    assert losses.distance(x, x, np.ones(1, bool))[0] == 0
    np.testing.assert_array_equal(gradients["distance"](x, x, np.ones(1, bool)), 0)
    slope = gradients["distance"](x + np.float32([3e-4, 4e-4]), x, np.ones(1, bool))
    expected = np.array([3e-4, 4e-4]) / np.hypot(5e-4, 1e-3)
    np.testing.assert_allclose(slope[0], expected, rtol=1e-4)


def test_an_unknown_loss_is_named():
    with pytest.raises(ConfigError, match="task_options.loss is 'l3'; known: huber, half_squared"):
        losses.check("l3")


def test_huber_is_continuous_at_one_in_value_and_slope():
    loss = jax.jit(
        jax.vmap(
            jax.value_and_grad(lambda x: losses.huber(x[None], jnp.zeros(1), jnp.array(True))[0])
        )
    )
    x = np.array([1 - 1e-4, 1.0, 1 + 1e-4, -1 + 1e-4, -1.0, -1 - 1e-4], np.float32)
    value, slope = loss(x)
    np.testing.assert_allclose(value, 0.5, atol=1.1e-4)  # the paper's equation 1 would give 1
    np.testing.assert_allclose(slope, np.clip(x, -1, 1), atol=1e-6)
    value, slope = loss(np.array([3.0, -3.0, 0.0], np.float32))
    np.testing.assert_allclose(value, [2.5, 2.5, 0.0])
    np.testing.assert_allclose(slope, [1.0, -1.0, 0.0])


def test_the_mean_of_nothing_is_zero_and_so_is_its_gradient():
    prediction, target, _ = batch(1)
    nothing = np.zeros(SHAPE, bool)
    target[:] = np.nan
    for name in LOSSES:
        assert losses.mean(jitted[name](prediction, target, nothing)) == 0
        np.testing.assert_array_equal(gradients[name](prediction, target, nothing), 0)
    labels = np.full(SHAPE, 255)
    assert losses.mean(softmax(prediction, labels, nothing)) == 0
    assert losses.mean((jnp.float32(3), jnp.float32(4))) == 0.75
