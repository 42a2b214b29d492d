"""docs/reference/configuration.md: every field of the recipes, made of `v2v_jax.run.config_fields`.

    python -m experiments.configuration_page

Defaults are those of the recipes in configs/, at full size on rendered scenes; where recipe=paper
has another one it stands behind.
"""

from __future__ import annotations

import argparse
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from v2v_jax.cli import config_options
from v2v_jax.datasets import DATASETS
from v2v_jax.run import recipes
from v2v_jax.run.config_fields import DATASET_FIELDS, FIELDS, Field
from v2v_jax.run.recipe_files import known_recipes
from v2v_jax.system.whole_files import write_text

PATH = pathlib.Path(__file__).parents[1] / "docs" / "reference" / "configuration.md"
_HEAD = """# Configuration

A recipe (`--config=seg`) is a complete configuration: every field below has a value. Print them
all, and change some:

```sh
v2v train --config=seg:demo --print_config
v2v train --config=seg:demo --config.batch_size=4 --config.num_steps=600 --workdir=runs/seg
```

`--print_config` prints each field with its value, as YAML, and ends. A field that does not exist is
an error that names the nearest one. Lists are quoted: `--config.preprocessing.crop_size="(64,64)"`.
Dataset, network, recipe and size are chosen after the colon, separated by commas:
`--config=seg:dataset=davis,model=v2v_2d`.

The defaults are those of the full-size recipes on rendered scenes. Where recipes differ, the names
of those that have another value stand before it. Where `recipe=paper` differs, its value follows.

This page is made of `v2v_jax/run/config_fields.py` by `python -m experiments.configuration_page`.
"""
_TABLE = "| field | default | unit | meaning |\n|---|---|---|---|\n"

Values = Mapping[str, Mapping[str, Any]]  # recipe → field → value


def configurations(recipe: str) -> Values:
    """The values of all fields of the installed recipes, as `recipe` has them: modern or paper."""
    names = known_recipes()
    return {name: flat(config_options.read(f"{name}:recipe={recipe}")) for name in names}


def flat(config: ConfigDict) -> dict[str, Any]:
    """field → value, of all fields: dotted names."""
    return dict(_flat(config.to_dict(), ""))


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def page() -> str:
    """The page, Markdown."""
    modern, paper = configurations("modern"), configurations("paper")
    parts = [_HEAD]
    for heading, fields in FIELDS.items():
        rows = [_row(name, field, default(name, modern, paper)) for name, field in fields.items()]
        parts.append(f"## {heading}\n\n{_TABLE}{''.join(rows)}")
        if heading == "Data":
            parts += [_dataset(name, modern) for name in DATASET_FIELDS]
    return "\n".join(parts)


def _dataset(name: str, modern: Values) -> str:
    entry, rows = DATASETS[name], []
    for option, field in DATASET_FIELDS[name].items():
        key = f"data.{option}"
        own = {r: values for r, values in modern.items() if values["data.name"] == name}
        value = default(key, own, own) if own else _code(entry.options[option])
        rows.append(_row(key, field, value, name))
    return f"### dataset={name}\n\n{_TABLE}{''.join(rows)}"


def default(name: str, modern: Values, paper: Values) -> str:
    """What the recipes have in a field: one value, or each recipe's."""
    ours, theirs = _by_value(name, modern), _by_value(name, paper)
    if ours == theirs or not theirs:
        return ours
    return f"{ours}. Paper: {theirs}" if ours else f"Paper: {theirs}"


def _by_value(name: str, configurations: Values) -> str:
    """`32`; or `32`, c3d `30`: what most recipes have, then those that have another value."""
    found: dict[str, list[str]] = {}
    for recipe, values in configurations.items():
        if name in values:
            found.setdefault(_code(values[name]), []).append(recipe)
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    most = ordered and len(ordered[0][1]) > sum(map(len, found.values())) / 2
    texts = [f"{', '.join(recipes)} {value}" for value, recipes in ordered]
    return "; ".join([ordered[0][0], *texts[1:]] if most else texts)


def _code(value: Any) -> str:
    if value == "":
        return "empty"
    if isinstance(value, float) and 0 < abs(value) < 1e-2:
        digits = math.floor(math.log10(abs(value)))
        return f"`{value / 10**digits:g}e{digits}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _row(name: str, field: Field, value: str, dataset: str = "") -> str:
    meaning = f"{field.meaning} {_allowed(name, dataset)}".strip()
    return f"| `{name}` | {value} | {field.unit} | {meaning} |\n"


def _allowed(name: str, dataset: str) -> str:
    """A sentence on what `recipes.validate` wants of a value; empty where others check it."""
    if name in recipes.CHOICES:
        *words, last = (f"`{word}`" for word in recipes.CHOICES[name])
        return f"Known: {', '.join(words)} and {last}."
    if name in recipes.TUPLES:
        length, (_, words) = recipes.TUPLES[name]
        return f"{length} numbers, each {words}."
    rules = recipes.NUMBERS
    if dataset:
        own = recipes.ANY_DATA_NUMBERS | recipes.DATA_NUMBERS.get(dataset, {})
        rules = {f"data.{option}": rule for option, rule in own.items()}
    words = rules[name][1] if name in rules else ""
    return f"{words[:1].upper()}{words[1:]}." if words else ""


def main(argv: list[str] | None = None) -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=PATH)
    write_text(parser.parse_args(argv).output, page())


if __name__ == "__main__":
    main()
