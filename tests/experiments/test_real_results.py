"""Tables of runs on real video, from what the runs left."""

import json

import numpy as np
import pytest

from experiments import real_results
from experiments.real_results import davis_table, predicted, run_table, thresholded


class Truth:
    """Six sequences that validate or train, two that test: a disk that grows."""

    train, validation, test = ["a", "b"], ["c"], ["t", "u"]

    def __getitem__(self, name):
        y, x = np.mgrid[:36, :50]
        radius = 5 + "abctu".index(name) + np.arange(6)[:, None, None] / 3
        return np.hypot(y - 18, x - 25) < radius


def test_threshold_is_chosen_on_validation():
    truth = Truth()
    # The value that separates the validating sequence, and another one for those that test.
    values = {n: np.where(truth[n], 5.0, 4.0 if n == "c" else 1.0) for n in ("c", "t", "u")}
    threshold, masks = thresholded(values, truth)
    assert 4.0 <= threshold < 5.0
    np.testing.assert_array_equal(masks["t"], truth["t"])


def test_davis_table(tmp_path):
    truth = Truth()
    (tmp_path / "masks").mkdir()
    for seed, shift in ((0, 0), (1, 3)):
        masks = {
            f"s/{n}": np.packbits(np.roll(truth[n], shift, 2), axis=-1) for n in ("c", "t", "u")
        }
        np.savez(tmp_path / "masks" / f"davis_V2V-0.001-{seed}.npz", **masks)
    found = predicted(tmp_path / "masks" / "davis_V2V-0.001-0.npz", (36, 50))
    np.testing.assert_array_equal(found["t"], truth["t"])
    rows = {
        line.split("|")[1].strip(): line.split("|")[2:-1]
        for line in davis_table(tmp_path, truth).splitlines()[2:]
    }
    assert rows["all background"][0].strip() == "0.000"
    seeds = [float(v) for v in rows["V2V-0.001"][6].split(",")]
    assert seeds[0] == 1.0 and 0.5 < seeds[1] < 1.0
    assert float(rows["V2V-0.001"][0]) == pytest.approx(np.mean(seeds), abs=1e-3)
    assert 0.5 < float(rows["mean training mask"][0]) < 1.0  # all disks are in the middle


def test_run_table(tmp_path):
    line = dict(group="color", rate=1e-3, steps=10, seed=0, metric="ade", held_out=0.09, test=0.08)
    line |= {"by source": {"clips": dict(ade=0.07, baseline=0.1)}, "clips_per_second": 5.0}
    failed = dict(group="color", rate=0, steps=0, seed=0, error="no")
    text = "\n".join(map(json.dumps, (line, failed))) + "\n"
    (tmp_path / "results.jsonl").write_text(text)
    rows = run_table(tmp_path, lambda name: name.startswith("col")).splitlines()
    assert len(rows) == 3 and "clips 0.0700 (0.1000)" in rows[2]
    assert real_results.run_table(tmp_path, lambda name: name == "x").count("\n") == 1
