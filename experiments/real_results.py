"""Tables of what `experiments.real_runs` left: DAVIS by its official measures, people, colouring.

    python -m experiments.real_results --runs=results --davis=data/davis2016 --what=davis

RUNS holds results.jsonl and masks/, and what the teachers said of the test sequences:
`motion.npz` (Brox's motion beside the camera's) and `people.npz`. Thresholds are chosen on the six
validation sequences.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

from experiments.real_data import VALIDATION
from v2v_jax.datasets.readers.davis import Davis
from v2v_jax.evaluation.davis_measures import Statistics, measure, region, summarize

THRESHOLDS = 40
Masks = dict[str, np.ndarray]  # sequence → (T,H,W) bool at its own size


class Truth:
    """The masks of DAVIS 2016 by sequence, read once.

    Attributes:
      test, validation, train: names; those that validate do not train.
    """

    def __init__(self, root: str):
        self._splits = {split: Davis(root, split) for split in ("train", "test")}
        names = {s: [info.name for info in d.videos] for s, d in self._splits.items()}
        self.test, self.validation = names["test"], list(VALIDATION)
        self.train = [name for name in names["train"] if name not in VALIDATION]

        self._masks: Masks = {}

    def __getitem__(self, name: str) -> np.ndarray:
        """(T,H,W) bool."""
        if name not in self._masks:
            places = {i.name: (d, v) for d in self._splits.values() for v, i in enumerate(d.videos)}
            dataset, video = places[name]
            self._masks[name] = dataset.native_masks(video) == 1
        return self._masks[name]


def predicted(path: pathlib.Path, size: tuple[int, int]) -> Masks:
    """What a run wrote."""
    with np.load(path) as stored:
        return {
            name.partition("/")[2]: np.unpackbits(stored[name], axis=-1)[..., : size[1]] == 1
            for name in stored.files
        }


def measured(masks: Masks, truth: Truth, names: Iterable[str]) -> dict[str, Statistics]:
    """ "J" and "F" over sequences."""
    return summarize({name: measure(masks[name], truth[name]) for name in names})


def region_mean(masks: Masks, truth: Truth, names: Iterable[str]) -> float:
    """The mean of J over sequences, alone."""
    return float(np.mean([region(masks[n], truth[n])[1:-1].mean() for n in names]))


def resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(T,h,w) → (T,H,W) float32, bilinear."""
    picture = lambda v: Image.fromarray(v.astype(np.float32))
    scale = lambda v: picture(v).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.stack([np.asarray(scale(v)) for v in values])


def thresholded(values: dict[str, np.ndarray], truth: Truth) -> tuple[float, Masks]:
    """The threshold with the best J on the validation sequences, and all masks above it."""
    low, high = 0.0, max(float(v.max()) for v in values.values())
    candidates = np.linspace(low, high, THRESHOLDS, endpoint=False)
    above = lambda t: {n: values[n] > t for n in truth.validation}
    best = float(max(candidates, key=lambda t: region_mean(above(t), truth, truth.validation)))
    return best, {name: value > best for name, value in values.items()}


def simple_answers(runs: pathlib.Path, truth: Truth) -> dict[str, Masks]:
    """All background, the mean training mask, Brox's motion, each above its threshold."""
    names = [*truth.test, *truth.validation]
    size = truth[names[0]].shape[1:]
    mean = np.mean([truth[name].mean(0) for name in truth.train], 0)
    found = {"all background": {name: np.zeros_like(truth[name]) for name in names}}
    still = {name: np.broadcast_to(mean, truth[name].shape) for name in names}
    threshold, found["mean training mask"] = thresholded(still, truth)
    print(f"mean training mask above {threshold:.3f}")
    path = runs / "motion.npz"
    if path.exists():
        with np.load(path) as stored:
            speed = {n: resized(stored[n], size) for n in stored.files if n in names}
        threshold, found["Brox's motion"] = thresholded(speed, truth)
        print(f"Brox's motion above {threshold / 8:.2f} px beside the median")
    path = runs / "teacher.npz"
    if path.exists():  # of test sequences alone; nothing is chosen
        with np.load(path) as stored:
            moving = {n: resized(stored[f"{n}/moving"], size) > 127 / 8 for n in truth.test}
        unknown = {name: np.zeros_like(truth[name]) for name in truth.validation}
        found["ESPNetv2, the teacher"] = moving | unknown
    return found


def davis_table(runs: pathlib.Path, truth: Truth) -> str:
    """Markdown: a row a network, seeds beside one another, and the simple answers."""
    size = truth[truth.test[0]].shape[1:]
    seeds: dict[str, list[dict[str, Statistics]]] = collections.defaultdict(list)
    chosen: dict[str, list[float]] = collections.defaultdict(list)
    files = [p for kind in ("davis", "objects") for p in (runs / "masks").glob(f"{kind}*.npz")]
    for path in sorted(files):
        masks = predicted(path, size)
        name = path.stem.rpartition("-")[0].removeprefix("davis_")
        seeds[name].append(measured(masks, truth, truth.test))
        chosen[name].append(region_mean(masks, truth, truth.validation))
    for name, masks in simple_answers(runs, truth).items():
        seeds[name].append(measured(masks, truth, truth.test))
        chosen[name].append(region_mean(masks, truth, truth.validation))
    lines = [
        "| | J mean | J recall | J decay | F mean | F recall | F decay | J of each seed "
        "| J, validation |",
        "|---" * 9 + "|",
    ]
    for name, found in seeds.items():
        means = [np.mean([f[w] for f in found], 0) for w in ("J", "F")]
        cells = [f"{v:.3f}" for mean in means for v in mean]
        each = ", ".join(f"{f['J'].mean:.3f}" for f in found)
        lines.append(f"| {name} | {' | '.join(cells)} | {each} | {np.mean(chosen[name]):.3f} |")
    return "\n".join(lines)


def sequence_table(runs: pathlib.Path, truth: Truth, files: dict[str, str]) -> str:
    """Markdown: J mean and F mean of some runs (name → file) on every test sequence."""
    size = truth[truth.test[0]].shape[1:]
    all_masks = {name: predicted(runs / "masks" / f, size) for name, f in files.items()}
    lines = ["| sequence | " + " | ".join(f"{name}: J, F" for name in files) + " |"]
    lines.append("|---" * (1 + len(files)) + "|")
    for sequence in truth.test:
        cells = []
        for masks in all_masks.values():
            found = measure(masks[sequence], truth[sequence])
            cells.append(f"{found['J'].mean:.3f}, {found['F'].mean:.3f}")
        lines.append(f"| {sequence} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run_table(runs: pathlib.Path, wanted: Callable[[str], bool]) -> str:
    """Markdown: every run of the groups that are wanted."""
    lines = [
        "| group | rate | steps | seed | metric | validation | test | by source (baseline) "
        "| clips/s |",
        "|---" * 9 + "|",
    ]
    for line in (runs / "results.jsonl").read_text().splitlines():
        r = json.loads(line)
        if not wanted(r["group"]) or "held_out" not in r:
            continue
        by = "; ".join(
            f"{name} {v[r['metric']]:.4f} ({v['baseline']:.4f})"
            for name, v in r.get("by source", {}).items()
        )
        test = "" if r.get("test") is None else f"{r['test']:.4f}"
        cells = (r["group"], f"{r['rate']:g}", r.get("stopped", r["steps"]), r["seed"], r["metric"])
        cells += (f"{r['held_out']:.4f}", test, by, r["clips_per_second"])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=pathlib.Path, required=True)
    parser.add_argument("--davis", default="", help="root of DAVIS 2016, for --what=davis")
    parser.add_argument("--what", choices=("davis", "runs"), default="runs")
    parser.add_argument("--groups", default="", help="beginning of their names")
    args = parser.parse_args(argv)
    if args.what == "davis":
        print(davis_table(args.runs, Truth(args.davis)))
    else:
        print(run_table(args.runs, lambda name: name.startswith(args.groups)))


if __name__ == "__main__":
    main()
