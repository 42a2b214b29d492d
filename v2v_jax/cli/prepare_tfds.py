"""Prepares a dataset for tensorflow-datasets, as array_record files with random access.

    v2v prepare-tfds scenes --data_dir=DIR
    v2v prepare-tfds gatech --data_dir=DIR --source=data/gatech

Train on it with `--config.data.source=tfds --config.data.root=DIR`. (The program `tfds build` does
the same where Apache Beam is installed.)
"""

from __future__ import annotations

import argparse
import importlib
import os
from typing import Any

from v2v_jax.cli.command_line import Parser, path
from v2v_jax.errors import ConfigError, DataError, UserError

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


def add_options(parser: Parser) -> None:
    """See the module."""
    add = parser.add_argument
    add("dataset", metavar="DATASET", choices=sorted(_BUILDERS), help=", ".join(_BUILDERS))
    add("--config", default="default", help="of the builder (default: %(default)s)")
    add(
        "--data_dir",
        type=path,
        required=True,
        metavar="DIR",
        help="where tensorflow-datasets keeps its data",
    )
    add("--source", type=path, metavar="DIR", help="gatech: the folder with Images and Images_test")


def run(options: argparse.Namespace) -> None:
    """Prepares; errors name what cannot be prepared, and where."""
    try:
        prepare(options.dataset, options.data_dir, options.config, options.source)
    except (AssertionError, OSError, UserError) as error:  # the first: no such source folder
        where = f"{options.dataset}/{options.config} cannot be prepared in {options.data_dir}"
        raise DataError(f"{where}: {error}") from error
