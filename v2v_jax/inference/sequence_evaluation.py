"""Object masks of whole sequences at their own size, by the official measures of DAVIS 2016.

`Evaluator` looks at the crops that the network sees; a benchmark looks at every pixel of every
frame. Any dataset that has `native_frames` and `native_masks` is measured so (`readers.davis`).
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from v2v_jax import datasets
from v2v_jax.datasets.base.video_dataset import IGNORE_LABEL
from v2v_jax.evaluation.davis_measures import Statistics, measure, summarize
from v2v_jax.inference.network import read_network
from v2v_jax.inference.predictor import Predictor
from v2v_jax.system.console import console, print_table, progress
from v2v_jax.system.whole_files import write_text

Measures = dict[str, Statistics]  # "J" and "F"


def measure_sequences(predictor: Predictor, dataset: Any) -> dict[str, Measures]:
    """name → "J" and "F" of every sequence of a dataset with `native_frames` and `native_masks`.

    Void pixels count as background in both masks.
    """
    results = {}
    numbered = list(enumerate(dataset.videos))
    for video, info in progress(numbered, len(numbered), "sequences"):
        found = np.stack(list(predictor.stream(dataset.native_frames(video))))
        truth = dataset.native_masks(video)
        results[info.name] = measure((found == 1) & (truth != IGNORE_LABEL), truth == 1)
    return results


def evaluate_sequences(
    config: ConfigDict, workdir: str | pathlib.Path
) -> dict[str, Measures] | None:
    """The measures of a run's best checkpoint: prints a table, writes eval/sequences.json.

    Returns:
      name → "J" and "F" of every sequence; None where the dataset or the task has no such measure,
      and in all processes but the first.

    Raises:
      CheckpointError, DataError: as `read_network` and the dataset.
    """
    workdir = pathlib.Path(workdir)
    size = tuple(config.preprocessing.frame_size)
    dataset = datasets.load(config.data, "test", size, config.preprocessing.clip_length)
    if jax.process_index() > 0 or not hasattr(dataset, "native_masks"):
        return None
    predictor = Predictor(read_network(workdir))
    if len(predictor.label_names) != 2:
        return None
    results = measure_sequences(predictor, dataset)
    summary = summarize(results)
    named = lambda measures: {name: found._asdict() for name, found in measures.items()}
    written = {
        "summary": named(summary),
        "sequences": {name: named(found) for name, found in results.items()},
    }
    (workdir / "eval").mkdir(exist_ok=True)
    write_text(workdir / "eval" / "sequences.json", json.dumps(written, indent=2) + "\n")
    print_sequences(dataset.name, {**results, "mean": summary})
    console.print(f"Measures of whole sequences are in {workdir / 'eval' / 'sequences.json'}")
    return results


def print_sequences(dataset: str, results: dict[str, Measures]) -> None:
    """A table with a row a sequence."""
    heads = [f"{name} {what}" for name in ("J", "F") for what in Statistics._fields]
    rows = [
        (name, *(f"{value:.3f}" for which in ("J", "F") for value in found[which]))
        for name, found in results.items()
    ]
    print_table(f"whole sequences of {dataset}", ("sequence", *heads), rows)
