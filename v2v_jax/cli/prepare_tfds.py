"""Prepares a dataset for tensorflow-datasets, as array_record files with random access.

    python -m v2v_jax.cli.prepare_tfds scenes --data_dir=DIR
    python -m v2v_jax.cli.prepare_tfds gatech --data_dir=DIR --source=data/gatech

Train on it with `--config.data.source=tfds --config.data.root=DIR`. (The program `tfds build` does
the same where Apache Beam is installed.)
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from v2v_jax.errors import ConfigError, UserError

# The builders' modules; they import TensorFlow.
_BUILDERS = {
    "scenes": "v2v_jax.datasets.scenes.scenes_dataset_builder",
    "gatech": "v2v_jax.datasets.gatech.gatech_dataset_builder",
}
_FROM_FILES = ("gatech",)


def prepare(
    dataset: str,
    data_dir: str | os.PathLike[str],
    config: str = "default",
    source: str | os.PathLike[str] | None = None,
) -> None:
    """Renders or decodes a dataset into `data_dir`; does nothing if it is there already.

    Args:
      dataset: "scenes" or "gatech".
      data_dir: where tensorflow-datasets keeps its data.
      config: a configuration of the builder.
      source: the folder of the dataset's files; None for one that is rendered.

    Raises:
      ConfigError: another dataset or configuration; a source that is missing or not needed.
      UserError, OSError: the files are wrong, or cannot be written.
    """
    if dataset not in _BUILDERS:
        raise ConfigError(f"{dataset!r} cannot be prepared; known: {', '.join(_BUILDERS)}.")
    if (source is not None) != (dataset in _FROM_FILES):
        needed = "needs --source=FOLDER" if dataset in _FROM_FILES else "is rendered: no --source"
        raise ConfigError(f"{dataset} {needed}.")
    builder_class = importlib.import_module(_BUILDERS[dataset]).Builder
    known = [entry.name for entry in builder_class.BUILDER_CONFIGS]
    if config not in known:
        raise ConfigError(f"{dataset} has no configuration {config!r}; known: {', '.join(known)}.")
    builder = builder_class(data_dir=data_dir, config=config, file_format="array_record")
    builder.download_and_prepare(**_downloading(source))


def _downloading(source: str | os.PathLike[str] | None) -> dict[str, Any]:
    if source is None:
        return {}
    import tensorflow_datasets as tfds

    return {"download_config": tfds.download.DownloadConfig(manual_dir=os.fspath(source))}


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, prepares, and returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=sorted(_BUILDERS))
    parser.add_argument("--config", default="default", help="of the builder")
    parser.add_argument("--data_dir", required=True, help="of tensorflow-datasets")
    parser.add_argument("--source", help="gatech: the folder with Images and Images_test")
    args = parser.parse_args(argv)
    try:
        prepare(args.dataset, args.data_dir, args.config, args.source)
    except (AssertionError, OSError, UserError) as error:  # the first: no such source folder
        where = f"{args.dataset}/{args.config} cannot be prepared in {args.data_dir}"
        print(f"{where}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
