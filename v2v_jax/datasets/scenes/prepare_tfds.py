"""Prepares `scenes` for tensorflow-datasets, as array_record files with random access.

    python -m v2v_jax.datasets.scenes.prepare_tfds --config=default --data_dir=DIR

(The program `tfds build` does the same where Apache Beam is installed.)
"""

from __future__ import annotations

import argparse
import os
import sys

from v2v_jax.datasets.scenes import scenes_dataset_builder
from v2v_jax.errors import UserError


def prepare(data_dir: str | os.PathLike[str], config: str = "default") -> None:
    """Renders a configuration of the builder into data_dir; does nothing if it is there already."""
    builder = scenes_dataset_builder.Builder(
        data_dir=data_dir, config=config, file_format="array_record"
    )
    builder.download_and_prepare()


def main(argv: list[str] | None = None) -> int:
    """Reads the command line, prepares, and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [config.name for config in scenes_dataset_builder.Builder.BUILDER_CONFIGS]
    parser.add_argument("--config", choices=known, default="default")
    parser.add_argument("--data_dir", required=True)
    args = parser.parse_args(argv)
    try:
        prepare(args.data_dir, args.config)
    except (OSError, UserError) as error:
        print(
            f"scenes/{args.config} cannot be prepared in {args.data_dir}: {error}", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
