"""A flow network on real video: the measures, on a texture that slides by a known flow."""

import numpy as np
import pytest
import scipy.ndimage

from experiments import real_video


@pytest.fixture(scope="module")
def sliding():
    """Frames (T,H,W,3) that move by (3, -2) pixels a frame, and that flow."""
    rng = np.random.default_rng(0)
    world = scipy.ndimage.gaussian_filter(rng.uniform(0, 255, (90, 110, 3)), (2, 2, 0))
    frames = np.stack([world[10 + 2 * t : 58 + 2 * t, 40 - 3 * t : 104 - 3 * t] for t in range(4)])
    flow = np.broadcast_to(np.float32([3, -2]), (3, 48, 64, 2))
    noisy = np.rint(frames) + rng.integers(0, 2, frames.shape)
    return noisy.astype(np.uint8), flow


def test_the_true_flow_explains_the_frames_and_zero_flow_does_not(sliding):
    frames, flow = sliding
    found = {"clip": np.stack([flow, -flow])}
    result = real_video.evaluate({"clip": frames}, found, found)
    assert result["network to Brox"] == 0
    assert result["zero to Brox"] == pytest.approx(np.hypot(3, 2), rel=1e-6)
    assert 0.3 < result["photometric, network"] < 0.7 < result["photometric, zero"] / 4
    assert result["photometric, of Brox's"] == 1
    # All but what leaves the frame: 3 columns and 2 rows.
    assert result["visible"] == pytest.approx(61 / 64 * 46 / 48, rel=1e-6)
    assert result["share that rests"] == 0


def test_what_does_not_lead_back_is_not_visible(sliding):
    _, flow = sliding
    assert not real_video.visible(flow[0], -flow[0] + 1).any()


def test_the_speed_is_measured_where_brox_rests(sliding):
    frames, flow = sliding
    rests = np.zeros((2, *flow.shape), np.float32)
    rests[:, :, :, 32:] = 1.0
    network = {"clip": rests + np.float32([0.03, 0.04])}
    result = real_video.evaluate({"clip": frames}, network, {"clip": rests})
    assert result["share that rests"] == 0.5
    assert result["median speed where Brox rests"] == pytest.approx(0.05, rel=1e-5)
    assert result["network to Brox"] == pytest.approx(0.05, rel=1e-4)


def test_clips_go_both_ways():
    clips = {"a": np.arange(5 * 2 * 2 * 3).reshape(5, 2, 2, 3)}
    first = lambda frames: (frames[1:] - frames[:-1])[..., :2]
    both = real_video.both_ways(first, clips)["a"]
    np.testing.assert_array_equal(both[0], 12)
    np.testing.assert_array_equal(both[1], -12)
