"""Prepares GATECH for tensorflow-datasets, as array_record files with random access.

python -m v2v_jax.datasets.gatech.prepare_tfds --source=DIR --data_dir=DIR
"""

from __future__ import annotations

import argparse
import os
import sys

import tensorflow_datasets as tfds

from v2v_jax.datasets.gatech import gatech_dataset_builder
from v2v_jax.errors import UserError


def prepare(
    source: str | os.PathLike[str], data_dir: str | os.PathLike[str], config: str = "default"
) -> None:
    """Decodes the files in `source` into data_dir; does nothing if it is there already."""
    builder = gatech_dataset_builder.Builder(
        data_dir=data_dir, config=config, file_format="array_record"
    )
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=os.fspath(source))
    )


def main(argv: list[str] | None = None) -> int:
    """Reads the command line, prepares, and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [config.name for config in gatech_dataset_builder.Builder.BUILDER_CONFIGS]
    parser.add_argument("--config", choices=known, default="default")
    parser.add_argument("--source", required=True, help="the folder with Images and Images_test")
    parser.add_argument("--data_dir", required=True)
    args = parser.parse_args(argv)
    try:
        prepare(args.source, args.data_dir, args.config)
    except (AssertionError, OSError, UserError) as error:
        where = f"gatech/{args.config} cannot be prepared in {args.data_dir}"
        print(f"{where}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
