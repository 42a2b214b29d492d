"""The datasets by name. A new one is a module with a `VideoDataset` and an entry of `DATASETS`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from v2v_jax.datasets.base.listing import VideoFileDataset
from v2v_jax.datasets.base.video_dataset import FIELDS, FieldSpec, VideoDataset, VideoInfo
from v2v_jax.datasets.gatech import Gatech
from v2v_jax.datasets.readers.davis import Davis
from v2v_jax.datasets.readers.frame_folder import FrameFolder
from v2v_jax.datasets.readers.movi import Movi
from v2v_jax.datasets.readers.sintel import HELD_OUT, Sintel
from v2v_jax.datasets.readers.ucf101 import VIDEOS as UCF101_VIDEOS
from v2v_jax.datasets.readers.ucf101 import Ucf101
from v2v_jax.datasets.readers.video_folder import VideoFolder
from v2v_jax.datasets.scenes import SENSOR_NOISE, Scenes
from v2v_jax.datasets.tfds.catalogue import TfdsDavis, TfdsUcf101
from v2v_jax.errors import ConfigError

__all__ = ["DATASETS", "FIELDS", "DatasetEntry", "FieldSpec", "VideoDataset", "VideoInfo", "load"]

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class DatasetEntry:
    """How to open a dataset.

    Attributes:
      open: (options, split, frame_size) → dataset.
      options: what `config.data` holds beside the name, with defaults; all have `cache`, a folder
        for decoded frames (`packed`), empty for none.
      feed: the feed that suits its size.
    """

    open: Callable[[Mapping[str, Any], str, Size], VideoDataset]
    options: dict[str, Any]
    feed: str = "tf_data"


def _open_scenes(options: Mapping[str, Any], split: str, frame_size: Size) -> VideoDataset:
    if options["source"] == "tfds":
        from v2v_jax.datasets.scenes.tfds_reader import ScenesTfds

        return ScenesTfds(split, data_dir=options["root"], frame_size=frame_size)
    _check_source(options)
    return Scenes(
        split,
        seed=options["seed"],
        num_videos=options[f"num_{split}_videos"],
        num_frames=options["num_frames"],
        frame_size=frame_size,
        noise=options["noise"],
    )


def _open_ucf101(options: Mapping[str, Any], split: str, frame_size: Size) -> VideoDataset:
    if options["source"] == "tfds":
        if options["flow_labels"]:
            raise ConfigError("data.flow_labels are of video files; leave data.source=tfds out.")
        config = f"ucf101_{options['list_number']}"
        return TfdsUcf101(options["root"], split, config=config, frame_size=frame_size)
    _check_source(options)
    dataset = Ucf101(
        options["root"],
        split,
        list_number=options["list_number"],
        allow_missing=options["allow_missing"],
        frame_size=frame_size,
    )
    return _with_flow(dataset, os.path.join(options["root"], UCF101_VIDEOS), options)


def _open_davis(options: Mapping[str, Any], split: str, frame_size: Size) -> VideoDataset:
    if options["source"] == "tfds":
        config = options["resolution"] or None
        return TfdsDavis(options["root"], split, config=config, frame_size=frame_size)
    _check_source(options)
    held_out = tuple(filter(None, options["held_out"].split(",")))
    return Davis(
        options["root"],
        split,
        resolution=options["resolution"] or None,
        held_out=held_out or None,
        frame_size=frame_size,
    )


def _open_gatech(options: Mapping[str, Any], split: str, frame_size: Size) -> VideoDataset:
    if options["source"] == "tfds":
        from v2v_jax.datasets.gatech.tfds_reader import GatechTfds

        return GatechTfds(split, data_dir=options["root"], frame_size=frame_size)
    _check_source(options)
    return Gatech(options["root"], split, frame_size=frame_size)


def _open_frames(options: Mapping[str, Any], split: str, frame_size: Size) -> VideoDataset:
    held_out = tuple(filter(None, options["held_out"].split(",")))
    return FrameFolder(
        options["root"],
        split,
        held_out=held_out or None,
        allow_missing=options["allow_missing"],
        frame_size=frame_size,
    )


def _open_folder(options: Mapping[str, Any], split: str, frame_size: Size) -> VideoDataset:
    dataset = VideoFolder(
        options["root"], split, test_share=options["test_share"], frame_size=frame_size
    )
    return _with_flow(dataset, options["root"], options)


def _with_flow(dataset: VideoFileDataset, root: str, options: Mapping[str, Any]) -> VideoDataset:
    """The dataset with its flow labels, where `flow_labels` names their folder."""
    if not options["flow_labels"]:
        return dataset
    from v2v_jax.datasets.cache.labelled_flow import LabelledFlow  # here: it loads TensorStore

    return LabelledFlow(dataset, root, options["flow_labels"])


def _open_sintel(options: Mapping[str, Any], split: str, frame_size: Size) -> VideoDataset:
    return Sintel(
        options["root"],
        split,
        render_pass=options["render_pass"],
        held_out=tuple(filter(None, options["held_out"].split(","))),
        partial=options["partial"],
        frame_size=frame_size,
    )


def _open_movi(options: Mapping[str, Any], split: str, frame_size: Size) -> VideoDataset:
    return Movi(
        options["root"],
        split,
        variant=options["variant"],
        resolution=options["resolution"],
        frame_size=frame_size,
    )


def _check_source(options: Mapping[str, Any]) -> None:
    if options["source"] not in ("", "files"):
        raise ConfigError(f"data.source is {options['source']!r}; known: files, tfds.")


DATASETS: dict[str, DatasetEntry] = {
    "scenes": DatasetEntry(
        _open_scenes,
        dict(
            source="files",
            root="",
            seed=0,
            num_train_videos=400,
            num_test_videos=60,
            num_frames=48,
            noise=SENSOR_NOISE,
            cache="",
        ),
        feed="device",
    ),
    "ucf101": DatasetEntry(
        _open_ucf101,
        # flow_labels: what v2v label made, for flow; empty: none.
        dict(
            source="files",
            root="data/ucf101",
            list_number=1,
            allow_missing=False,
            flow_labels="",
            cache="",
        ),
    ),
    "davis": DatasetEntry(
        _open_davis,
        # held_out: names of the test split's sequences, with commas; empty: the official lists.
        dict(source="files", root="data/davis", resolution="", held_out="", cache=""),
    ),
    "gatech": DatasetEntry(_open_gatech, dict(source="files", root="data/gatech", cache="")),
    "frames": DatasetEntry(
        _open_frames, dict(root="data/frames", held_out="", allow_missing=False, cache="")
    ),
    "sintel": DatasetEntry(
        _open_sintel,
        # held_out: names of the test split's sequences, with commas.
        dict(
            root="data/sintel",
            render_pass="clean",
            held_out=",".join(HELD_OUT),
            partial=False,
            cache="",
        ),
    ),
    "movi": DatasetEntry(
        _open_movi, dict(root="data/movi", variant="movi_e", resolution="256x256", cache="")
    ),
    "folder": DatasetEntry(
        _open_folder, dict(root="data/videos", test_share=0.1, flow_labels="", cache="")
    ),
}


def load(data: Mapping[str, Any], split: str, frame_size: Size) -> VideoDataset:
    """Opens the dataset that `config.data` describes.

    Args:
      data: `name` and that dataset's options.
      split: "train" or "test".
      frame_size: (H, W) to resize to.

    Raises:
      ConfigError, DataError: an option that is not known, or data that is missing or wrong.
    """
    dataset = DATASETS[data["name"]].open(data, split, frame_size)
    if not data["cache"]:
        return dataset
    from v2v_jax.datasets.cache.packed import (
        PackedVideos,  # here, as it is also a program: python -m
    )

    return PackedVideos(dataset, data["cache"], split)
