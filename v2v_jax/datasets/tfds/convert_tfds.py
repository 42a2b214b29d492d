"""Gives a dataset of tensorflow-datasets array_record files beside its TFRecord files.

    v2v convert-tfds data/movi/movi_e/256x256/1.0.0

Random access needs them, and Kubric's MOVi is published as TFRecord. `tfds convert_format` does the
same where Apache Beam is installed. Shards that are there already are not written again, so a run
that was interrupted goes on where it stopped; delete the TFRecord files afterwards if you like.
"""

from __future__ import annotations

import json
import os
import pathlib

from v2v_jax.errors import DataError
from v2v_jax.system.console import progress
from v2v_jax.system.json_files import parse_object
from v2v_jax.system.whole_files import whole_file, write_text

_INFO = "dataset_info.json"
_FORMAT, _FORMATS = "array_record", "alternativeFileFormats"


def convert(folder: str | os.PathLike[str]) -> int:
    """Writes one array_record shard for every TFRecord shard, then says so in dataset_info.json.

    Args:
      folder: of one version of one configuration, which holds dataset_info.json.

    Returns:
      The number of shards written.

    Raises:
      DataError: it is no such folder, has no TFRecord files, a shard is damaged, or the folder
        cannot be written.
    """
    folder = pathlib.Path(folder)
    shards = sorted(folder.glob("*.tfrecord-*"))
    if not (folder / _INFO).is_file() or not shards:
        raise DataError(
            f"{folder} has no {'TFRecord files' if not shards else _INFO}; expected the folder of "
            "a prepared version, as in movi_e/256x256/1.0.0."
        )
    waiting = [(s, t) for s in shards if not (t := _target(s)).exists()]
    try:
        for shard, target in progress(waiting, len(waiting), f"converting {folder}"):
            _convert_shard(shard, target)
        info = parse_object((folder / _INFO).read_text())
        if info.get("fileFormat") != _FORMAT:
            info[_FORMATS] = sorted({*info.get(_FORMATS, []), _FORMAT})
        write_text(folder / _INFO, json.dumps(info, indent=2) + "\n")
    except OSError as error:
        raise DataError(
            f"{folder} cannot be converted ({error.strerror or error}); it must be writable and "
            "have as much free space as its TFRecord files take."
        ) from error
    except ValueError as error:
        path = folder / _INFO
        raise DataError(f"{path} is damaged ({error}); prepare the data again.") from error
    return len(waiting)


def _target(shard: pathlib.Path) -> pathlib.Path:
    return shard.with_name(shard.name.replace(".tfrecord-", f".{_FORMAT}-"))


def _convert_shard(shard: pathlib.Path, target: pathlib.Path) -> None:
    import tensorflow as tf
    from array_record.python import array_record_module

    tf.config.set_visible_devices([], "GPU")
    try:
        with whole_file(target) as unfinished:
            writer = array_record_module.ArrayRecordWriter(os.fspath(unfinished), "group_size:1")
            try:
                for record in tf.data.TFRecordDataset(os.fspath(shard)).as_numpy_iterator():
                    writer.write(record)
            finally:
                writer.close()
    except tf.errors.OpError as error:
        raise DataError(
            f"TFRecord file {shard} is damaged ({error.message}); fetch it again."
        ) from error
