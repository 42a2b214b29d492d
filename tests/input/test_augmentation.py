"""Augmentation against slow float64 references, what it refuses, and what its randomness is of."""

import dataclasses
import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2v_jax.datasets.base.video_dataset import FIELDS, VIDEO_LABEL
from v2v_jax.errors import ConfigError
from v2v_jax.input.augmentation import Augmentation, augment, draw
from v2v_jax.input.preprocess import LUMA, Preprocessing

PREPROCESSING = Preprocessing(frame_size=(24, 32), crop_size=(16, 16), clip_length=3)
SEEDS = np.array([7, 2**32 - 1, 12], np.uint32)
GEOMETRY = Augmentation(scale=(0.8, 1.5), aspect=0.2)
COLOR = Augmentation(hue=30.0, saturation=0.5, gain=0.3, contrast=0.4, brightness=0.2, gamma=0.5)
TIME = Augmentation(reverse=0.5, max_stride=3)
EVERYTHING = Augmentation(
    **{option: getattr(GEOMETRY, option) for option in ("scale", "aspect")},
    **{option: getattr(TIME, option) for option in ("reverse", "max_stride")},
    hue=30.0,
    contrast=0.4,
    gamma=0.5,
    blur=1.0,
    noise=0.05,
)
ALL = tuple(FIELDS)


def clips(options, fields=ALL):
    """Random fields of the clips that feeds deliver for `options`, with what is no field."""
    source = options.source(PREPROCESSING)
    size = (len(SEEDS), source.clip_length, *source.crop_size)
    rng = np.random.default_rng(0)
    values = {
        "video": rng.integers(0, 256, (*size, 3), np.uint8),
        "labels": rng.choice(np.array([0, 1, 2, 255], np.uint8), size),
        "flow": rng.normal(0, 5, (*size, 2)).astype(np.float16),
        "flow_valid": rng.random(size) < 0.7,
        "flow_occluded": rng.random(size) < 0.2,
        "depth": rng.choice(np.array([0.5, 3.25, 40, np.inf], np.float16), size),
        "probabilities": rng.integers(0, 256, size, np.uint8),
    }
    return {name: values[name] for name in fields} | {"mask": np.array([True, False, True])}


@functools.cache
def drawing(options):
    """seeds → Draws."""
    drawn = jax.jit(lambda seeds: dataclasses.asdict(draw(seeds, options, PREPROCESSING)))
    return lambda seeds: types.SimpleNamespace(**jax.device_get(drawn(seeds)))


@functools.cache
def program(options):
    """(clips, seeds) → (augmented clips, draws), compiled once an options."""
    drawn = lambda seeds: dataclasses.asdict(draw(seeds, options, PREPROCESSING))
    return jax.jit(lambda c, s: (augment(c, s, options, PREPROCESSING), drawn(s)))


def augmented(options, fields=ALL):
    given = clips(options, fields)
    result, drawn = jax.device_get(program(options)(given, SEEDS))
    return given, result, types.SimpleNamespace(**drawn)


# ------------------------------------------------------------------------------------------------
# References: one voxel at a time, in float64


def centre(start, length, count, i):
    return float(start) + float(length) * (i + 0.5) / count - 0.5


def reference_window(video, drawn, clip, blur):
    """(T,H',W',3) → (T,16,16,3): triangle filter as wide as it shrinks, then Gaussian blur."""
    h, w = PREPROCESSING.crop_size
    result = np.zeros((len(video), h, w, 3))
    for i, j in np.ndindex(h, w):
        total = 0.0
        for y, x in np.ndindex(*video.shape[1:3]):
            weight = 1.0
            for place, at, start, length, count in (
                (i, y, drawn.top[clip], drawn.height[clip], h),
                (j, x, drawn.left[clip], drawn.width[clip], w),
            ):
                reach = max(float(length) / count, 1)
                weight *= max(0, 1 - abs(centre(start, length, count, place) - at) / reach)
            if weight:
                result[:, i, j] += weight * video[:, y, x]
                total += weight
        result[:, i, j] /= total
    if not blur:
        return result
    blurred = np.zeros_like(result)
    gaussian = lambda d: np.exp(-(d**2) / (2 * float(drawn.blur[clip]) ** 2))
    for i, j in np.ndindex(h, w):
        weights = gaussian(np.arange(h) - i)[:, None] * gaussian(np.arange(w) - j)
        blurred[:, i, j] = (weights[..., None] * result).sum((1, 2)) / weights.sum()
    return blurred


def reference_truth(field, name, drawn, clip):
    """(T,H',W',…) → (T,16,16,…) at the nearest voxels, with flow and depth scaled."""
    h, w = PREPROCESSING.crop_size
    result = np.zeros((len(field), h, w, *field.shape[3:]), np.float64)
    y, x = h / float(drawn.height[clip]), w / float(drawn.width[clip])
    factor = {"flow": np.array([x, y]), "depth": 1 / np.sqrt(x * y)}.get(name, 1)
    for i, j in np.ndindex(h, w):
        at = (centre(drawn.top[clip], drawn.height[clip], h, i),
              centre(drawn.left[clip], drawn.width[clip], w, j))  # fmt: skip
        row, column = (int(np.clip(np.rint(p), 0, n - 1)) for p, n in zip(at, field.shape[1:3]))
        result[:, i, j] = field[:, row, column].astype(np.float64) * factor
    return result


def reference_color(video, drawn, clip, parts):
    """(…,3) of 0..255, from what the options mean rather than by one matrix."""
    x = video.astype(np.float64)
    angle, saturation, contrast, shift = parts["angle"], parts["saturation"], *parts["light"]
    axis = np.ones(3) / np.sqrt(3)
    along = (x @ axis)[..., None] * axis  # Rodrigues' rotation about the grey axis
    x = x * np.cos(angle) + np.cross(axis, x) * np.sin(angle) + along * (1 - np.cos(angle))
    grey = (x @ np.array(LUMA))[..., None]
    x = (grey + saturation * (x - grey)) * parts["gains"]
    x = 127.5 + contrast * (x - 127.5) + shift
    return 255 * np.clip(x / 255, 0, 1) ** float(drawn.gamma[clip])


# ------------------------------------------------------------------------------------------------


def test_geometry_and_blur_equal_the_references():
    options = dataclasses.replace(GEOMETRY, blur=1.0)
    given, result, drawn = augmented(options)
    assert drawn.height.std() > 0.5 and drawn.left.std() > 0.1
    for clip in range(len(SEEDS)):
        expected = reference_window(given["video"][clip], drawn, clip, blur=True)
        assert np.abs(result["video"][clip] - expected).max() <= 0.51  # rounded to uint8
        for name in set(ALL) - {"video"}:
            expected = reference_truth(given[name][clip], name, drawn, clip)
            np.testing.assert_allclose(result[name][clip], expected, rtol=1e-5, err_msg=name)
    for name in ("labels", "flow_valid", "flow_occluded", "video"):
        assert result[name].dtype == FIELDS[name].dtype
    np.testing.assert_array_equal(result["mask"], given["mask"])


def test_flow_still_leads_to_the_same_point():
    """A point and where flow takes it lie, in the window, as far apart as the new flow says."""
    given, result, drawn = augmented(GEOMETRY, ("video", "flow"))
    clip, t, i, j = 1, 0, 5, 9
    y = int(np.rint(centre(drawn.top[clip], drawn.height[clip], 16, i)))
    x = int(np.rint(centre(drawn.left[clip], drawn.width[clip], 16, j)))
    u, v = given["flow"][clip, t, y, x].astype(np.float64)
    in_window = lambda p, start, length: (p + 0.5 - float(start)) * 16 / float(length) - 0.5
    moved = (
        in_window(x + u, drawn.left[clip], drawn.width[clip])
        - in_window(x, drawn.left[clip], drawn.width[clip]),
        in_window(y + v, drawn.top[clip], drawn.height[clip])
        - in_window(y, drawn.top[clip], drawn.height[clip]),
    )
    np.testing.assert_allclose(result["flow"][clip, t, i, j], moved, rtol=1e-4)


def test_windows_lie_within_the_source():
    seeds = np.arange(500, dtype=np.uint32)
    drawn = drawing(GEOMETRY)(seeds)
    size = GEOMETRY.source(PREPROCESSING).crop_size
    for start, length, whole in (("top", "height", size[0]), ("left", "width", size[1])):
        start, length = getattr(drawn, start), getattr(drawn, length)
        assert start.min() >= 0 and (start + length).max() <= whole + 1e-4
    scale = 16 / np.sqrt(drawn.height * drawn.width)
    assert 0.8 <= scale.min() < 0.85 and 1.4 < scale.max() <= 1.5 + 1e-5
    aspect = drawn.height / drawn.width
    assert 1 / 1.2 - 1e-5 <= aspect.min() < 0.9 and 1.1 < aspect.max() <= 1.2 + 1e-5


@pytest.mark.parametrize("option", ["hue", "saturation", "gain", "contrast", "brightness", "gamma"])
def test_each_change_of_colour_equals_its_definition(option):
    """What was drawn is read off the matrix; then every pixel must follow."""
    options = Augmentation(**{option: getattr(COLOR, option)})
    source = np.random.default_rng(1).integers(40, 200, (3, 3, 16, 16, 3), np.uint8)
    given = {"video": source, "mask": np.ones(3, bool)}
    result, drawn = jax.device_get(program(options)(given, SEEDS))
    drawn = types.SimpleNamespace(**drawn)
    for clip in range(3):
        matrix = np.asarray(drawn.color[clip], np.float64)
        parts = {"angle": 0.0, "saturation": 1.0, "gains": np.ones(3), "light": (1.0, 0.0)}
        if option == "hue":  # the trace of a rotation is 1 + 2 cos, its skew part the sine
            angle = np.arctan2((matrix[2, 1] - matrix[1, 2]) * np.sqrt(3) / 2,
                               (matrix.trace() - 1) / 2)  # fmt: skip
            assert 1e-3 < abs(angle) <= np.radians(30)
            parts["angle"] = angle
        elif option == "saturation":
            parts["saturation"] = (matrix.trace() - 1) / 2
            assert 1 / 1.5 <= parts["saturation"] <= 1.5
        elif option == "gain":
            parts["gains"] = matrix.diagonal()
            assert ((1 / 1.3 <= parts["gains"]) & (parts["gains"] <= 1.3)).all()
        elif option == "contrast":
            parts["light"] = (matrix[0, 0], 0.0)
            assert 1 / 1.4 <= matrix[0, 0] <= 1.4
        elif option == "brightness":
            parts["light"] = (1.0, float(drawn.offset[clip]))
            assert abs(drawn.offset[clip]) <= 0.2 * 255
        else:
            assert 1 / 1.5 <= drawn.gamma[clip] <= 1.5
        expected = reference_color(source[clip], drawn, clip, parts)
        assert np.abs(expected - source[clip]).max() > 0.5
        assert np.abs(result["video"][clip] - expected).max() <= 0.52, option


def test_all_changes_of_colour_follow_one_another():
    """With all at once the matrix must be hue, then saturation, gains and contrast."""
    drawn = lambda options: drawing(options)(SEEDS)
    alone = {name: Augmentation(**{name: getattr(COLOR, name)})
             for name in ("hue", "saturation", "gain", "contrast")}  # fmt: skip
    hue, saturation, gain, contrast = (drawn(options).color for options in alone.values())
    whole = drawn(COLOR)
    np.testing.assert_allclose(whole.color, contrast @ gain @ saturation @ hue, atol=1e-5)
    shift = drawn(Augmentation(brightness=COLOR.brightness)).offset
    expected = shift + 127.5 * (1 - contrast[:, 0, 0])
    np.testing.assert_allclose(whole.offset, expected, rtol=1e-4, atol=1e-3)


def test_time_equals_its_definition():
    given, result, drawn = augmented(TIME, ("video", "labels", "depth"))
    assert given["video"].shape[1] == 7
    for clip, frames in enumerate(drawn.frames):
        steps = np.diff(frames)
        assert (steps == steps[0]).all() and abs(steps[0]) in (1, 2, 3)
        assert 0 <= frames.min() and frames.max() <= 6
        for name in ("video", "labels", "depth"):
            np.testing.assert_array_equal(result[name][clip], given[name][clip, frames])
    seeds = np.arange(300, dtype=np.uint32)
    frames = drawing(TIME)(seeds).frames
    seen = {(int(f[0]), int(f[1] - f[0])) for f in frames}
    forwards = {(first, s) for s in (1, 2, 3) for first in range(7 - 2 * s)}
    assert seen == forwards | {(first + 2 * s, -s) for first, s in forwards}


def test_noise_has_the_drawn_deviation_and_leaves_the_truth():
    options = Augmentation(noise=0.1)
    given = clips(options)
    given["video"] = np.full_like(given["video"], 128)
    result, drawn = jax.device_get(program(options)(given, SEEDS))
    for clip, deviation in enumerate(drawn["noise"]):
        error = result["video"][clip].astype(np.float64) - 128
        assert 0 < deviation <= 25.5
        assert error.std() == pytest.approx(np.sqrt(deviation**2 + 1 / 12), rel=0.06)
        assert abs(error.mean()) < 4 * max(deviation, 0.3) / np.sqrt(error.size)
        # Neighbours in time and space, and channels, have noise of their own.
        for axis in range(4):
            a, b = (np.take(error, n, axis) for n in (0, 1))
            assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.35
    for name in set(ALL) - {"video"}:
        np.testing.assert_array_equal(result[name], given[name])


def test_off_is_exactly_nothing():
    assert Augmentation.from_config(dataclasses.asdict(Augmentation())).is_off
    given = clips(Augmentation())
    result = augment(given, SEEDS, Augmentation(), PREPROCESSING)
    assert all(result[name] is given[name] for name in given)
    assert Augmentation().source(PREPROCESSING) == PREPROCESSING


def test_a_clip_depends_on_its_seed_alone():
    """Neither on its place in the batch, nor on the batch's size, nor on the other clips."""
    fields = ("video", "labels", "depth")
    given = clips(EVERYTHING, fields)
    whole = program(EVERYTHING)(given, SEEDS)[0]
    again = program(EVERYTHING)({n: v[::-1] for n, v in given.items()}, SEEDS[::-1])[0]
    alone = program(EVERYTHING)({n: v[1:2] for n, v in given.items()}, SEEDS[1:2])[0]
    for name in fields:
        np.testing.assert_array_equal(np.asarray(again[name])[::-1], whole[name])
        np.testing.assert_array_equal(alone[name][0], whole[name][1])
    assert not np.array_equal(whole["video"][0], whole["video"][2])


@pytest.mark.parametrize(
    "values,words",
    [
        ({"zoom": 1}, "augmentation has no zoom; known: scale, aspect, hue"),
        ({"scale": (1.2, 1.1)}, "augmentation.scale is"),
        ({"scale": (0.0, 1.1)}, "augmentation.scale is"),
        ({"gain": -0.1}, "augmentation.gain is -0.1"),
        ({"noise": 3.0}, "augmentation.noise is 3.0; it must lie in 0..1"),
        ({"reverse": float("nan")}, "augmentation.reverse is nan"),
        ({"max_stride": 0}, "augmentation.max_stride is 0"),
        ({"max_stride": 1.5}, "augmentation.max_stride is 1.5"),
    ],
)
def test_values_out_of_range(values, words):
    with pytest.raises(ConfigError, match=words):
        Augmentation.from_config(values)


def test_fields_that_cannot_follow():
    backwards, faster = Augmentation(reverse=0.5), Augmentation(max_stride=2)
    dense = ("video", "labels", "depth")
    for options, fields in itertools.product((backwards, faster), (dense, ("video",))):
        options.check(fields, PREPROCESSING)
    faster.check(("video", VIDEO_LABEL), PREPROCESSING)
    with pytest.raises(ConfigError, match=f"reverse is 0.5, but the task reads {VIDEO_LABEL}"):
        backwards.check(("video", VIDEO_LABEL), PREPROCESSING)
    for options, name in ((backwards, "reverse"), (faster, "max_stride")):
        with pytest.raises(ConfigError, match=f"{name} is .*reads flow, flow_valid, which"):
            options.check(("video", "flow", "flow_valid"), PREPROCESSING)


def test_windows_that_do_not_fit_the_frame():
    GEOMETRY.check(ALL, PREPROCESSING)  # 16 · √1.2 / 0.8 = 22 of 24
    with pytest.raises(ConfigError, match=r"windows of 26×26, larger than the frames of 24×32; "
                                          r"the least scale that fits is 0.731"):  # fmt: skip
        Augmentation(scale=(0.7, 1), aspect=0.2).check(ALL, PREPROCESSING)
    Augmentation(scale=(0.731, 1), aspect=0.2).check(ALL, PREPROCESSING)


def test_shapes_and_dtypes():
    shapes = jax.eval_shape(
        lambda c, s: augment(c, s, GEOMETRY, PREPROCESSING), clips(GEOMETRY), jnp.asarray(SEEDS)
    )
    for name in ALL:
        scaled = name in ("flow", "depth")
        assert shapes[name].dtype == (np.float32 if scaled else FIELDS[name].dtype)
        assert shapes[name].shape == (3, 3, 16, 16, *FIELDS[name].channels)
