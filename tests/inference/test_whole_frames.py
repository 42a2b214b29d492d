"""Whole frames on the device give what tiles give; every size, short videos, streams."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.networks import noise, stub
from v2v_jax.inference.predictor import Predictor
from v2v_jax.media.frame_sources import FrameResizer
from v2v_jax.tasks import Color, Depth, Flow, Segmentation

# Windows of the clip: several make a frame.
COPY = Predictor(stub(None), scale="native", batch_size=9, blend="frames", full_frame=False)
FLOW = stub(lambda params, video: video[..., :2] * 0.1 - 9, Flow())


@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 24, 32), (37, 41, 53)])
def test_a_network_that_copies_gives_back_exactly_the_input(shape):
    video = noise(*shape, 3)
    np.testing.assert_array_equal(COPY(video), video)


@pytest.mark.parametrize(
    "shape, options",
    [
        ((3, 25, 31), dict(full_frame=None)),  # one window, too
        ((3, 25, 31), dict()),  # shorter than a window, enlarged
        ((30, 41, 53), dict(batch_size=50)),  # more windows in time than one call takes
        ((17, 57, 37), dict(overlap=0.5, batch_size=7)),  # the windows of one moment are too many
        ((25, 31, 45), dict(overlap=0.0, full_frame=True)),
        ((9, 16, 90), dict(scale="native", batch_size=5)),
    ],
)
def test_flow_is_that_of_tiles(shape, options):
    video = noise(*shape, 3)
    options = dict(full_frame=False) | options
    frames, tiles = (
        Predictor(FLOW, blend=blend, **options)(video) for blend in ("frames", "tiles")
    )
    assert frames.shape == tiles.shape == (*shape, 2) and frames.dtype == np.float32
    np.testing.assert_allclose(frames, tiles, atol=1e-5 * np.abs(tiles).max())


def test_results_that_need_the_video_and_others():
    video = noise(19, 36, 33, 3)
    for network, atol in (
        (stub(lambda p, v: jnp.zeros(v.shape), Color(residual=True)), 1),  # halves may round up
        (stub(lambda p, v: v[..., :1] / 9.0, Depth()), 1e-4),
    ):
        frames, tiles = (Predictor(network, blend=how)(video) for how in ("frames", "tiles"))
        assert frames.shape == tiles.shape and frames.dtype == tiles.dtype
        np.testing.assert_allclose(frames.astype(float), tiles.astype(float), atol=atol)
    names = ("dark", "bright", "red")
    soft = stub(lambda p, v: v / v.sum(-1, keepdims=True, dtype=jnp.float32), Segmentation(names))
    frames, tiles = (Predictor(soft, blend=how) for how in ("frames", "tiles"))
    probabilities = frames.probabilities(video)
    np.testing.assert_allclose(probabilities, tiles.probabilities(video), atol=1e-5)
    np.testing.assert_array_equal(frames(video), probabilities.argmax(-1))


def test_streams_come_in_order_with_their_frames():
    video = noise(40, 31, 45, 3)
    chunks = list(COPY.chunks(iter(video)))
    assert len(chunks) > 1
    for frames, values in chunks:
        np.testing.assert_array_equal(frames, values)
    np.testing.assert_array_equal(np.concatenate([frames for frames, _ in chunks]), video)


def test_frames_that_are_scaled_already_and_an_ending_of_ones_own():
    video = noise(21, 36, 50, 3)
    predictor = Predictor(FLOW, blend="frames")
    resize = FrameResizer(predictor.scaled_size((36, 50)))
    scaled = [resize(frame) for frame in video]
    flow = np.concatenate(list(predictor.scaled_chunks(iter(scaled), (36, 50))))
    np.testing.assert_array_equal(flow, predictor(video))
    whole = lambda values, video, scale: jnp.rint(values * scale).astype(jnp.int16)
    codes = np.concatenate(list(predictor.scaled_chunks(iter(scaled), (36, 50), whole)))
    assert codes.dtype == np.int16
    np.testing.assert_array_equal(codes, np.rint(flow).astype(np.int16))
    residual = Predictor(stub(lambda p, v: jnp.zeros(v.shape), Color(residual=True)))
    with pytest.raises(ValueError, match="take the whole frames"):
        next(residual.scaled_chunks(iter(scaled), (36, 50)))


def test_what_does_not_fit_the_device_goes_in_tiles(monkeypatch):
    from v2v_jax.inference import whole_frames

    video = noise(9, 30, 31, 3)
    monkeypatch.setattr(COPY, "_frame_programs", None)  # to be used is an error
    # 3x3 windows of 16x16 are more than the frames.
    monkeypatch.setattr(whole_frames, "_MOST_BYTES", 4 * 8 * 48 * 48 * 3)
    with pytest.raises(TypeError, match="NoneType"):
        COPY(video)
    monkeypatch.setattr(whole_frames, "_MOST_BYTES", 4 * 8 * 48 * 48 * 3 - 1)
    np.testing.assert_array_equal(COPY(video), video)


def test_another_way_of_blending_is_an_error():
    with pytest.raises(ValueError, match="blend is 'pixels'"):
        Predictor(FLOW, blend="pixels")
