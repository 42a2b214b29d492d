"""Tests of the pictures: colour codes against known anchors, layout, and files read back."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from v2v_jax.drawing import colors, panels

GATECH_NAMES = ("sky", "ground", "solid", "porous", "cars", "humans", "vertical mix", "main mix")
quick = settings(max_examples=15, deadline=None)
odd_sizes = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))


def noise_video(t=4, h=16, w=20, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (t, h, w, 3), dtype=np.uint8)


# Worked out by hand from the wheel's definition: a direction's place is angle/360° * 54 of 55 hues.
@pytest.mark.parametrize(
    ("vector", "rgb"),
    [
        ((1, 0), (255, 0, 0)),  # right: hue 0, red
        ((1, -0.0), (255, 0, 0)),  # a negative zero is the same direction
        ((0, 1), (255, 229, 0)),  # down: hue 13.5 of the 15 from red to yellow
        ((-1, 0), (0, 209, 255)),  # left: hue 27, 2 of 11 after cyan
        ((0, -1), (88, 0, 255)),  # up: hue 40.5, between 78 and 98 red (4 and 5 of 13)
        ((0, 0), (255, 255, 255)),
        ((0.5, 0), (255, 127, 127)),  # half the saturation
        ((2, 0), (191, 0, 0)),  # beyond the scale: three quarters of the brightness
    ],
)
def test_flow_colors_of_known_vectors(vector, rgb):
    flow = np.array(vector, np.float32).reshape(1, 1, 2)
    assert colors.flow_to_color(flow, max_magnitude=1.0)[0, 0].tolist() == list(rgb)


def test_flow_wheel_meets_every_corner_in_order():
    corners = [(255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255)]
    angle = np.array([0, 15, 21, 25, 36, 49]) / 54 * 2 * np.pi
    flow = np.stack([np.cos(angle), np.sin(angle)], axis=-1)[None]
    got = colors.flow_to_color(flow, max_magnitude=1.0)[0].astype(int)
    assert np.abs(got - corners).max() <= 1


def test_flow_scale_is_the_largest_valid_magnitude_of_all_frames():
    flow = np.zeros((3, 2, 2, 2), np.float16)
    flow[0, 0, 0] = (4, 0)
    flow[2, 1, 1] = (8, 0)
    flow[1, 0, 0] = (100, 0)
    valid = np.ones((3, 2, 2), bool)
    valid[1, 0, 0] = False
    color = colors.flow_to_color(flow, valid=valid)
    assert color[2, 1, 1].tolist() == [255, 0, 0]
    assert color[0, 0, 0].tolist() == [255, 127, 127]
    assert color[1, 0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("unknown", [np.nan, np.inf, -np.inf, 1.7e9])
def test_unknown_flow_is_black_and_does_not_set_the_scale(unknown):
    flow = np.array([[(unknown, 0), (0, unknown), (2, 0)]], np.float32)
    assert colors.flow_to_color(flow).tolist() == [[[0, 0, 0], [0, 0, 0], [255, 0, 0]]]


@quick
@given(size=odd_sizes, seed=st.integers(0, 2**16), turns=st.integers(1, 3))
def test_flow_of_any_size_has_its_own_color_whatever_surrounds_it(size, seed, turns):
    flow = np.random.default_rng(seed).normal(size=(*size, 2)).astype(np.float32)
    color = colors.flow_to_color(flow, max_magnitude=1.5)
    assert color.shape == (*size, 3) and color.dtype == np.uint8
    for index in itertools.islice(np.ndindex(size), turns):
        alone = colors.flow_to_color(flow[index].reshape(1, 1, 2), max_magnitude=1.5)
        assert (alone[0, 0] == color[index]).all()


def test_still_flow_is_white():
    assert (colors.flow_to_color(np.zeros((2, 3, 5, 2))) == 255).all()


@pytest.mark.parametrize("size", [1, 2, 51, 100])
def test_flow_legend_is_a_disc_on_white_with_red_at_the_right(size):
    wheel = colors.flow_legend(size).picture().astype(int)
    assert wheel.shape == (size, size, 3)
    assert (wheel.max(axis=-1) >= 250).all()  # nothing is darkened
    if size > 50:
        assert (wheel[0, 0] == 255).all() and (wheel[-1, -1] == 255).all()
        assert (wheel[size // 2, size // 2] > 240).all()
        assert np.abs(wheel[size // 2, -1] - (255, 0, 0)).max() < 25
        assert np.abs(wheel[size // 2, 0] - (0, 209, 255)).max() < 25


def test_flow_legend_says_how_fast_the_edge_is():
    disc, legend = (colors.flow_legend(96, speed).picture() for speed in (None, 3.25))
    assert legend.shape[0] > 96 + 10 and legend.shape[1] >= 96
    left = (legend.shape[1] - 96) // 2
    top = next(y for y in range(8) if (legend[y : y + 96, left : left + 96] == disc).all())
    assert (legend[top + 96 :] < 128).any()  # text
    assert (legend != colors.flow_legend(96, 4.25).picture()).any()


def test_gatech_colors_are_those_of_its_files():
    assert colors.label_colors(8).tolist() == [
        [255, 0, 0], [0, 130, 180], [0, 255, 0], [255, 255, 0],
        [120, 0, 255], [255, 0, 255], [160, 160, 160], [64, 64, 64],
    ]  # fmt: skip


@pytest.mark.parametrize("k", [1, 2, 3, 8, 13, 21, 255])
def test_label_colors_differ_and_are_the_same_every_time(k):
    palette = colors.label_colors(k)
    assert palette.shape == (k, 3) and palette.dtype == np.uint8
    distances = np.abs(palette[:, None].astype(int) - palette).sum(axis=-1)
    distances[np.diag_indices(k)] = 999
    assert distances.min() >= (20 if k > 50 else 75)
    palette[:] = 0  # a caller's changes stay the caller's
    assert colors.label_colors(k)[-1].any()


@pytest.mark.parametrize("k", [3, 13, 21])
def test_generated_colors_keep_away_from_grey(k):
    palette = colors.label_colors(k).astype(int)
    assert (palette.max(axis=-1) - palette.min(axis=-1)).min() >= 50


@quick
@given(size=odd_sizes, k=st.sampled_from([2, 5, 8]), seed=st.integers(0, 2**16))
def test_labels_become_their_colors_and_ignored_voxels_grey(size, k, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, size, dtype=np.uint8)
    labels[rng.random(size) < 0.3] = 255
    color = colors.labels_to_color(labels, k)
    assert color.shape == (*size, 3) and color.dtype == np.uint8
    known = labels != 255
    assert (color[known] == colors.label_colors(k)[labels[known]]).all()
    assert set(color[~known].ravel().tolist()) <= {96, 192}
    assert (color[~known] == color[~known][:, :1]).all()


def test_ignored_region_shows_stripes():
    color = colors.labels_to_color(np.full((8, 8), 255, np.uint8), 8)
    assert set(color.ravel().tolist()) == {96, 192}


def test_overlay_mixes_and_leaves_ignored_voxels():
    video = np.full((1, 1, 3, 3), 100, np.uint8)
    labels = np.array([[[0, 1, 255]]])
    got = colors.overlay(video, labels, GATECH_NAMES)
    assert got[0, 0].tolist() == [[178, 50, 50], [50, 115, 140], [100, 100, 100]]


# What is called background, and what is drawn black: the first of two classes is.
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("background", "person"), [[40, 50, 60], [148, 130, 30]]),
        (("road", "car"), [[40, 50, 60], [148, 130, 30]]),
        (("car", "Background "), [[40, 50, 60], [40, 50, 60]]),
        (GATECH_NAMES, [[148, 25, 30], [20, 90, 120]]),
    ],
)
def test_a_background_does_not_darken_the_video(names, expected):
    video = np.array([40, 50, 60], np.uint8) + np.zeros((1, 2, 1), np.uint8)
    assert colors.overlay(video, np.array([[0, 1]]), names)[0].tolist() == expected


def test_a_background_among_many_classes_is_known_by_its_name():
    names = ["a", "b", "c", "BACKGROUND", "the background is not"]
    assert colors.transparent_classes(names).tolist() == [False, False, False, True, False]


def test_the_legend_of_an_overlay_shows_what_is_seen_through():
    names = ("background", "person")
    chips = colors.label_legend(names, over_video=True).chips
    assert [set(chip.ravel().tolist()) for chip in chips[[0, 2]]] == [{204, 255}] * 2
    assert (chips[1] == (255, 210, 0)).all()
    plain = colors.label_legend(names).chips
    assert (plain[0] == 0).all() and set(plain[2].ravel().tolist()) == {96, 192}


def test_heat_maps_grow_lighter_with_probability():
    p = np.zeros((2, 3, 5, 4), np.float32)
    p[..., 2] = np.linspace(0, 1, 5)
    p[..., 0] = 1 - p[..., 2]
    maps = colors.class_heat_maps(p, ["a", "b", "c", "d"])
    assert list(maps) == ["a", "b", "c", "d"]
    assert all(m.shape == (2, 3, 5, 3) and m.dtype == np.uint8 for m in maps.values())
    assert (np.diff(maps["c"][0, 0].sum(axis=-1).astype(int)) > 0).all()
    assert (maps["a"] == maps["c"][:, :, ::-1]).all()
    assert maps["b"].max() < 10


def test_depth_is_logarithmic_and_black_where_there_is_none():
    depth = np.array([[1, 10, 100, np.inf, np.nan, 0, -1, 0.1, 1e4]], np.float32)
    color = colors.depth_to_color(depth, near=1, far=100)[0].astype(int)
    assert (color[3:7] == 0).all()
    assert (color[7] == color[0]).all() and (color[8] == color[2]).all()
    bar = colors.depth_to_color(np.geomspace(1, 100, 257)[None], 1, 100)[0].astype(int)
    assert np.abs(color[1] - bar[128]).max() <= 3
    assert color[0, 0] > 200 and color[0, 1] > 200  # near is yellow
    assert color[2, 2] > 100 and color[2, :2].max() < 30  # far is dark blue, but not black


def test_depth_range_ignores_outliers_and_missing_depth():
    depth = np.concatenate([np.linspace(2, 8, 998), [1e6, np.inf]])
    near, far = colors.depth_range(depth)
    assert 2 <= near < 2.2 and 7.8 < far < 8.1
    assert colors.depth_range(np.full((2, 2), np.inf)) == (1.0, 2.0)
    near, far = colors.depth_range(np.full((2, 2), 5.0, np.float16))
    assert 0 < near < far
    assert colors.depth_to_color(np.full((3, 2, 2), 5.0)).any(axis=-1).all()


@quick
@given(size=odd_sizes, columns=st.integers(1, 3), scale=st.sampled_from([None, 1, 3]))
def test_panels_show_every_voxel_of_the_chosen_frames(size, columns, scale):
    t, h, w = size
    # A colour that no text and no background has, to find the cells by.
    videos = {f"column {i}": np.zeros((t, h, w, 3), np.uint8) for i in range(columns)}
    for i, video in enumerate(videos.values()):
        video[..., 0], video[..., 1], video[..., 2] = 200, 10 * i, np.arange(t)[:, None, None]
    image = panels.panels(videos, [t - 1, 0], title="Title", scale=scale)
    factor = scale or -(-192 // max(h, w))
    for frame in {0, t - 1}:
        for i in range(columns):
            found = (image == (200, 10 * i, frame)).all(axis=-1)
            rows, cols = np.nonzero(found)
            assert found.sum() == h * w * factor**2 * (2 if t == 1 else 1)
            assert np.ptp(cols) + 1 == w * factor
            if t > 1:
                assert np.ptp(rows) + 1 == h * factor


def test_panels_keep_the_frames_content_and_order():
    first, second = noise_video(seed=1), noise_video(seed=2)
    image = panels.panels({"first": first, "second": second}, [2], scale=2)
    wanted = first[2].repeat(2, axis=0).repeat(2, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(image, (*wanted.shape[:2], 1))[..., 0]
    places = np.argwhere((windows == wanted.transpose(2, 0, 1)).all(axis=(2, 3, 4)))
    assert len(places) == 1
    wanted = second[2].repeat(2, axis=0).repeat(2, axis=1)
    places2 = np.argwhere((windows == wanted.transpose(2, 0, 1)).all(axis=(2, 3, 4)))
    assert len(places2) == 1 and places2[0, 0] == places[0, 0] and places2[0, 1] > places[0, 1]


LONG = "a title of many words that must be wrapped\ninto several lines " + "x" * 60


@pytest.mark.parametrize("where", ["title", "caption", "column", "row"])
def test_long_text_is_wrapped_and_never_cut_off(where):
    video = np.full((1, 8, 8, 3), 255, np.uint8)  # white: all that is dark is text
    names = {"column": LONG if where == "column" else "in"}
    text = {where: LONG} if where in ("title", "caption") else {}
    rows = [LONG if where == "row" else "row"]
    image = panels.panels({names["column"]: video}, [0], row_names=rows, **text)
    short = panels.panels({"in": video}, [0], row_names=["row"])
    dark, dark_before = (image < 128).all(axis=-1), (short < 128).all(axis=-1)
    assert dark.sum() > dark_before.sum() + 1000  # 120 letters have 10 dark pixels each at least
    border = np.concatenate([dark[0], dark[-1], dark[:, 0], dark[:, -1]])
    assert not border.any()
    assert image.shape[0] > short.shape[0] or where == "row"


def test_legends_stand_below_the_rows():
    video = noise_video()
    legends = [
        colors.label_legend(GATECH_NAMES),
        colors.flow_legend(64),
        colors.depth_legend(0.5, 80),
        colors.probability_legend(),
    ]
    pictures = [legend.picture() for legend in legends]
    plain = panels.panels({"input": video}, [0])
    image = panels.panels({"input": video}, [0], legends=legends)
    assert image.shape[0] >= plain.shape[0] + sum(picture.shape[0] for picture in pictures)
    for color in colors.label_colors(8):
        assert (pictures[0] == color).all(axis=-1).sum() >= 100  # a chip of it
    assert (pictures[2] < 100).all(axis=-1).any()  # the numbers


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 21])
def test_label_legend_of_any_number_of_classes(count):
    legend = colors.label_legend([f"class {i}" for i in range(count)]).picture()
    for color in colors.label_colors(count):
        assert (legend == color).all(axis=-1).sum() >= 100


def test_animation_has_one_picture_a_frame_and_all_of_one_size():
    video = noise_video(t=11)
    frames = panels.animation({"input": video, "again": video}, title="Noise")
    assert len(frames) == 11
    assert len({frame.shape for frame in frames}) == 1
    still = panels.panels({"input": video, "again": video}, [10], title="Noise")
    assert (frames[10] == still).all()


def test_png_comes_back_unchanged(tmp_path):
    image = noise_video(1, 33, 7)[0]
    panels.write_png(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as read:
        assert read.mode == "RGB" and (np.asarray(read) == image).all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def read_gif(path):
    with Image.open(path) as gif:
        frames, durations = [], []
        for i in range(gif.n_frames):
            gif.seek(i)
            frames.append(np.asarray(gif.convert("RGB")))
            durations.append(gif.info["duration"])
        return frames, durations, gif.info.get("loop")


@pytest.mark.parametrize(("fps", "t"), [(8, 5), (25, 16), (30, 30), (12.5, 2), (50, 4)])
def test_gif_has_all_frames_its_duration_and_loops(tmp_path, fps, t):
    panels.write_gif(tmp_path / "a.gif", list(noise_video(t)), fps)
    frames, durations, loop = read_gif(tmp_path / "a.gif")
    assert len(frames) == t and loop == 0
    assert sum(durations) == pytest.approx(1000 * t / fps, abs=5)
    assert max(durations) - min(durations) <= 10
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


def test_gif_of_few_colors_is_exact(tmp_path):
    labels = np.random.default_rng(0).integers(0, 8, (3, 20, 30))
    video = colors.labels_to_color(labels, 8)
    panels.write_gif(tmp_path / "a.gif", video, 5)
    frames, _, _ = read_gif(tmp_path / "a.gif")
    assert (np.stack(frames) == video).all()


def test_gif_of_a_gradient_shows_no_bands(tmp_path):
    ramp = np.linspace(0, 255, 256)
    image = np.stack(np.broadcast_arrays(ramp, ramp[:, None], 128), axis=-1).astype(np.uint8)
    panels.write_gif(tmp_path / "a.gif", [image, image[::-1]], 5)
    for got, wanted in zip(read_gif(tmp_path / "a.gif")[0], (image, image[::-1]), strict=True):
        # Error diffusion keeps the mean of a patch; the same palette without it is 2.3 off.
        error = (got.astype(float) - wanted).reshape(32, 8, 32, 8, 3).mean(axis=(1, 3))
        assert np.abs(error).mean() < 1


def test_gif_of_one_still_and_of_equal_frames(tmp_path):
    image = noise_video(1)[0]
    panels.write_gif(tmp_path / "one.gif", [image], 4)
    assert len(read_gif(tmp_path / "one.gif")[0]) == 1
    panels.write_gif(tmp_path / "equal.gif", [image] * 6, 4)
    assert sum(read_gif(tmp_path / "equal.gif")[1]) == 1500


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    panels.write_png(path, noise_video()[0])
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        panels.write_png(path, noise_video()[1])
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


VIDEO = noise_video()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: colors.flow_to_color(np.zeros((4, 5, 3))), r"\(…,H,W,2\).*\(4, 5, 3\)"),
        (lambda: colors.flow_to_color(np.zeros((4, 5, 2), complex)), "complex128"),
        (lambda: colors.flow_to_color(np.zeros((4, 5, 2)), 0), "max_magnitude.*0"),
        (lambda: colors.flow_to_color(np.zeros((4, 5, 2)), np.nan), "max_magnitude.*nan"),
        (
            lambda: colors.flow_to_color(np.zeros((4, 5, 2)), valid=np.ones((5, 4), bool)),
            r"valid.*\(4, 5\).*\(5, 4\)",
        ),
        (lambda: colors.flow_legend(0), "size.*0"),
        (lambda: colors.label_colors(0), "num_classes.*0"),
        (lambda: colors.label_colors(256), "num_classes.*256"),
        (lambda: colors.labels_to_color(np.array([[8]]), 8), "0..7 or 255; got 8"),
        (lambda: colors.labels_to_color(np.array([[-1]]), 8), "got -1"),
        (lambda: colors.labels_to_color(np.zeros((4, 5)), 8), r"integer.*float64"),
        (lambda: colors.overlay(VIDEO, np.zeros((4, 9, 9), int), "ab"), r"\(4, 9, 9, 3\)"),
        (lambda: colors.class_heat_maps(np.ones((1, 2, 2, 3)), ["a", "b"]), "K = 2"),
        (lambda: colors.class_heat_maps(np.ones((1, 2, 2, 2)), ["a", "a"]), "different"),
        (lambda: colors.class_heat_maps(np.full((1, 2, 2, 1), 3.0), ["a"]), "softmax"),
        (lambda: colors.class_heat_maps(np.full((1, 2, 2, 1), np.nan), ["a"]), "0..1"),
        (lambda: colors.depth_to_color(np.ones((2, 2)), 5, 4), "0 < near < far; got 5, 4"),
        (lambda: colors.depth_legend(5, 4), "0 < near < far; got 5, 4"),
        (lambda: colors.depth_to_color(np.ones((2, 2), bool)), "real.*bool"),
        (lambda: panels.panels({}, [0]), "one video"),
        (lambda: panels.panels({"a": VIDEO}, [4]), r"0..3; got \[4\]"),
        (lambda: panels.panels({"a": VIDEO}, []), "frames"),
        (lambda: panels.panels({"a": VIDEO}, [0], scale=0), "scale"),
        (lambda: panels.panels({"a": VIDEO}, [0], row_names=["b", "c"]), "row_names must be 1"),
        (lambda: panels.panels({"a": VIDEO, "b": VIDEO[:2]}, [0]), "'b'.*alike"),
        (lambda: panels.panels({"a": VIDEO / 255.0}, [0]), "'a'.*uint8.*float64"),
        (lambda: panels.panels({"a": VIDEO}, [0], legends=[VIDEO]), "legend"),
        (lambda: panels.write_png("never.png", VIDEO), r"\(H,W,3\).*\(4, 16, 20, 3\)"),
        (lambda: panels.write_gif("never.gif", [], 5), "frames"),
        (lambda: panels.write_gif("never.gif", [VIDEO[0], VIDEO[0, 1:]], 5), "share one size"),
        (lambda: panels.write_gif("never.gif", VIDEO, 60), "fps.*60"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_half_precision_of_accelerators_is_accepted():
    bfloat16 = pytest.importorskip("ml_dtypes", reason="comes with JAX").bfloat16
    flow = np.array([[(1, 0), (0, 0)]], bfloat16)
    assert colors.flow_to_color(flow).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    assert colors.depth_to_color(np.ones((2, 2), bfloat16)).any()
    maps = colors.class_heat_maps(np.ones((1, 2, 2, 1), bfloat16), ["a"])
    assert maps["a"].min() > 100


def test_pictures_need_neither_jax_nor_tensorflow():
    heavy = "{'jax', 'tensorflow', 'cv2'}"
    code = f"import sys, v2v_jax.drawing.colors; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
