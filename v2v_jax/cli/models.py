"""Lists the weights that ship with this version.

    v2v models
    v2v predict --checkpoint=NAME --video=in.mp4 --output=out.mp4

The card of each, in v2v_jax/zoo, says how it was trained and what it cannot do.
"""

from __future__ import annotations

import argparse

from v2v_jax import zoo
from v2v_jax.cli.command_line import Parser
from v2v_jax.system.console import console, print_table

_COLUMNS = ("name", "task", "trained on", "score", "parameters", "MB", "licence", "SHA-256")


def add_options(parser: Parser) -> None:
    """There are none."""


def run(options: argparse.Namespace) -> None:
    """Prints a row for each."""
    entries = zoo.read_index()
    if not entries:
        console.print(
            "No weights ship with this version. Train your own (v2v train --config=seg "
            "--workdir=runs/seg) and use them: v2v predict --checkpoint=runs/seg …"
        )
        return
    rows = [
        (
            *(entry.name, entry.task, entry.data, entry.score, f"{entry.parameters:,}"),
            *(f"{entry.bytes / 1e6:.1f}", entry.licence, entry.sha256[:12]),
        )
        for entry in entries
    ]
    print_table("v2v predict --checkpoint=NAME, v2v_jax.load(NAME)", _COLUMNS, rows)
