"""The datasets by name. A new one is a module with a `VideoDataset` and an entry of `DATASETS`."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

from v2v_jax.datasets.base.held_back import held_back, split_off
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

__all__ = [
    "DATASETS",
    "FIELDS",
    "DatasetEntry",
    "FieldSpec",
    "VideoDataset",
    "VideoInfo",
    "has_validation",
    "load",
]

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class DatasetEntry:
    """How to open a dataset.

    Attributes:
      open: (options, split, frame_size) → dataset.
      options: what `config.data` holds beside the name, with defaults; all have `cache`, a folder
        for decoded frames (`packed`), empty for none.
      feed: the feed that suits its size.
      group: name of a video → name of the recording that it is a part of; training and validation
        share none.
    """

    open: Callable[[Mapping[str, Any], str, Size], VideoDataset]
    options: dict[str, Any]
    feed: str = "tf_data"
    group: Callable[[str], str] = str


def _open_scenes(options: Mapping[str, Any], split: str, frame_size: Size) -> VideoDataset:
    if options["source"] == "tfds":
        from v2v_jax.datasets.scenes.tfds_reader import ScenesTfds

        return ScenesTfds(split, data_dir=options["root"], frame_size=frame_size)
    _check_source(options)
    return Scenes(
        split,
        seed=options["seed"],
        num_videos=options.get(f"num_{split}_videos", 0),  # 0: from before there was such a split
        num_frames=(split == "train" and options.get("num_train_frames")) or options["num_frames"],
        frame_size=frame_size,
        noise=options["noise"],
        domain=options.get("domain", "plain"),
        compression=options.get("compression", "mixed"),
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


# validation: names of the training videos that are held back, with commas; empty: that share.
_HELD_BACK = dict(validation="", validation_share=0.1)

DATASETS: dict[str, DatasetEntry] = {
    "scenes": DatasetEntry(
        _open_scenes,
        dict(
            source="files",
            root="",
            seed=0,
            num_train_videos=400,
            num_validation_videos=60,
            num_test_videos=60,
            num_frames=48,
            num_train_frames=0,  # of a training video; 0: num_frames
            noise=SENSOR_NOISE,
            domain="plain",  # or wide, for networks that are to work on real video
            compression="mixed",  # of domain=wide: h264, mpeg4, jpeg, none, or any of them
            cache="",
        ),
        feed="device",
    ),
    "ucf101": DatasetEntry(
        _open_ucf101,
        # flow_labels: what python -m v2v_jax.cli.label made, for flow; empty: none.
        dict(
            source="files",
            root="data/ucf101",
            list_number=1,
            allow_missing=False,
            flow_labels="",
            **_HELD_BACK,
            cache="",
        ),
        group=lambda name: re.sub(r"_c\d+$", "", name),  # v_Archery_g01_c02: g01 is one film
    ),
    "davis": DatasetEntry(
        _open_davis,
        # held_out: names of the test split's sequences, with commas; empty: the official lists.
        dict(
            source="files",
            root="data/davis",
            resolution="",
            held_out="",
            **_HELD_BACK,
            cache="",
        ),
    ),
    "gatech": DatasetEntry(
        _open_gatech, dict(source="files", root="data/gatech", **_HELD_BACK, cache="")
    ),
    "frames": DatasetEntry(
        _open_frames,
        dict(root="data/frames", held_out="", allow_missing=False, **_HELD_BACK, cache=""),
    ),
    "sintel": DatasetEntry(
        _open_sintel,
        # held_out: names of the test split's sequences, with commas.
        dict(
            root="data/sintel",
            render_pass="clean",
            held_out=",".join(HELD_OUT),
            partial=False,
            **_HELD_BACK,
            cache="",
        ),
        group=os.path.basename,  # both passes show one sequence
    ),
    "movi": DatasetEntry(
        _open_movi,
        dict(root="data/movi", variant="movi_e", resolution="256x256", **_HELD_BACK, cache=""),
    ),
    "folder": DatasetEntry(
        _open_folder,
        dict(root="data/videos", test_share=0.1, flow_labels="", **_HELD_BACK, cache=""),
    ),
}


def has_validation(data: Mapping[str, Any]) -> bool:
    """Whether `config.data` sets training data apart to choose on; old configurations do not."""
    if data["name"] == "scenes":
        return data.get("num_validation_videos", 0) > 0
    return bool(data.get("validation") or data.get("validation_share", 0.0))


def load(data: Mapping[str, Any], split: str, frame_size: Size) -> VideoDataset:
    """Opens the dataset that `config.data` describes.

    Args:
      data: `name` and that dataset's options.
      split: "train", "validation" or "test". Rendered scenes have random streams of their own for
        all three. Other datasets' validation split are the training videos named by `validation`
        or, without names, a share of them chosen by their names (`held_back`), which their training
        split then lacks. The test split is the dataset's own.
      frame_size: (H, W) to resize to.

    Raises:
      ConfigError, DataError: an option that is not known, or data that is missing or wrong; the
        configuration has no validation split (`has_validation`).
    """
    if split == "validation" and not has_validation(data):
        raise ConfigError(
            f"This configuration of {data['name']} sets no validation split apart; set "
            f"data.{_validation_option(data)}."
        )
    entry = DATASETS[data["name"]]
    if data["name"] == "scenes" or split == "test" or not has_validation(data):
        return _cached(entry.open(data, split, frame_size), data, split)
    dataset = _cached(entry.open(data, "train", frame_size), data, "train")
    names = [info.name for info in dataset.videos]
    validating = set(filter(None, data.get("validation", "").split(",")))
    validating = validating or held_back(names, data["validation_share"], entry.group)
    if not validating:
        logging.warning(
            "%s has one training video only, %s: it trains and validates, too. Set data.validation "
            "to choose checkpoints on another.",
            *(dataset.name, names[0]),
        )
        return dataset
    return split_off(dataset, validating, split)


def _validation_option(data: Mapping[str, Any]) -> str:
    return "num_validation_videos" if data["name"] == "scenes" else "validation_share"


def _cached(dataset: VideoDataset, data: Mapping[str, Any], split: str) -> VideoDataset:
    """The dataset, read through a cache if `cache` names a folder."""
    if not data["cache"]:
        return dataset
    from v2v_jax.datasets.cache.packed import (
        PackedVideos,  # here, as it is also a program: python -m
    )

    return PackedVideos(dataset, data["cache"], split)
