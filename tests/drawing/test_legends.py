"""Legends fit what they stand below, and say what the colours are."""

import numpy as np
import pytest

from v2v_jax.drawing import colors, legends

NAMES = [
    *("sky", "ground", "solid (buildings etc.)", "porous", "cars", "humans"),
    *("vertical mix", "main mix"),
]
LEGENDS = {
    "classes": colors.label_legend(NAMES, ignored=False),
    "flow": colors.flow_legend(96, 5.25),
    "depth": colors.depth_legend(0.53, 83.2),
    "scalar": colors.scalar_legend(-1, 1),
    "words": legends.Words(("truth: a", "b: 0.5")),
    "own": np.full((50, 700, 3), 200, np.uint8),
}
SIZES = [(48, 64), (96, 65), (180, 320), (321, 181), (1080, 1920)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", LEGENDS)
def test_a_strip_is_as_wide_as_the_video_and_of_even_height(name, size):
    found = legends.strip([LEGENDS[name]], size)
    assert found.dtype == np.uint8 and found.shape[1:] == (size[1], 3)
    assert found.shape[0] % 2 == 0 and found.shape[0] <= max(size[0], 12 * 11) + 8
    assert (found != 255).any() and (found[0] == 255).all() and (found[-1] == 255).all()
    edges = found[:, [0, -1]]
    assert name == "own" or (edges == 255).all()  # nothing is cut off


def test_legends_stand_one_below_the_other():
    size = (180, 320)
    one, other = (legends.strip([LEGENDS[name]], size) for name in ("flow", "depth"))
    both = legends.strip([LEGENDS["flow"], LEGENDS["depth"]], size)
    assert abs(len(both) - len(one) - len(other)) <= 8


def test_no_strip_where_nothing_can_be_said():
    assert legends.strip([], (180, 320)) is None
    assert legends.strip([LEGENDS["flow"]], (180, legends.LEAST_WIDTH - 1)) is None


def colors_in(picture):
    """Those of a chip's size: letters have greys of their own."""
    found, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(color) for color in found[counts >= 100].tolist()}


@pytest.mark.parametrize("size", [(180, 320), (320, 180), (1080, 1920)])
def test_every_class_has_its_chip(size):
    found = colors_in(legends.strip([LEGENDS["classes"]], size))
    assert {tuple(color) for color in colors.label_colors(8).tolist()} <= found


def test_of_too_many_classes_the_first_ones_are_named():
    table = [tuple(color) for color in colors.label_colors(200).tolist()]
    legend = colors.label_legend([f"class {i}" for i in range(200)], ignored=False)
    found = colors_in(legends.strip([legend], (180, 320)))
    shown = [color in found for color in table]
    assert 10 < sum(shown) < 200 and shown == sorted(shown, reverse=True)


def test_the_bar_goes_from_end_to_end_with_fewer_numbers_where_it_is_narrow():
    bar = LEGENDS["depth"]
    for width in (64, 150, 320, 1000):
        drawn = bar.picture(width)
        assert drawn.shape[1] <= width
        coloured = np.ptp(drawn.astype(int), axis=-1).max(axis=0) > 60
        first, last = np.flatnonzero(coloured)[[0, -1]]
        assert np.abs(drawn[8, first].astype(int) - bar.table[0]).max() < 12
        assert np.abs(drawn[8, last].astype(int) - bar.table[-1]).max() < 12
    assert [tick.split()[0] for tick in (bar.ticks[0], bar.ticks[-1])] == ["≤", "≥"]


def test_the_wheel_keeps_its_colours_when_it_is_small():
    wheel = LEGENDS["flow"]
    drawn = wheel.picture(64, 11).astype(int)
    assert drawn.shape[1] <= 64 and "5.25 px/frame" in wheel.text
    saturated = np.ptp(drawn, axis=-1) > 150
    red = (drawn[..., 0] > 220) & (drawn[..., 1:].max(-1) < 90) & saturated
    rows, columns = np.nonzero(red)
    middle = (np.nonzero(saturated)[1].min() + np.nonzero(saturated)[1].max()) / 2
    assert len(rows) and columns.mean() > middle  # right
