"""What table3, distillation and flow_pictures share: methods that give flow, and their scores."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from v2v_jax.brox import brox_flow
from v2v_jax.datasets.readers.sintel import Sintel
from v2v_jax.tasks import flow_metrics, metrics

# The default is what made the paper's labels; more warps a level find large motion better.
TEACHERS: dict[str, dict[str, float]] = {"Brox": {}, "Brox, accurate": brox_flow.ACCURATE}


def teacher_flow(frames: np.ndarray, name: str = "Brox") -> np.ndarray:
    """Brox's flow from every frame to the next.

    Args:
      frames: (T,H,W,3) uint8 RGB.
      name: of `TEACHERS`.

    Returns:
      (T-1,H,W,2) float32 (u, v) pixels.
    """
    grey = brox_flow.grey_of_rgb(frames)
    return np.asarray(brox_flow.brox_flow(grey[:-1], grey[1:], **TEACHERS[name]))


class Score:
    """Flow metrics over frames of one dataset, pooled over voxels."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self._total: dict | None = None

    def add(
        self,
        flow: np.ndarray,
        truth: np.ndarray,
        valid: np.ndarray,
        occluded: np.ndarray | None = None,
    ) -> None:
        """Counts (…,H,W,2) flow against the truth where (…,H,W) `valid`."""
        as_clip = lambda x: None if x is None else x.reshape(-1, 1, *x.shape[-3:])
        mask = lambda x: None if x is None else as_clip(x[..., None])[..., 0]
        sums = _sums(as_clip(flow), as_clip(truth), mask(valid), mask(occluded))
        self._total = metrics.add(self._total, sums)

    def __add__(self, other: Score) -> Score:
        """Both scores' voxels together."""
        both = Score()
        both._total = {name: value + other._total[name] for name, value in self._total.items()}
        return both

    @property
    def counted(self) -> bool:
        """Whether anything was added."""
        return self._total is not None

    def values(self) -> dict[str, float]:
        """See `flow_metrics.summarize`."""
        return flow_metrics.summarize(self._total)


@jax.jit
def _sums(flow, truth, valid, occluded):
    counts = flow_metrics.truth_counts(truth, valid, occluded)
    return {**counts, **flow_metrics.error_sums(flow, truth, valid, occluded)}


def sintel_sequences(root: str, render_pass: str) -> list[str]:
    """Names of all sequences that are at hand, sorted."""
    passes = ("clean", "final") if render_pass == "both" else (render_pass,)
    folders = [pathlib.Path(root, "training", p) for p in passes]
    return sorted({f.name for folder in folders if folder.is_dir() for f in folder.iterdir()})


def open_sintel(root: str, sequences: list[str], render_pass: str, partial: bool) -> Sintel:
    """These sequences of Sintel, whichever split they belong to.

    Raises:
      DataError: they are not there; see `Sintel`.
    """
    return Sintel(root, "test", render_pass=render_pass, held_out=sequences, partial=partial)


def sintel_truth(
    dataset: Sintel,
) -> Iterator[tuple[str, np.ndarray, Mapping[int, tuple[np.ndarray, ...]]]]:
    """Yields (name, frames (T,H,W,3) uint8, index → labels) of every video that has labels.

    The index is that of the frame in `frames` from which the flow goes to the next one; the labels
    are `Sintel.native_truth`'s.
    """
    pairs = dataset.native_pairs()
    for video, info in enumerate(dataset.videos):
        indices = [index for v, index in pairs if v == video]
        if indices:
            truth = {index: dataset.native_truth(video, index) for index in indices}
            yield info.name, np.stack(list(dataset.native_frames(video))), truth


def pairs_of(frames: np.ndarray, indices: list[int], name: str) -> np.ndarray:
    """The teacher's flow (N,H,W,2) of the pairs that begin at `indices`, and of no others."""
    flow = functools.partial(teacher_flow, name=name)
    if len(indices) == len(frames) - 1:
        return flow(frames)
    return np.concatenate([flow(frames[i : i + 2]) for i in indices])
