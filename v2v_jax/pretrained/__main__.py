"""Converts a weight file once: python -m v2v_jax.pretrained FILE --output DIR.

DIR then holds C3D's parameters in this package's layout with the input that they expect, for
--config.init_from=DIR and load_c3d(DIR). FILE may be of any format of docs/pretrained.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from v2v_jax.errors import UserError
from v2v_jax.pretrained.caffe import read_mean
from v2v_jax.pretrained.folders import write_folder
from v2v_jax.pretrained.reading import read_weights
from v2v_jax.pretrained.weights import Weights


def main(argv: Sequence[str] | None = None) -> int:
    """Converts; returns 0, or 1 after one sentence on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m v2v_jax.pretrained",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="the weight file, or the folder of a run")
    parser.add_argument("--output", metavar="DIR", help="a folder that does not exist yet")
    parser.add_argument(
        "--mean", metavar="FILE", help="Caffe's mean cube (binaryproto) that belongs to the weights"
    )
    parser.add_argument(
        "--color_order", choices=("bgr", "rgb"), help="of the input, where the file's is another"
    )
    options = parser.parse_args(argv)
    try:
        weights = _with_input(read_weights(options.file), options.mean, options.color_order)
        report(weights)
        if options.output:
            write_folder(weights, options.output)
            print(f"Written to {options.output}: use --config.init_from={options.output}")
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def _with_input(weights: Weights, mean: str | None, color_order: str | None) -> Weights:
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


if __name__ == "__main__":
    sys.exit(main())
