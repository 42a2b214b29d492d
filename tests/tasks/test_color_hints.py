"""Colour hints: drawn from the clip alone, in the asked number, and nothing else shows colour."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import read_metrics, tiny_config
from v2v_jax.errors import CheckpointError, ConfigError
from v2v_jax.evaluation.evaluator import best_params
from v2v_jax.input.preprocess import LUMA, Preprocessing
from v2v_jax.run import recipes
from v2v_jax.run.experiment import make_experiment
from v2v_jax.tasks import Color
from v2v_jax.tasks.color_hints import CHANNELS, clip_hash, hint_channels, hint_mask
from v2v_jax.training.loop import train_and_evaluate

SIZE = (4, 16, 20)


def clips(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)


def hash_reference(clip):
    """The same sum with Python's integers."""
    total = 0
    for place, voxel in enumerate(clip.ravel().tolist()):
        weight = place * 2654435761 % 2**32
        weight = (weight ^ (weight >> 15)) * 2246822519 % 2**32
        weight = (weight ^ (weight >> 13)) | 1
        total += weight * (voxel + 1)
    return total % 2**32


def test_hash_equals_reference_and_sees_every_voxel():
    clip = clips(1)[0, :2, :5, :4]
    assert int(clip_hash(clip)) == hash_reference(clip)
    hashes = {int(clip_hash(clip))}
    for place in np.ndindex(clip.shape):
        changed = clip.copy()
        changed[place] ^= 1
        hashes.add(int(clip_hash(changed)))
    assert len(hashes) == clip.size + 1


def squares_in(mask):
    """The least number of 3×3 squares that a mask (T,H,W) can be of, and whether it is of such."""
    t, h, w = mask.shape
    centers = np.zeros_like(mask)
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    for y, x in np.ndindex(3, 3):
        part = padded[:, y : y + h, x : x + w]
        centers = part.copy() if (y, x) == (0, 0) else centers & part
    covered = np.zeros_like(np.pad(mask, ((0, 0), (1, 1), (1, 1))))
    for y, x in np.ndindex(3, 3):
        covered[:, y : y + h, x : x + w] |= centers
    return np.array_equal(covered[:, 1:-1, 1:-1], mask)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 1000))
def test_masks_are_squares_in_the_asked_number(a, b, seed):
    fewest, most = min(a, b), max(a, b)
    masks = np.asarray(hint_mask(clips(3, seed), most=most, fewest=fewest))
    assert masks.shape == (3, *SIZE) and masks.dtype == bool
    for mask in masks:
        assert squares_in(mask)
        assert mask.sum() <= 9 * most
        assert mask.any() == (fewest > 0) or fewest == 0


def test_number_of_hints_is_log_uniform_and_places_uniform():
    """Of 3,000 clips: 0 is as common as 1..2 and 3..6; every part of the clip gets its share."""
    video = np.random.default_rng(0).integers(0, 256, (3000, 2, 12, 12, 3), dtype=np.uint8)
    masks = np.asarray(jax.jit(lambda v: hint_mask(v, most=6))(video))
    none = (~masks.any((1, 2, 3))).mean()
    assert none == pytest.approx(1 / 3, abs=0.03)  # log2(1..2) of log2(1..8)
    one = (masks.sum((1, 2, 3)) <= 9).mean() - none
    assert 0.18 < one < 0.28  # log2(3/2) / 3 = 0.195, and more hints that fell together
    inside = masks[:, :, 1:-1, 1:-1].mean((0, 2, 3))
    assert inside[0] == pytest.approx(inside[1], rel=0.1)
    quarter = masks[:, :, 1:6, 1:6].mean() / masks[:, :, 6:11, 6:11].mean()
    assert quarter == pytest.approx(1, rel=0.1)


def test_exact_numbers_and_the_same_hints_on_any_batch():
    video = clips(5)
    few = np.asarray(hint_mask(video, most=2, fewest=2))
    assert ((few.sum((1, 2, 3)) > 4) & (few.sum((1, 2, 3)) <= 18)).all()
    again = np.asarray(hint_mask(video[::-1][:3], most=2, fewest=2))
    np.testing.assert_array_equal(again, few[::-1][:3])
    assert not np.array_equal(few[0], few[1])


def test_channels_equal_reference_and_show_nothing_elsewhere():
    video = clips(2)
    mask = np.asarray(hint_mask(video, most=4, fewest=3))
    channels = np.asarray(hint_channels(video, mask))
    rgb = video.astype(np.float64) / 255
    expected = 2 * (rgb - (rgb * LUMA).sum(-1, keepdims=True))
    assert channels.shape == (2, *SIZE, CHANNELS) and channels.dtype == np.float32
    np.testing.assert_array_equal(channels[..., 0], mask)
    np.testing.assert_allclose(channels[mask][:, 1:4], expected[mask], atol=1e-5)
    assert not channels[~mask][:, :4].any()
    np.testing.assert_allclose(channels[..., 4:], spread_reference(mask, expected), atol=1e-5)


def spread_reference(mask, values):
    """Voxel by voxel in float64: how near the hints are, and the mean of their values by weight."""
    result = np.zeros((*mask.shape, 1 + values.shape[-1]))
    for b, *voxel in np.ndindex(mask.shape):
        places = np.argwhere(mask[b])
        weights = np.zeros(len(places))
        for scale, deviations in ((1, (3, 4, 4)), (1e-2, (6, 12, 12)), (1e-4, (12, 36, 36))):
            distance = (places - voxel) / np.array(deviations)
            weights += scale * np.exp(-0.5 * (distance**2).sum(-1))
        near = weights.sum()
        mean = weights @ values[b][mask[b]] / (near + 1e-6)
        result[(b, *voxel)] = [near / (near + 1), *mean]
    return result


def test_without_hints_all_their_channels_are_zero():
    video = clips(2)
    assert not np.any(hint_channels(video, np.zeros(video.shape[:4], bool)))


@pytest.mark.parametrize("residual", [False, True])
def test_the_task_adds_channels_and_keeps_all_else(residual):
    video, preprocessing = clips(2), Preprocessing(clip_length=4, crop_size=SIZE[1:])
    plain, hinted = Color(residual), Color(residual, hints=8, fewest_hints=8)
    batch = {"video": video, "mask": np.ones(2, bool)}
    inputs = np.asarray(hinted.inputs(batch, preprocessing))
    assert inputs.shape[-1] == hinted.input_channels == 9 and plain.input_channels == 1
    np.testing.assert_array_equal(inputs[..., :1], plain.inputs(batch, preprocessing))
    given_mask = np.zeros(video.shape[:4], bool)
    given_mask[:, 1, 3:6, 4:7] = True
    own = np.asarray(hinted.inputs(batch | {"hint_mask": given_mask}, preprocessing))
    np.testing.assert_array_equal(own[..., 1], given_mask)
    raw = np.random.default_rng(0).standard_normal(video.shape).astype(np.float32)
    np.testing.assert_array_equal(hinted.complete(raw, batch), plain.complete(raw, batch))


def test_picture_shows_the_hints():
    video = clips(1)[0]
    task = Color(hints=8, fewest_hints=8)
    picture = task.picture({"video": video}, np.zeros(video.shape, np.float32))
    assert list(picture.columns) == ["input", "hints", "prediction", "truth"]
    mask = np.asarray(hint_mask(video[None], most=8, fewest=8))[0]
    np.testing.assert_array_equal(picture.columns["hints"][mask], video[mask])
    np.testing.assert_array_equal(picture.columns["hints"][~mask], picture.columns["input"][~mask])
    assert "hints" not in Color().picture({"video": video}, video / 255.0).columns


def test_options_of_colouring_are_its_own():
    config = tiny_config("color", task_options__hints=-1)
    with pytest.raises(ConfigError, match=r"task_options.hints is -1; .* 0 or more"):
        recipes.validate(config)
    config = tiny_config("seg")
    assert not {"hints", "residual"} & set(config.task_options)
    config.unlock()
    config.task_options.hints = 4
    with pytest.raises(ConfigError, match="segmentation has no option hints; known: class_weights"):
        recipes.validate(config)


@pytest.mark.slow
def test_training_with_hints_and_without(tmp_path):
    """Runs, evaluates the same way twice, and a checkpoint without hints does not fit."""
    config = tiny_config("color_hints", num_steps=4, eval_every=4)
    values = train_and_evaluate(config, tmp_path)
    assert np.isfinite(list(read_metrics(tmp_path, "train/loss").values())).all()
    assert train_and_evaluate(config, tmp_path) == pytest.approx(values)
    config.task_options.hints = 0
    with pytest.raises(CheckpointError, match="task_options is .*'hints': 64.*'hints': 0"):
        best_params(make_experiment(config, "test"), tmp_path)
