"""The datasets by name. A new one is a module with a `VideoDataset` and an entry of `DATASETS`.

From outside of the package, `register_dataset` makes that entry (docs/guides/own_task.md).
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from v2v_jax.datasets.base.held_back import Subset, at_most, part_of
from v2v_jax.datasets.base.listing import MIN_FRAMES
from v2v_jax.datasets.base.video_dataset import FIELDS, FieldSpec, VideoDataset, VideoInfo
from v2v_jax.datasets.cache.packed import PackedVideos
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
from v2v_jax.system.own_modules import is_same_definition, origin

__all__ = [
    "DATASETS",
    "FIELDS",
    "DatasetEntry",
    "FieldSpec",
    "VideoDataset",
    "VideoInfo",
    "dataset_entry",
    "has_validation",
    "load",
    "split_names",
    "register_dataset",
]

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class DatasetEntry:
    """How to open a dataset.

    Attributes:
      open: (options, split, frame_size) → dataset; the options also have `min_frames`, the length
        of the shortest video that is of use.
      options: what `config.data` holds beside the name, with defaults; all have `processes`, see
        `VideoDataset`, and `cache`, a folder for decoded frames (`packed`), empty for none.
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

        if options.get("domain", "plain") != "plain":
            raise ConfigError("data.source=tfds has the plain domain only; leave one of them out.")
        return ScenesTfds(
            split,
            data_dir=options["root"],
            frame_size=frame_size,
            min_frames=options["min_frames"],
        )
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
        _check_no_labels(options)
        config = f"ucf101_{options['list_number']}"
        return TfdsUcf101(
            options["root"],
            split,
            config=config,
            frame_size=frame_size,
            min_frames=options["min_frames"],
        )
    _check_source(options)
    dataset = Ucf101(
        options["root"],
        split,
        list_number=options["list_number"],
        allow_missing=options["allow_missing"],
        frame_size=frame_size,
        min_frames=options["min_frames"],
    )
    return _with_labels(dataset, split, options, os.path.join(options["root"], UCF101_VIDEOS))


def _open_davis(options: Mapping[str, Any], split: str, frame_size: Size) -> VideoDataset:
    if options["source"] == "tfds":
        _check_no_labels(options)
        config = options["resolution"] or None
        return TfdsDavis(
            options["root"],
            split,
            config=config,
            frame_size=frame_size,
            min_frames=options["min_frames"],
        )
    _check_source(options)
    held_out = tuple(filter(None, options["held_out"].split(",")))
    dataset = Davis(
        options["root"],
        split,
        resolution=options["resolution"] or None,
        held_out=held_out or None,
        frame_size=frame_size,
        min_frames=options["min_frames"],
    )
    return _with_labels(dataset, split, options)


def _open_gatech(options: Mapping[str, Any], split: str, frame_size: Size) -> VideoDataset:
    if options["source"] == "tfds":
        from v2v_jax.datasets.gatech.tfds_reader import GatechTfds

        return GatechTfds(
            split,
            data_dir=options["root"],
            frame_size=frame_size,
            min_frames=options["min_frames"],
        )
    _check_source(options)
    return Gatech(options["root"], split, frame_size=frame_size, min_frames=options["min_frames"])


def _open_frames(options: Mapping[str, Any], split: str, frame_size: Size) -> VideoDataset:
    held_out = tuple(filter(None, options["held_out"].split(",")))
    dataset = FrameFolder(
        options["root"],
        split,
        held_out=held_out or None,
        allow_missing=options["allow_missing"],
        frame_size=frame_size,
        min_frames=options["min_frames"],
    )
    return _with_labels(dataset, split, options)


def _open_folder(options: Mapping[str, Any], split: str, frame_size: Size) -> VideoDataset:
    dataset = VideoFolder(
        options["root"],
        split,
        test_share=options["test_share"],
        frame_size=frame_size,
        min_frames=options["min_frames"],
    )
    return _with_labels(dataset, split, options, options["root"])


def _with_labels(
    dataset: VideoDataset, split: str, options: Mapping[str, Any], root: str | None = None
) -> VideoDataset:
    """The dataset with a teacher's labels, where `teacher_labels` names their folder."""
    folder = options["teacher_labels"]
    if not folder:
        return dataset
    from v2v_jax.datasets.cache import teacher_labels

    return teacher_labels.with_labels(dataset, split, folder, root)


def _check_no_labels(options: Mapping[str, Any]) -> None:
    if options["teacher_labels"]:
        raise ConfigError("data.teacher_labels needs video files; leave data.source=tfds out.")


def _open_sintel(options: Mapping[str, Any], split: str, frame_size: Size) -> VideoDataset:
    return Sintel(
        options["root"],
        split,
        render_pass=options["render_pass"],
        held_out=tuple(filter(None, options["held_out"].split(","))),
        partial=options["partial"],
        frame_size=frame_size,
        min_frames=options["min_frames"],
    )


def _open_movi(options: Mapping[str, Any], split: str, frame_size: Size) -> VideoDataset:
    return Movi(
        options["root"],
        split,
        variant=options["variant"],
        resolution=options["resolution"],
        frame_size=frame_size,
        min_frames=options["min_frames"],
    )


def _check_source(options: Mapping[str, Any]) -> None:
    if options["source"] not in ("", "files"):
        raise ConfigError(f"data.source is {options['source']!r}; known: files, tfds.")


# validation: names of the training videos that are held back, with commas; empty: that share.
# num_folds, fold: cross-validation, the test split is that part of the training videos; 0: none.
# max_videos: of each split, spread evenly over it; 0: all.
_WHICH_VIDEOS = dict(validation="", validation_share=0.1, num_folds=0, fold=0, max_videos=0)
# How any dataset is read. processes: how many do it; 0: as many as are worth it, 1: threads do.
_HOW = dict(processes=0, cache="")

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
            **_HOW,
        ),
        feed="device",
    ),
    "ucf101": DatasetEntry(
        _open_ucf101,
        # teacher_labels: the folder of what v2v label made; empty: none.
        dict(
            source="files",
            root="data/ucf101",
            list_number=1,
            allow_missing=False,
            teacher_labels="",
            **_WHICH_VIDEOS,
            **_HOW,
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
            teacher_labels="",
            **_WHICH_VIDEOS,
            **_HOW,
        ),
    ),
    "gatech": DatasetEntry(
        _open_gatech, dict(source="files", root="data/gatech", **_WHICH_VIDEOS, **_HOW)
    ),
    "frames": DatasetEntry(
        _open_frames,
        dict(
            root="data/frames",
            held_out="",
            allow_missing=False,
            teacher_labels="",
            **_WHICH_VIDEOS,
            **_HOW,
        ),
    ),
    "sintel": DatasetEntry(
        _open_sintel,
        # held_out: names of the test split's sequences, with commas.
        dict(
            root="data/sintel",
            render_pass="clean",
            held_out=",".join(HELD_OUT),
            partial=False,
            **_WHICH_VIDEOS,
            **_HOW,
        ),
        group=os.path.basename,  # both passes show one sequence
    ),
    "movi": DatasetEntry(
        _open_movi,
        dict(root="data/movi", variant="movi_e", resolution="256x256", **_WHICH_VIDEOS, **_HOW),
    ),
    "folder": DatasetEntry(
        _open_folder,
        dict(
            root="data/videos",
            test_share=0.1,
            teacher_labels="",
            **_WHICH_VIDEOS,
            **_HOW,
        ),
    ),
}


def register_dataset(
    name: str,
    open: Callable[[Mapping[str, Any], str, Size], VideoDataset],
    *,
    options: Mapping[str, Any] | None = None,
    feed: Literal["tf_data", "device"] = "tf_data",
    group: Callable[[str], str] = str,
) -> None:
    """Makes a dataset known by its name, to configurations and all commands.

    A module of one's own calls it. Registering the same function again, as when its module is
    loaded twice, replaces it.

    Args:
      name: as in `dataset=NAME` after a configuration's colon.
      open: (options, split, frame_size) → dataset; split is "train" or "test", frame_size (H,W).
      options: what `config.data` holds beside the name, with defaults: numbers, texts, switches.
        All have `processes` and `cache`; `validation` and `validation_share`, by which a tenth of
        the training videos is held back to choose on; `num_folds` and `fold`, for
        cross-validation; and `max_videos`, for a quick try.
        `open` also gets `min_frames`: shorter videos have no clip and may be left out.
      feed: "device" keeps the decoded set in the accelerator's memory, for small sets; "tf_data"
        streams it.
      group: name of a video → name of the recording that it is a part of; training and validation
        share none.

    Raises:
      ConfigError: the name belongs to another dataset, or an argument cannot be used.
    """
    options = {**_WHICH_VIDEOS, **(options or {}), **_HOW}
    if not (isinstance(name, str) and name) or set(name) & set(",=: "):
        raise ConfigError(f"A dataset cannot be registered as {name!r}; choose a plain word.")
    taken = {"name", "min_frames"} & options.keys()
    if not callable(open) or taken or feed not in ("tf_data", "device"):
        raise ConfigError(
            f"The dataset {name!r} cannot be registered: expected a function `open`, `options` "
            f'without "name" and "min_frames", and tf_data or device as `feed`; got {open!r}, '
            f"{options!r}, {feed!r}."
        )
    known = DATASETS.get(name)
    if known is not None and not is_same_definition(known.open, open):
        raise ConfigError(
            f"The dataset {name!r} of {origin(open)} cannot be registered: {origin(known.open)} "
            "has one of that name; choose another name."
        )
    DATASETS[name] = DatasetEntry(open, options, feed, group)


def dataset_entry(name: str) -> DatasetEntry:
    """How to open the dataset of that name; ConfigError, which lists all, if there is none."""
    if name not in DATASETS:
        raise ConfigError(f"data.name is {name!r}; known: {', '.join(DATASETS)}.")
    return DATASETS[name]


def has_validation(data: Mapping[str, Any]) -> bool:
    """Whether `config.data` sets training data apart to choose on; old configurations do not."""
    if data["name"] == "scenes":
        return data.get("num_validation_videos", 0) > 0
    return bool(data.get("validation") or data.get("validation_share", 0.0))


def split_names(data: Mapping[str, Any]) -> tuple[str, ...]:
    """The splits that a configuration has."""
    return ("train", "validation", "test") if has_validation(data) else ("train", "test")


def load(
    data: Mapping[str, Any],
    split: str,
    frame_size: Size,
    min_frames: int = MIN_FRAMES,
    training: VideoDataset | None = None,
) -> VideoDataset:
    """Opens the dataset that `config.data` describes.

    Args:
      data: `name` and that dataset's options.
      split: "train", "validation" or "test". Rendered scenes have random streams of their own for
        all three. Other datasets' validation split are the training videos named by `validation`
        or, without names, a share of them chosen by their names, which their training split then
        lacks. The test split is the dataset's own; with `num_folds` one of the parts that the
        training videos are divided into (`held_back.part_of`).
      frame_size: (H, W) to resize to.
      min_frames: shorter videos are left out with a warning: the length of a clip.
      training: the same configuration's training split, if it is open: what it holds back is then
        not opened a second time.

    Raises:
      ConfigError, DataError: an option that is not known, or data that is missing or wrong; the
        configuration has no validation split (`has_validation`).
    """
    if split == "validation" and not has_validation(data):
        raise ConfigError(
            f"This configuration of {data['name']} has no validation split; set "
            f"data.{_validation_option(data)}."
        )
    if isinstance(training, Subset) and training.rest_is == split:
        return training.others(split)
    entry = dataset_entry(data["name"])
    options = {**entry.options, **data, "min_frames": min_frames}  # older ones lack some
    of_training = data.get("num_folds", 0) or (split != "test" and has_validation(data))
    if data["name"] == "scenes" or not of_training:
        dataset = _read_as(data, entry.open(options, split, frame_size), split)
    else:
        dataset = _read_as(data, entry.open(options, "train", frame_size), "train")
        dataset = part_of(dataset, split, data, entry.group)
    return at_most(dataset, split, data.get("max_videos", 0))


def _validation_option(data: Mapping[str, Any]) -> str:
    return "num_validation_videos" if data["name"] == "scenes" else "validation_share"


def _read_as(data: Mapping[str, Any], dataset: VideoDataset, split: str) -> VideoDataset:
    """The dataset, read by `processes`, and through a cache if `cache` names a folder."""
    if data.get("processes", 0):  # configurations before it lack it
        dataset.processes = data["processes"]
    if not data["cache"]:
        return dataset
    return PackedVideos(dataset, data["cache"], split)
