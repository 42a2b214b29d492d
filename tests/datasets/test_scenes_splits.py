"""The split to choose on: rendered scenes have their own, other datasets hold training back."""

import sys

import numpy as np
import pytest
from absl import logging

from v2v_jax import datasets
from v2v_jax.datasets.base.held_back import held_back
from v2v_jax.datasets.base.video_dataset import VideoDataset, VideoInfo
from v2v_jax.errors import ConfigError

SIZE = (32, 43)


class Named(VideoDataset):
    """Videos of one frame each whose pixels are their index."""

    name = "named"
    fields = ("video",)
    video_label_names = ("even", "odd")

    def __init__(self, split: str, names: list[str]) -> None:
        self.split = split
        self.frame_size = SIZE
        self.videos = [VideoInfo(name, 1) for name in names]

    def read(self, video, start, stop, fields=("video",)):
        return {"video": np.full((stop - start, *SIZE, 3), video, np.uint8)}

    def video_label(self, video: int) -> int:
        return video % 2

    def original_size(self, video: int) -> tuple[int, int]:
        return (video, video)

    def identity(self):
        return {"split": self.split}


FILMS = [f"v_Dive_g{film:02d}_c{clip:02d}" for film in range(20) for clip in range(3)]


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch):
    """Registers `named`; clips of one film stay together."""
    open_named = lambda options, split, size: Named(
        split, FILMS if split == "train" else ["v_Test_g99_c01"]
    )
    entry = datasets.DatasetEntry(open_named, {}, group=lambda name: name[:-4])
    monkeypatch.setitem(datasets.DATASETS, "named", entry)
    return lambda split, **options: datasets.load(
        {"name": "named", "cache": ""} | options, split, SIZE
    )


def names(dataset: VideoDataset) -> list[str]:
    return [info.name for info in dataset.videos]


def test_training_videos_are_held_back_by_film(named) -> None:
    train, validation = (named(s, validation_share=0.1) for s in ("train", "validation"))
    assert sorted(names(train) + names(validation)) == FILMS
    assert len(names(validation)) == 6  # two of twenty films
    films = lambda dataset: {name[:-4] for name in names(dataset)}
    assert not films(train) & films(validation)
    assert names(named("test", validation_share=0.1)) == ["v_Test_g99_c01"]


def test_what_is_held_back_need_not_be_opened_again(named) -> None:
    train = named("train", validation_share=0.1)
    data = {"name": "named", "cache": "", "validation_share": 0.1}
    beside = datasets.load(data, "validation", SIZE, training=train)
    assert beside.source is train.source
    assert names(beside) == names(named("validation", validation_share=0.1))


def test_what_is_held_back_reads_as_its_own_video(named) -> None:
    for split in ("train", "validation"):
        dataset = named(split, validation="v_Dive_g03_c01,v_Dive_g07_c00")
        for video, name in enumerate(names(dataset)):
            index = FILMS.index(name)
            assert (dataset.read(video, 0, 1)["video"] == index).all()
            assert dataset.video_label(video) == index % 2
            assert dataset.original_size(video) == (index, index)
    assert names(dataset) == ["v_Dive_g03_c01", "v_Dive_g07_c00"]
    assert dataset.identity() != named("train", validation="v_Dive_g03_c01").identity()


def test_one_more_video_changes_what_is_held_back_by_one_film_at_most() -> None:
    group = lambda name: name[:-4]
    before = {group(name) for name in held_back(FILMS, 0.2, group)}
    for new in range(20, 40):
        after = {group(name) for name in held_back([*FILMS, f"v_Dive_g{new}_c00"], 0.2, group)}
        assert len(before - after) <= 1
    assert held_back(FILMS[::-1], 0.2, group) == held_back(FILMS, 0.2, group)


def test_small_sets_still_give_one_and_keep_one() -> None:
    assert len(held_back(["a", "b"], 0.01, str)) == len(held_back(["a", "b"], 0.99, str)) == 1
    assert held_back(["a"], 0.1, str) == set()


def test_a_single_training_video_trains_and_validates_with_a_warning(named, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "FILMS", ["v_Only_g01_c01"])
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    for split in ("train", "validation"):
        assert names(named(split, validation_share=0.1)) == ["v_Only_g01_c01"]
    assert len(said) == 2 and "only one training video, v_Only_g01_c01" in said[0]


def test_old_configurations_train_on_all_and_have_no_validation(named) -> None:
    assert not datasets.has_validation({"name": "named"})
    assert names(named("train")) == FILMS
    with pytest.raises(ConfigError, match="has no validation split"):
        named("validation")
    old = {"name": "scenes", "source": "files", "seed": 0, "num_train_videos": 3, "noise": 4.0}
    old |= {"num_test_videos": 2, "num_frames": 20, "cache": "", "root": ""}
    assert not datasets.has_validation(old)
    assert [info.num_frames for info in datasets.load(old, "train", SIZE).videos] == [20] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": "v_Dive_g03_c09"}, "v_Dive_g03_c09, which the training split"),
        ({"validation_share": 1.5}, "validation_share is 1.5"),
        ({"validation": ",".join(FILMS)}, "no video to train on"),
    ],
)
def test_wrong_options_are_refused(named, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        named("train", **options)


def test_scenes_render_three_splits_and_shorter_training_videos() -> None:
    data = datasets.DATASETS["scenes"].options | {"name": "scenes", "num_validation_videos": 5}
    data |= {"num_train_frames": 16}
    assert datasets.has_validation(data)
    splits = {s: datasets.load(data, s, SIZE) for s in ("train", "validation", "test")}
    assert [len(d.videos) for d in splits.values()] == [400, 5, 60]
    assert [d.videos[0].num_frames for d in splits.values()] == [16, 48, 48]
    first = [d.read(0, 3, 4)["video"] for d in splits.values()]
    assert all((a != b).any() for a, b in zip(first, first[1:]))
    longer = datasets.load(data | {"num_train_frames": 0}, "train", SIZE)
    np.testing.assert_array_equal(longer.read(0, 3, 4)["video"], first[0])
