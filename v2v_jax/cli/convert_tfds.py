"""Gives a dataset of tensorflow-datasets array_record files beside its TFRecord files.

python -m v2v_jax.cli.convert_tfds data/movi/movi_e/256x256/1.0.0
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from v2v_jax.datasets.tfds.convert_tfds import convert
from v2v_jax.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, converts, and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="of a prepared version, as in movi_e/256x256/1.0.0")
    args = parser.parse_args(argv)
    try:
        count = convert(args.folder)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"{count} files written in {args.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
