"""Gives a dataset of tensorflow-datasets array_record files beside its TFRecord files.

    v2v convert-tfds data/movi/movi_e/256x256/1.0.0

Random access needs them, and Kubric's MOVi is published as TFRecord. A run that was interrupted
goes on where it stopped; delete the TFRecord files afterwards if you like.
"""

from __future__ import annotations

import argparse

from v2v_jax.cli.command_line import Parser, path


def add_options(parser: Parser) -> None:
    """See the module."""
    parser.add_argument(
        "folder",
        type=path,
        metavar="FOLDER",
        help="of a prepared version, as in movi_e/256x256/1.0.0",
    )


def run(options: argparse.Namespace) -> None:
    """Converts; see `v2v_jax.datasets.tfds.convert_tfds.convert`."""
    from v2v_jax.datasets.tfds.convert_tfds import convert

    print(f"{convert(options.folder)} files written in {options.folder}")
