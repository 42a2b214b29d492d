"""Does a network draw a grid? Power at period 4 against its neighbours, in flat regions.

V2V's last transposed convolution has stride 4 in height and width, so that a pattern of that period
may lie over what it predicts. Where the truth is flat, such a pattern is all that a spectrum has at
period 4 beyond what it has at the periods next to it.

    python -m experiments.grid --network=runs/flow

prints the ratio for rows and for columns; 1 is no grid.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Iterable

import numpy as np

from experiments.trained_runs import open_run

TILE = 32  # voxels: period 4 is the 8th frequency of a tile
PERIOD = 4
FLAT = 0.5  # pixels a frame: how far the truth may differ within a tile


def flat_tiles(truth: np.ndarray, valid: np.ndarray) -> list[tuple[int, int, int]]:
    """(frame, top, left) of the tiles in which all is valid and the truth is nearly constant.

    Args:
      truth: (T,H,W,C); valid: (T,H,W) bool.
    """
    t, h, w, _ = truth.shape
    found = []
    for frame in range(t):
        for top in range(0, h - TILE + 1, TILE // 2):
            for left in range(0, w - TILE + 1, TILE // 2):
                place = frame, slice(top, top + TILE), slice(left, left + TILE)
                if valid[place].all() and np.ptp(truth[place], (0, 1)).max() < FLAT:
                    found.append((frame, top, left))
    return found


def spectrum(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean power (TILE//2 + 1,) along one axis of tiles (N,TILE,TILE,C), mean and slope removed."""
    values = np.moveaxis(values.astype(np.float64), axis, -1)
    place = np.linspace(-1, 1, TILE)
    values = values - values.mean(-1, keepdims=True)
    slope = (values * place).sum(-1, keepdims=True) / (place**2).sum()
    power = np.abs(np.fft.rfft((values - slope * place) * np.hanning(TILE))) ** 2
    return power.reshape(-1, TILE // 2 + 1).mean(0)


def grid_ratio(power: np.ndarray) -> float:
    """Power at period 4 over the geometric mean of two neighbours that its window keeps apart."""
    at = TILE // PERIOD
    return float(power[at] / np.sqrt(power[at - 3] * power[at + 3]))


def measure(
    clips: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> dict[str, float | int]:
    """The grid of predictions.

    Args:
      clips: prediction (T,H,W,C), truth (T,H,W,C), valid (T,H,W) of each.

    Returns:
      rows, columns: `grid_ratio` of both directions; rms: of what the pattern adds, in the
      prediction's unit; tiles: how many there were.
    """
    tiles = [
        prediction[frame, top : top + TILE, left : left + TILE]
        for prediction, truth, valid in clips
        for frame, top, left in flat_tiles(truth, valid)
    ]
    if not tiles:
        return {"rows": float("nan"), "columns": float("nan"), "rms": float("nan"), "tiles": 0}
    values = np.stack(tiles)
    rows, columns = spectrum(values, 2), spectrum(values, 1)
    at = TILE // PERIOD
    excess = sum(max(p[at] - np.sqrt(p[at - 3] * p[at + 3]), 0.0) for p in (rows, columns))
    rms = np.sqrt(2 * excess) / np.hanning(TILE).sum()
    return {
        "rows": grid_ratio(rows),
        "columns": grid_ratio(columns),
        "rms": float(rms),
        "tiles": len(tiles),
    }


def of_flow(
    clips: Iterable[tuple[str, dict[str, np.ndarray], np.ndarray]],
) -> dict[str, float | int]:
    """`measure` of clips as `Evaluator.clips` gives them."""
    return measure(
        (np.asarray(prediction), fields["flow"].astype(np.float32), fields["flow_valid"])
        for _, fields, prediction in clips
    )


def main(argv: list[str] | None = None) -> None:
    """Prints the grid of a trained flow network on unseen scenes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", type=pathlib.Path, required=True, help="of configs/flow.py")
    parser.add_argument("--clips", type=int, default=24)
    args = parser.parse_args(argv)
    found = of_flow(open_run(args.network, scenes=args.clips).clips(args.clips))
    print(
        f"{args.network}: power at period 4 over its neighbours' {found['rows']:.2f} in rows, "
        f"{found['columns']:.2f} in columns; {found['rms']:.4f} px; {found['tiles']} flat tiles"
    )


if __name__ == "__main__":
    main()
