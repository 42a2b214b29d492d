"""Figures: filters drawn voxel for voxel, and what is missing left out."""

import numpy as np
import pytest
from PIL import Image

from experiments import figures


@pytest.mark.parametrize("color_order", ["rgb", "bgr"])
def test_every_filter_stands_in_its_place(color_order):
    kernel = np.random.default_rng(0).standard_normal((3, 3, 3, 3, 11)).astype(np.float32)
    frames = figures.filter_frames(kernel, color_order)
    cell = 3 * figures._SCALE + 4
    assert len(frames) == 3
    for t, frame in enumerate(frames):
        assert frame.shape == (2 * cell, 8 * cell, 3) and frame.dtype == np.uint8
        for number in range(11):
            row, column = divmod(number, 8)
            place = frame[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
            middles = place[2 + figures._SCALE // 2 :: figures._SCALE][:3]
            middles = middles[:, 2 + figures._SCALE // 2 :: figures._SCALE][:, :3]
            weights = kernel[t, ..., number] / np.abs(kernel[..., number]).max()
            weights = weights[..., ::-1] if color_order == "bgr" else weights
            np.testing.assert_allclose(middles, 127.5 + 127.5 * weights, atol=0.51)


def test_grey_filters_are_grey():
    kernel = np.random.default_rng(0).standard_normal((1, 3, 3, 1, 8)).astype(np.float32)
    (frame,) = figures.filter_frames(kernel)
    assert np.all(frame == frame[..., :1])


def test_what_is_learned_is_what_the_start_does_not_have():
    """Whatever the mean and the length of a filter, and however much of its start is left."""
    start, added = np.random.default_rng(0).standard_normal((2, 3, 3, 3, 3, 5))
    start, added = (k - k.mean((0, 1, 2, 3)) for k in (start, added))
    start /= start.std((0, 1, 2, 3))
    added -= (added * start).mean((0, 1, 2, 3)) * start
    added /= added.std((0, 1, 2, 3))
    found = figures.learned(7 * (0.8 * start + 0.3 * added) + 2, start)
    np.testing.assert_allclose(found / found.std((0, 1, 2, 3)), added, atol=1e-5)


def test_missing_runs_are_left_out_with_a_sentence(tmp_path, capsys):
    figures.main([f"--output={tmp_path / 'out'}", f"--table1={tmp_path}"])
    printed = capsys.readouterr().out
    assert f"Left out, figure 4: No checkpoint in {tmp_path / 'v2v' / 'run'}" in printed
    assert "Left out, figures 6 and 7: " in printed
    assert "Left out, figure 8: none of --c3d, --seg and --flow is given" in printed
    assert "Left out, figure 9: no folder of experiments.table1 is given" in printed
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_figures_of_trained_runs(tmp_path, trained):
    arguments = [f"--seg={trained('seg').workdir}", f"--flow={trained('flow').workdir}"]
    figures.main([f"--output={tmp_path}", *arguments])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [*(f"figure4_{i}.png" for i in range(3)), "figure8.gif", "figure8.png"]
    for name in names:
        assert np.asarray(Image.open(tmp_path / name).convert("RGB")).std() > 10, name
