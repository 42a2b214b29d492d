"""Legends as a page sets them: text in the page's own colours, patches and scales as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from v2v_jax.drawing.legends import Chips, ColorBar, Legend, Wheel, Words
from v2v_jax.evaluation.report.embedded_media import png_uri


def markup(legend: Legend | np.ndarray) -> Mapping[str, Any]:
    """What `parts.html` needs: "kind" and that kind's variables."""
    if isinstance(legend, Chips):
        chips = [(name, png_uri(chip)) for name, chip in zip(legend.names, legend.chips)]
        return {"kind": "chips", "chips": chips}
    if isinstance(legend, ColorBar):
        places = np.linspace(0, 100, len(legend.ticks)).round(2).tolist()
        ticks = list(zip(legend.ticks, places, strict=True))
        return {"kind": "bar", "bar": png_uri(legend.table[None]), "ticks": ticks}
    if isinstance(legend, Wheel):
        return {"kind": "wheel", "wheel": png_uri(_round(legend.disc)), "text": legend.text}
    if isinstance(legend, Words):
        return {"kind": "words", "lines": legend.lines}
    picture = legend.picture() if isinstance(legend, Legend) else legend
    return {"kind": "picture", "picture": png_uri(picture)}


def _round(disc: np.ndarray) -> np.ndarray:
    """(n,n,3) uint8 → (n,n,4), transparent outside of the disc."""
    axis = (np.arange(len(disc)) + 0.5) * 2 / len(disc) - 1
    inside = np.hypot(axis[:, None], axis) <= 1
    return np.dstack([disc, np.where(inside, 255, 0).astype(np.uint8)])
