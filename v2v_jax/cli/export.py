"""Writes a trained network as one file that runs without this package's model code.

    v2v export --checkpoint=runs/seg --output=seg.v2v
    v2v export --checkpoint=runs/seg --output=small.v2v --bits=8
    v2v predict --checkpoint=seg.v2v --video=in.mp4 --output=out.mp4

docs/guides/export.md says what is in the file, and how to call it with nothing but JAX and NumPy.
With --bits it holds the weights alone, in 8, 16 or 32 bits each, for this package.
"""

from __future__ import annotations

import argparse
import os

from v2v_jax.cli.command_line import Parser, path
from v2v_jax.errors import ConfigError
from v2v_jax.system import own_modules


def add_options(parser: Parser) -> None:
    """See the module."""
    add = parser.add_argument
    add("--checkpoint", type=path, required=True, help="a run's folder, or one of its steps")
    add("--output", type=path, required=True, help="the file to write")
    add("--dtype", choices=("auto", "float32", "bfloat16"), help="of the computation")
    add("--bits", type=int, choices=(8, 16, 32), help="write weights alone, of so many bits")
    add("--overwrite", action="store_true", help="replace an existing file")
    add("--saved_model", type=path, metavar="FOLDER", help="write a TensorFlow SavedModel too")
    own_modules.add_argument(parser)


def run(options: argparse.Namespace) -> None:
    """Exports; see `v2v_jax.inference.export`."""
    from v2v_jax.inference.export import write_export, write_saved_model, write_weights_of
    from v2v_jax.inference.network import from_checkpoint

    own_modules.import_all(options.modules)
    if options.bits and options.dtype:
        raise ConfigError("--dtype is of an exported network; with --bits leave it out.")
    network = from_checkpoint(options.checkpoint)
    if options.bits:
        bits, overwrite = options.bits, options.overwrite
        write_weights_of(network, options.output, bits=bits, overwrite=overwrite)
    else:
        dtype = options.dtype or "auto"
        write_export(network, options.output, dtype=dtype, overwrite=options.overwrite)
    if options.saved_model:
        write_saved_model(network, options.saved_model)
    size = os.path.getsize(options.output) / 1e6
    clip = "x".join(map(str, network.clip))
    name = network.task.name
    print(f"{options.output}: {name}, step {network.step}, clips of {clip}, {size:.1f} MB")
