"""The measure of a grid: none in noise, as much as was put in."""

import numpy as np

from experiments import grid


def clip(amplitude, period=4, seed=0):
    """A flat truth, and it with noise and a pattern along the rows; (T,H,W,2) and validity."""
    rng = np.random.default_rng(seed)
    truth = np.full((3, 64, 64, 2), 1.5, np.float32)
    pattern = amplitude * np.cos(2 * np.pi * np.arange(64) / period)[:, None]
    prediction = truth + 0.01 * rng.standard_normal(truth.shape) + pattern
    return prediction.astype(np.float32), truth, np.ones((3, 64, 64), bool)


def test_noise_has_no_grid():
    found = grid.measure([clip(0.0)])
    assert found["tiles"] == 27
    assert 0.8 < found["rows"] < 1.25 and 0.8 < found["columns"] < 1.25


def test_a_pattern_is_found_in_its_direction_and_size():
    found = grid.measure([clip(0.05)])
    assert found["rows"] > 100 and 0.8 < found["columns"] < 1.25
    np.testing.assert_allclose(found["rms"], 0.05 / np.sqrt(2), rtol=0.1)


def test_other_periods_are_no_grid():
    assert grid.measure([clip(0.05, period=8)])["rows"] < 2


def test_only_flat_and_known_tiles_count():
    prediction, truth, valid = clip(0.05)
    truth[..., :40, 0] += np.linspace(0, 5, 40, dtype=np.float32)
    valid[:, 40, 50] = False
    assert grid.flat_tiles(truth, valid) == []
    assert grid.measure([(prediction, truth, valid)])["tiles"] == 0
