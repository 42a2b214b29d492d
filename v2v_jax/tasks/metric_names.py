"""Metrics in words: what a name such as `epe_s0-10` is called on a page that people read.

The one place for it. In files (metrics.json, metrics.jsonl) metrics keep their names.
"""

from __future__ import annotations

import re

_WORDS = {
    "miou": "mean IoU",
    "iou": "IoU",
    "mean_class_accuracy": "mean accuracy of the classes",
    "top5_accuracy": "top-5 accuracy",
    "share": "share of all",
    "epe": "EPE",
    "epe_native": "EPE in native pixels",
    "epe_matched": "EPE where matched",
    "epe_unmatched": "EPE where unmatched",
    "fl_all": "Fl-all",
    "rmse": "RMSE",
    "rmse_log": "RMSE of log depth",
    "abs_rel": "absolute relative error",
    "ade": "ADE",
}
_PATTERNS = (
    (r"epe_s([\d.]+)-([\d.]+)", r"EPE at \1 to \2 px"),
    (r"epe_s([\d.]+)\+", r"EPE at \1 px and more"),
    (r"outliers_([\d.]+)px", r"off by more than \1 px"),
    (r"within_([\d.]+)", r"within a factor of \1"),
)


def in_words(name: str) -> str:
    """A metric's name for people: "epe_s0-10" → "EPE at 0 to 10 px", "iou/sky" → "IoU, sky".

    A name that is not known has its underscores taken out.
    """
    metric, slash, part = name.partition("/")
    if slash:
        return f"{in_words(metric)}, {part}"
    if name in _WORDS:
        return _WORDS[name]
    for pattern, words in _PATTERNS:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, words, name)
    return name.replace("_", " ")
