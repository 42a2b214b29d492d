"""What there is to know about the weights in the zoo: a card each, of the index and a text.

docs/reference/models.md is `page` of the index; a test compares them.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from v2v_jax.errors import CheckpointError
from v2v_jax.zoo import index
from v2v_jax.zoo.index import ShippedWeights

_HEAD = """# Models

Weights that come with the package. Nothing is fetched:

```python
import v2v_jax

predictor = v2v_jax.load("{name}")          # also v2v predict --checkpoint={name} …
values = predictor("in.mp4")                # --config.init_from={name} starts a training from them
```

`v2v models` lists them, `v2v models --card=NAME` shows a card. The files are verified by their
SHA-256 when they are loaded; their format is that of `v2v export --bits`
([export](../guides/export.md)). This page is made of `v2v_jax/zoo/index.json` and a text for each
(`python -m experiments.zoo page`).
"""
_COLUMNS = ("name", "task", "trained on", "score", "parameters", "MB")


def card(entry: ShippedWeights, folder: str | os.PathLike[str] | None = None) -> str:
    """The card of some weights, Markdown.

    Args:
      folder: of the index; None: the package's own.

    Raises:
      CheckpointError: its text is missing.
    """
    path = pathlib.Path(index.FOLDER if folder is None else folder) / entry.card
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise CheckpointError(
            f"The card {path} cannot be read ({error.strerror}); install the package again."
        ) from error
    facts = (
        ("Task", entry.task),
        ("Score", entry.score),
        (
            f"{entry.metric}, {entry.measured_on}",
            f"{entry.value:.4g} as shipped, {entry.value_before:.4g} in 32 bits "
            f"({entry.loss:.2%} off); the trivial answer has {entry.baseline:.4g}",
        ),
        ("Network", f"{entry.model}, {entry.parameters:,} parameters, clips of {entry.clip}"),
        ("File", f"`{entry.file}`, {entry.bytes:,} bytes, {entry.bits} bits a weight"),
        ("SHA-256", f"`{entry.sha256}`"),
        ("Trained on", entry.data),
        ("Licence of that data", entry.data_licence),
        ("Licence of the weights", entry.licence),
    )
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts)
    return f"## {entry.name}\n\n| | |\n|---|---|\n{rows}\n\n{text}\n"


def page(entries: Sequence[ShippedWeights], folder: str | os.PathLike[str] | None = None) -> str:
    """docs/reference/models.md: a table of all weights and their cards.

    Raises:
      CheckpointError: a card's text is missing.
    """
    if not entries:
        return f"{_HEAD.format(name='NAME')}\nNone ship with this version.\n"
    lines = [
        f"| [{e.name}](#{e.name}) | {e.task} | {e.data} | {e.score} | {e.parameters:,} | "
        f"{e.bytes / 1e6:.1f} |"
        for e in entries
    ]
    table = "\n".join([f"| {' | '.join(_COLUMNS)} |", "|" + "---|" * len(_COLUMNS), *lines])
    cards = "\n".join(card(entry, folder) for entry in entries)
    return f"{_HEAD.format(name=entries[0].name)}\n{table}\n\n{cards}"
