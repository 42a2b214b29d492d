"""Builds the caches of decoded frames of a configuration, and verifies those in a folder.

python -m v2v_jax.cli.pack DIR          compares the sums of all caches in a folder
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from ml_collections import ConfigDict

from v2v_jax import datasets
from v2v_jax.datasets.cache.cache_files import MANIFEST, Unusable, open_cache
from v2v_jax.errors import ConfigError
from v2v_jax.system.console import console, progress
from v2v_jax.tasks import TASKS


def pack(config: ConfigDict, splits: Sequence[str] = ("train", "test")) -> None:
    """Builds the caches that training with a configuration would build when it starts.

    Those that are there and sound stay as they are.

    Args:
      config: `data.cache` names the folder; the task says which fields.

    Raises:
      ConfigError: `data.cache` is empty.
      DataError: the data are missing or wrong, or the folder cannot be written.
    """
    if not config.data.cache:
        raise ConfigError("data.cache is empty; set --config.data.cache=DIR to the caches' folder.")
    for split in splits:
        dataset = datasets.load(
            config.data,
            split,
            tuple(config.preprocessing.frame_size),
            min_frames=config.preprocessing.clip_length,
        )
        dataset.prepare_fields(TASKS[config.task].fields, progress)
        console.print(f"{config.data.cache}: {len(dataset.videos)} videos of the {split} split")


def verify(folder: pathlib.Path) -> int:
    """Compares the sums of all caches in a folder; returns how many cannot be used."""
    unusable = 0
    for path in sorted(file.parent for file in folder.glob(f"*/{MANIFEST}")):
        try:
            cache = open_cache(path, None, None, verify=True)
        except Unusable as error:
            print(f"{path} {error}; delete it, or let the next run build it anew.")
            unusable += 1
        else:
            size = sum(array.nbytes for array in cache.arrays.values()) / 2**30
            print(f"{path} is sound: {', '.join(cache.arrays)}, {size:.2f} GiB")
    return unusable


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns 1 if a cache cannot be used."""
    parser = argparse.ArgumentParser(description="Verifies caches of decoded frames.")
    parser.add_argument("folder", type=pathlib.Path)
    return int(verify(parser.parse_args(argv).folder) > 0)


if __name__ == "__main__":
    sys.exit(main())
