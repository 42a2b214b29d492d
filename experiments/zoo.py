"""Puts weights into the zoo: stores them in 8 or 16 bits, measures what that costs, lists them.

    python -m experiments.zoo add --name=flow --weights=runs/flow --trained_on="…" \\
        --data_licence="…" --score="…" [--data=folder --set root=DIR] [--bits=8] \\
        [--split=validation --measured_on="…"]
    python -m experiments.zoo page

WEIGHTS are a run's folder, a file of `v2v export --bits` or one of `experiments.half_precision`.
First write the card's text, v2v_jax/zoo/NAME.md.

The task's own metrics are taken on the test split of the data that the weights were trained on, or
of --data, once with the weights as they are and once as they will ship. Where the headline metric
changes by more than --most (1 %), nothing is added. A few windows differ by that from chance alone:
take forty videos, and --split=validation where bits are chosen by what is found. Paths of this
machine are taken out of the record.
One command, one commit: the file, index.json and docs/reference/models.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments import half_precision
from v2v_jax.errors import ConfigError, DataError, UserError
from v2v_jax.run.weight_file import StoredWeights, is_weights, read_weights, write_weights
from v2v_jax.system.whole_files import write_text
from v2v_jax.zoo import cards, index
from v2v_jax.zoo.index import ShippedWeights

if TYPE_CHECKING:
    from v2v_jax.run.experiment import Experiment

ROOT = pathlib.Path(__file__).resolve().parents[1]
MOST_BYTES = 45_000_000  # of the whole zoo


def read_source(path: str) -> StoredWeights:
    """Weights from wherever training left them; see the module.

    Raises:
      UserError: they cannot be read.
    """
    if not path.endswith(".npz"):
        from v2v_jax.inference.network import from_checkpoint

        if is_weights(path):
            return read_weights(path)
        network = from_checkpoint(path)
        return StoredWeights(network.params, network.about, network.step)
    try:
        about, params = half_precision.read(path)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"The weights {path} cannot be read ({error}).") from error
    return StoredWeights(params, about)


def without_paths(value: Any) -> Any:
    """A record in which every path of a machine is its last part."""
    if isinstance(value, dict):
        return {key: without_paths(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(part) for part in value]
    if isinstance(value, str) and os.path.isabs(value):
        return os.path.basename(value.rstrip("/"))
    return value


def evaluate(
    weights: Sequence[StoredWeights], data: dict[str, Any] | None = None, split: str = "test"
) -> list[dict[str, float]]:
    """The task's metrics of each on a split.

    Args:
      weights: of one network.
      data: what replaces `config.data` of the record; None: nothing does.
      split: "test" or "validation".
    """
    import jax

    from v2v_jax.evaluation.evaluator import Evaluator
    from v2v_jax.models.standardization import fold

    experiment = experiment_of(weights[0].about, data, split)
    with jax.set_mesh(experiment.mesh):
        evaluator = Evaluator(experiment)
        return [evaluator(jax.device_put(fold(one.params))) for one in weights]


def experiment_of(
    about: Mapping[str, Any], data: Mapping[str, Any] | None, split: str
) -> Experiment:
    """A split of data for the network of a stored record; fields that it lacks have defaults.

    Args:
      about: the record that is stored with every checkpoint.
      data: what replaces its `config.data`; None: nothing does.
      split: "test" or "validation".
    """
    from v2v_jax.run import recipes
    from v2v_jax.run.experiment import make_experiment
    from v2v_jax.tasks import stored_options

    stored = dict(about["config"]) | {"task_options": stored_options(about)}
    options = recipes.parse_arg("", dataset="scenes", model=stored["model"]["name"])
    config = recipes.make_config(stored["task"], options, num_steps=1, learning_rate=1.0)
    for key in ("task_options", "model", "preprocessing"):
        config[key].update(stored[key])
    config.dtype, config.seed = stored["dtype"], stored["seed"]
    with config.unlocked():
        config.data = dict(stored["data"] if data is None else data) | {"cache": ""}
    config.feed, config.init_from = "device", ""
    config.batch_size = min(stored["batch_size"], 8)  # metrics do not depend on it; CPUs gain
    return make_experiment(config, split)


def add(options: argparse.Namespace) -> ShippedWeights:
    """Adds or replaces an entry.

    Raises:
      UserError: the weights cannot be read, their card is missing, or too much is lost or taken.
    """
    folder = pathlib.Path(options.zoo)
    text = folder / f"{options.name}.md"
    if not text.is_file():
        raise DataError(f"Write the card's text first: {text}.")
    source = read_source(options.weights)
    data = _data(options)
    source = dataclasses.replace(source, about=without_paths(dict(source.about)), bits=options.bits)
    file = folder / f"{options.name}.v2v"
    part = folder / f".{options.name}.part"
    try:
        write_weights(part, source)
        before, after = evaluate((source, read_weights(part)), data, options.split)
        entry = _entry(options, source, before, after, part)
        print(f"{entry.metric}: {entry.value_before:.5f} before, {entry.value:.5f} after")
        if not entry.loss <= options.most:
            raise ConfigError(
                f"{entry.bits} bits change {entry.metric} by {entry.loss:.2%}, more than "
                f"{options.most:.2%}; take --bits=16."
            )
        others = [e for e in index.read_index(folder) if e.name != entry.name]
        total = sum(e.bytes for e in (*others, entry))
        if total > MOST_BYTES:
            raise ConfigError(f"The zoo would take {total / 1e6:.1f} MB; 45 MB are the most.")
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    entries = sorted((*others, entry), key=lambda e: e.name)
    listed = json.dumps([dataclasses.asdict(e) for e in entries], indent=1, ensure_ascii=False)
    write_text(folder / index.INDEX, listed + "\n")
    return entry


def _entry(
    options: argparse.Namespace,
    source: StoredWeights,
    before: dict[str, float],
    after: dict[str, float],
    file: pathlib.Path,
) -> ShippedWeights:
    from v2v_jax.tasks import task_class

    about, content = source.about, file.read_bytes()
    metric = task_class(about["task"]).headline
    rules, model = about["preprocessing"], about["model"]
    plain = read_weights(file).params
    return ShippedWeights(
        name=options.name,
        file=f"{options.name}.v2v",
        task=about["task"],
        data=options.trained_on,
        data_licence=options.data_licence,
        score=options.score,
        metric=metric,
        measured_on=options.measured_on,
        value=_rounded(after[metric]),
        value_before=_rounded(before[metric]),
        baseline=_rounded(after[f"baseline_{metric}"]),
        model=f"{model['name']}, {model['width']:g} of the width",
        clip="×".join(map(str, (rules["clip_length"], *rules["crop_size"]))),
        parameters=sum(leaf.size for layer in plain.values() for leaf in layer.values()),
        bits=source.bits,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        licence="Apache-2.0",
        card=f"{options.name}.md",
    )


def _rounded(value: float) -> float:
    """To six digits: the rest depends on the machine."""
    return float(f"{value:.6g}") if math.isfinite(value) else float(value)


def _data(options: argparse.Namespace) -> dict[str, Any] | None:
    """`config.data` of the options; None where nothing is said."""
    import ast

    from v2v_jax.datasets import dataset_entry

    if not options.data:
        if options.set:
            raise ConfigError("--set changes --data; name that, too.")
        return None
    data: dict[str, Any] = {"name": options.data, **dataset_entry(options.data).options}
    for setting in options.set:
        key, _, text = setting.partition("=")
        if key not in data:
            raise ConfigError(f"{options.data} has no option {key}; it has {', '.join(data)}.")
        data[key] = text if isinstance(data[key], str) else ast.literal_eval(text)
    return data


def write_page(zoo: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Writes docs/reference/models.md."""
    write_text(pathlib.Path(path), cards.page(index.read_index(zoo), zoo))


def main(argv: list[str] | None = None) -> int:
    """Adds an entry, or only writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("add", "page"))
    parser.add_argument("--name", help="as in v2v_jax.load(NAME)")
    parser.add_argument("--weights")
    parser.add_argument("--trained_on", metavar="TEXT")
    parser.add_argument("--data_licence", metavar="TEXT")
    parser.add_argument("--score", metavar="TEXT")
    parser.add_argument("--measured_on", metavar="TEXT", default="its own test split")
    parser.add_argument("--data", default="", help="dataset to measure on")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--bits", type=int, choices=(8, 16, 32), default=8)
    parser.add_argument(
        "--most", type=float, default=0.01, help="by what share the metric may change"
    )
    parser.add_argument("--zoo", default=index.FOLDER, help="default: the package's")
    parser.add_argument("--page", default=ROOT / "docs" / "reference" / "models.md")
    options = parser.parse_args(argv)
    try:
        if options.what == "add":
            needed = ("name", "weights", "trained_on", "data_licence", "score")
            if missing := [name for name in needed if not getattr(options, name)]:
                raise ConfigError(f"add needs --{', --'.join(missing)}.")
            print(cards.card(add(options), options.zoo))
        write_page(options.zoo, options.page)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
