"""The network's input, and that clips are cut and mirrored where the plan says."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import crop_and_mirror
from v2v_jax.datasets.base.video_dataset import FIELDS
from v2v_jax.input.preprocess import Preprocessing, gather_clips, mirror_clips, to_gray

SMALL = Preprocessing(frame_size=(7, 9), crop_size=(4, 5), clip_length=3)
FRAMES = 10
few = settings(max_examples=20, deadline=None)


def store(seed=0):
    """Every field, FRAMES frames of random values; depth with infinities, flow with NaN."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, spec in FIELDS.items():
        shape = (FRAMES, *SMALL.frame_size, *spec.channels)
        if spec.dtype == np.float16:
            values = (20 * rng.standard_normal(shape)).astype(np.float16)
            values[rng.random(shape) < 0.1] = np.inf if name == "depth" else np.nan
        else:
            values = rng.integers(0, 2 if spec.dtype == bool else 256, shape).astype(spec.dtype)
        arrays[name] = values
    return arrays


STORE = store()
gather = jax.jit(lambda clips: gather_clips(STORE, clips, SMALL))


def test_normalize_subtracts_the_mean_and_divides_by_std_in_rgb():
    video = np.array([10, 20, 30], np.uint8)
    preprocessing = Preprocessing(mean=(1.0, 2.0, 3.0), std=(2.0, 3.0, 9.0))
    found = preprocessing.normalize(video)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, [4.5, 6, 3])


def test_bgr_turns_the_channels_round_and_mean_and_std_are_in_bgr():
    video = np.array([10, 20, 30], np.uint8)
    preprocessing = Preprocessing(color_order="bgr", mean=(1.0, 2.0, 3.0), std=(29.0, 9.0, 7.0))
    np.testing.assert_allclose(preprocessing.normalize(video), [1, 2, 1])


def test_gray_is_luma_in_0_to_1():
    colors = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    found = to_gray(colors)
    assert found.shape == (5, 1) and found.dtype == jnp.float32
    np.testing.assert_allclose(found[:, 0], [1, 0, 0.299, 0.587, 0.114], atol=1e-6)


def test_normalized_gray_of_the_mean_color_is_zero_in_either_order():
    mean = (100.0, 50.0, 20.0)
    color = np.array(mean, np.uint8)
    rgb = Preprocessing(mean=mean, std=(10.0, 20.0, 30.0))
    bgr = Preprocessing(color_order="bgr", mean=mean[::-1], std=(30.0, 20.0, 10.0))
    white = (255 - (0.299 * 100 + 0.587 * 50 + 0.114 * 20)) / 20
    for preprocessing in (rgb, bgr):
        np.testing.assert_allclose(preprocessing.normalize_gray(to_gray(color)), [0], atol=1e-6)
        found = preprocessing.normalize_gray(to_gray(np.full(3, 255, np.uint8)))
        np.testing.assert_allclose(found, [white], rtol=1e-6)


def test_preprocessing_survives_json():
    preprocessing = Preprocessing(
        frame_size=(64, 86),
        crop_size=(48, 32),
        clip_length=8,
        color_order="bgr",
        mean=(1.5, 2.5, 3.5),
        std=(1.0, 1.0, 2.0),
    )
    read = Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict())))
    assert read == preprocessing and hash(read) == hash(preprocessing)


@st.composite
def clips(draw):
    """Three clips anywhere in the store, borders included."""
    rows, columns = (f - c for f, c in zip(SMALL.frame_size, SMALL.crop_size))
    offsets = lambda most: np.array([draw(st.integers(0, most)) for _ in range(3)], np.int32)
    return {
        "frame": offsets(FRAMES - SMALL.clip_length),
        "top": offsets(rows),
        "left": offsets(columns),
        "mirror": np.array([draw(st.booleans()) for _ in range(3)]),
    }


@few
@given(clips())
def test_the_accelerator_cuts_the_same_clips_as_the_reference(places):
    found = gather(places)
    for i in range(3):
        first = places["frame"][i]
        whole = {name: value[first : first + SMALL.clip_length] for name, value in STORE.items()}
        expected = crop_and_mirror(
            whole, places["top"][i], places["left"][i], places["mirror"][i], SMALL.crop_size
        )
        assert set(found) == set(expected) == set(FIELDS)
        for name, value in expected.items():
            clip = np.asarray(found[name][i])
            assert clip.dtype == value.dtype == FIELDS[name].dtype
            assert clip.shape == value.shape and value.flags.c_contiguous
            np.testing.assert_array_equal(clip, value, err_msg=name)


@pytest.mark.parametrize("mirror", [False, True])
def test_crop_and_mirror_place_every_voxel_and_turn_u(mirror):
    clip = {name: value[:3] for name, value in STORE.items()}
    found = crop_and_mirror(clip, 2, 1, mirror, (4, 5))
    for t, h, w in np.ndindex(3, 4, 5):
        source = (t, 2 + h, 1 + (4 - w if mirror else w))
        for name in ("video", "labels", "flow_valid", "depth"):
            np.testing.assert_array_equal(found[name][t, h, w], clip[name][source])
        u, v = clip["flow"][source]
        np.testing.assert_array_equal(found["flow"][t, h, w], [-u if mirror else u, v])


def test_only_the_clips_named_are_mirrored():
    clips = {name: np.stack([value[:3], value[3:6]]) for name, value in STORE.items()}
    found = jax.jit(mirror_clips)(clips, np.array([False, True]))
    for row, mirror in enumerate((False, True)):
        clip = {name: value[row] for name, value in clips.items()}
        for name, value in crop_and_mirror(clip, 0, 0, mirror, SMALL.frame_size).items():
            assert found[name].dtype == value.dtype
            np.testing.assert_array_equal(found[name][row], value, err_msg=name)
