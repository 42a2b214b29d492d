"""Flow metrics against a float64 reference, voxel by voxel, and at their thresholds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from v2v_jax.tasks import flow_metrics, metrics

SHAPE = (3, 2, 4, 5)
SCALE = (6.0, 3.5)
counts_of = jax.jit(flow_metrics.truth_counts, static_argnums=3)
errors_of = jax.jit(flow_metrics.error_sums, static_argnums=4)


def found(prediction, truth, valid, occluded, scale):
    counts = counts_of(truth, valid, occluded, scale)
    errors = errors_of(prediction, truth, valid, occluded, scale)
    return flow_metrics.summarize(metrics.add(None, {**counts, **errors}))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.booleans(), st.sampled_from([0.1, 3.0, 30.0]))
def test_equals_reference(seed, with_occlusion, speed):
    rng = np.random.default_rng(seed)
    truth = (speed * rng.standard_normal((*SHAPE, 2))).astype(np.float32)
    prediction = truth + rng.standard_normal(truth.shape).astype(np.float32)
    valid = rng.random(SHAPE) < 0.7
    truth[~valid] = np.nan
    occluded = rng.random(SHAPE) < 0.4 if with_occlusion else None
    expected = reference.flow_metrics(prediction, truth, valid, occluded, SCALE)
    got = found(prediction, truth, valid, occluded, SCALE)
    assert got.keys() == expected.keys()
    assert got == pytest.approx(expected, rel=1e-4, nan_ok=True)


def one(u: float, v: float):
    return jnp.array([u, v], jnp.float32).reshape(1, 1, 1, 1, 2)


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        ((3, 4), (3, 4), dict(epe_native=0, outliers_1px=0, fl_all=0)),
        # An error of just the threshold is none.
        ((3, 4), (4, 4), dict(epe_native=1, outliers_1px=0)),
        ((3, 4), (4.5, 4), dict(epe_native=1.5, outliers_1px=1, outliers_3px=0)),
        ((0, 0), (3, 0), dict(outliers_3px=0, fl_all=0)),
        ((0, 0), (0, 4), dict(outliers_3px=1, outliers_5px=0, fl_all=1)),
        # KITTI: 4 px is within 5 % of 100 px, and not of 60.
        ((100, 0), (104, 0), dict(outliers_3px=1, fl_all=0)),
        ((60, 0), (64, 0), dict(outliers_3px=1, fl_all=1)),
        # Speeds: 10 belongs to 10-40, 40 to 40+; where there are none the mean is not a number.
        ((10, 0), (12, 0), {"epe_s0-10": np.nan, "epe_s10-40": 2, "epe_s40+": np.nan}),
        ((24, 32), (24, 35), {"epe_s10-40": np.nan, "epe_s40+": 3}),
    ],
)
def test_thresholds(truth, prediction, expected):
    got = found(one(*prediction), one(*truth), np.ones((1, 1, 1, 1), bool), None, (1.0, 1.0))
    assert {name: got[name] for name in expected} == pytest.approx(expected, nan_ok=True)


def test_speeds_are_native():
    """6 px of a frame that was shrunk sixfold are 36 px, and an error of 1 px is one of 6."""
    truth, prediction = one(6, 0), one(7, 0)
    got = found(prediction, truth, np.ones((1, 1, 1, 1), bool), None, (6.0, 3.0))
    assert got["epe_s10-40"] == got["epe_native"] == pytest.approx(6)
    assert np.isnan(got["epe_s0-10"]) and got["outliers_5px"] == 1


def test_sums_are_pooled():
    """Clips of 1 and 3 valid voxels: the mean is over voxels, not over clips."""
    truth = jnp.zeros((2, 1, 1, 3, 2))
    prediction = jnp.zeros_like(truth).at[0, 0, 0, 0, 0].set(8.0)
    valid = jnp.array([[[[True, False, False]]], [[[True, True, True]]]])
    got = found(prediction, truth, valid, None, (1.0, 1.0))
    assert got["epe_native"] == 2 and got["outliers_5px"] == 0.25
    assert counts_of(truth, valid, None, (1.0, 1.0))["count"].tolist() == [1, 3]


def test_nothing_valid_is_not_a_number():
    truth = one(1, 1)
    got = found(truth, truth, np.zeros((1, 1, 1, 1), bool), np.ones((1, 1, 1, 1), bool), SCALE)
    assert all(np.isnan(value) for value in got.values())
