"""Metrics in words: every metric of every task has a name that people can read."""

import numpy as np
import pytest

from tests.tiny import SMALLEST, tiny_config
from v2v_jax.run.experiment import make_experiment
from v2v_jax.tasks import metrics
from v2v_jax.tasks.metric_names import in_words


@pytest.mark.parametrize(
    "name, words",
    [
        ("epe_s0-10", "EPE at 0 to 10 px"),
        ("epe_s40+", "EPE at 40 px and more"),
        ("outliers_3px", "off by more than 3 px"),
        ("within_1.25", "within a factor of 1.25"),
        ("iou/sky", "IoU, sky"),
        ("iou/vertical_mix", "IoU, vertical_mix"),  # a class's name is its own
        ("of_ones_own", "of ones own"),
    ],
)
def test_names(name, words):
    assert in_words(name) == words


@pytest.mark.parametrize("name", ["seg", "flow", "color", "depth"])
def test_no_metric_of_a_task_shows_its_file_name(name):
    task = make_experiment(tiny_config(name, SMALLEST), "test").task
    batch = {field: np.zeros((1, 1, 2, 2)) for field in task.evaluation_fields}
    batch |= {"mask": np.ones(1, bool), "video": np.zeros((1, 1, 2, 2, 3), np.uint8)}
    batch["labels"] = np.zeros((1, 1, 2, 2), np.int32)
    batch["flow"], batch["flow_valid"] = np.zeros((1, 1, 2, 2, 2)), np.ones((1, 1, 2, 2), bool)
    batch["flow_occluded"] = np.zeros((1, 1, 2, 2), bool)
    sums = task.sums(np.zeros((1, 1, 2, 2, task.num_outputs), np.float32), batch)
    with np.errstate(all="ignore"):
        values = task.summarize(metrics.add(None, sums))
    names = {key.removeprefix("baseline_").partition("/")[0] for key in values}
    words = {in_words(name) for name in names}
    assert len(words) == len(names) and not any("_" in word for word in words)
