"""Converts C3D's pretrained weights, once, or shows what a weight file holds.

    v2v convert FILE                  # layers, missing, left over, the input it expects
    v2v convert FILE --output=DIR

DIR then holds C3D's parameters in this package's layout with the input that they expect, for
--config.init_from=DIR and v2v_jax.load_c3d(DIR). docs/reference/pretrained.md lists the formats.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from v2v_jax.cli.command_line import Parser, path

if TYPE_CHECKING:
    from v2v_jax.pretrained.weights import Weights


def add_options(parser: Parser) -> None:
    """See the module."""
    add = parser.add_argument
    add("file", type=path, metavar="FILE", help="the weight file, or the folder of a run")
    add("--output", type=path, metavar="DIR", help="a folder that does not exist yet")
    add(
        "--mean",
        type=path,
        metavar="FILE",
        help="Caffe's mean cube (binaryproto) that belongs to the weights",
    )
    add("--color_order", choices=("bgr", "rgb"), help="of the input, if the file's is another")


def run(options: argparse.Namespace) -> None:
    """Reports and converts; see `v2v_jax.pretrained`."""
    from v2v_jax.pretrained.folders import write_folder
    from v2v_jax.pretrained.reading import read_weights

    weights = _with_input(read_weights(options.file), options.mean, options.color_order)
    report(weights)
    if options.output:
        write_folder(weights, options.output)
        print(f"Written to {options.output}: use --config.init_from={options.output}")


def _with_input(weights: Weights, mean: str | None, color_order: str | None) -> Weights:
    from v2v_jax.pretrained.caffe import read_mean

    changes: dict = {"color_order": color_order} if color_order else {}
    if mean:
        changes["mean"] = read_mean(mean)
    return dataclasses.replace(
        weights, preprocessing=dataclasses.replace(weights.preprocessing, **changes)
    )


def report(weights: Weights) -> None:
    """Prints what was read, what C3D has beside it, and what belongs to no layer."""
    print(f"{weights.path}: {weights.format}")
    for name, layer in weights.params.items():
        print(f"  {name:10} kernel {'×'.join(map(str, layer['kernel'].shape))}")
    for title, names in (("missing", weights.missing), ("left over", weights.left_over)):
        if names:
            more = f" and {len(names) - 20} more" if len(names) > 20 else ""
            print(f"{title}: {', '.join(names[:20])}{more}")
    p = weights.preprocessing
    mean, std = (", ".join(f"{value:.6g}" for value in values) for values in (p.mean, p.std))
    print(f"input: {p.color_order.upper()}, 0..255, minus ({mean}), divided by ({std})")
