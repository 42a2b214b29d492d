"""Decodes a dataset once into a cache of its frames, or verifies the caches in a folder.

    v2v pack --config=seg:dataset=gatech --config.data.root=DIR --config.data.cache=CACHE
    v2v pack --verify=CACHE

The first builds what training with this configuration would build when it starts; caches that are
there and sound stay as they are. The second compares all sums, which alone finds bits that a disk
has lost; the exit status is 1 if a cache cannot be used.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from v2v_jax.cli import config_options
from v2v_jax.cli.command_line import Parser, path

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def add_options(parser: Parser) -> None:
    """See the module."""
    config_options.add_options(parser, needs_workdir=False)
    parser.add_argument("--verify", type=path, metavar="CACHE", help="the folder of the caches")
    take_overrides = parser.take_rest

    def take_rest(options: argparse.Namespace, rest: list[str], parser: Parser) -> None:
        if options.verify is None:
            take_overrides(options, rest, parser)
        elif options.config or rest:
            parser.error("--verify takes no configuration")

    parser.take_rest = take_rest


def run(options: argparse.Namespace) -> int:
    """Builds or verifies; returns 1 if a cache cannot be used."""
    if options.verify is None:
        pack(options.config)
        return 0
    return int(verify(pathlib.Path(options.verify)) > 0)


def pack(config: ConfigDict, splits: Sequence[str] = ()) -> None:
    """Builds the caches that training with a configuration would build when it starts.

    Args:
      config: `data.cache` names the folder; the task says which fields.
      splits: of which splits; default: all.

    Raises:
      ConfigError: `data.cache` is empty, or a value cannot be used.
      DataError: the data are missing or wrong, or the folder cannot be written.
    """
    from v2v_jax import datasets
    from v2v_jax.errors import ConfigError
    from v2v_jax.run import recipes
    from v2v_jax.system.console import console, progress
    from v2v_jax.tasks.registry import stored_options, task_class

    recipes.validate(config)
    if not config.data.cache:
        raise ConfigError("data.cache is empty; set --config.data.cache=DIR to the caches' folder.")
    size, clip = tuple(config.preprocessing.frame_size), config.preprocessing.clip_length
    fields = task_class(config.task).fields_for(stored_options(config))
    for split in splits or datasets.split_names(config.data):
        dataset = datasets.load(config.data, split, size, min_frames=clip)
        dataset.prepare_fields(fields, progress)
        console.print(f"{config.data.cache}: {len(dataset.videos)} videos of the {split} split")


def verify(folder: pathlib.Path) -> int:
    """Compares the sums of all caches in a folder; returns how many cannot be used.

    Raises:
      DataError: there are none.
    """
    from v2v_jax.datasets.cache.cache_files import MANIFEST, Unusable, open_cache
    from v2v_jax.errors import DataError

    caches = sorted(file.parent for file in folder.glob(f"*/{MANIFEST}"))
    if not caches:
        raise DataError(f"Folder {folder} holds no caches; give what data.cache names.")
    unusable = 0
    for cache_folder in caches:
        try:
            cache = open_cache(cache_folder, None, None, verify=True)
        except Unusable as error:
            print(f"{cache_folder} {error}; delete it, or let the next run build it anew.")
            unusable += 1
        else:
            size = sum(array.nbytes for array in cache.arrays.values()) / 2**30
            print(f"{cache_folder} is sound: {', '.join(cache.arrays)}, {size:.2f} GiB")
    return unusable
