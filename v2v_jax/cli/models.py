"""Lists the weights that ship with this version.

    v2v models
    v2v models --card=NAME
    v2v predict --checkpoint=NAME --video=in.mp4 --output=out.mp4

A card says how weights were trained, how good they are and what they cannot do.
"""

from __future__ import annotations

import argparse

from v2v_jax import zoo
from v2v_jax.cli.command_line import Parser
from v2v_jax.system.console import console


def add_options(parser: Parser) -> None:
    """See the module."""
    parser.add_argument("--card", metavar="NAME", help="show all that is known of these weights")


def run(options: argparse.Namespace) -> None:
    """Prints what the index says of each, or one card."""
    entries = zoo.read_index()
    if options.card is not None:
        print(zoo.card(zoo.entry_of(options.card)))
        return
    if not entries:
        console.print(
            "No weights ship with this version. Train your own (v2v train --config=seg "
            "--workdir=runs/seg) and use them: v2v predict --checkpoint=runs/seg …"
        )
        return
    for entry in entries:
        console.print(f"{entry.name}: {entry.task}, trained on {entry.data}; {entry.score}")
        console.print(
            f"  {entry.parameters:,} parameters, {entry.bytes / 1e6:.1f} MB, {entry.licence} "
            f"(data: {entry.data_licence}), SHA-256 {entry.sha256}"
        )
    console.print("Use one by its name: v2v predict --checkpoint=NAME, v2v_jax.load(NAME).")
