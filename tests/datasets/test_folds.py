"""Cross-validation: the folds that training videos are divided into."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v2v_jax import datasets
from v2v_jax.datasets.base.held_back import Subset, fold_of
from v2v_jax.datasets.base.video_dataset import VideoDataset, VideoInfo
from v2v_jax.errors import ConfigError

SIZE = (4, 6)
NAMES = [f"film{film}_c{clip}" for film in range(11) for clip in range(3)]
FILM = lambda name: name.split("_")[0]
names_lists = st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=40, unique=True)
few = settings(max_examples=60, deadline=None)


class Films(VideoDataset):
    """Frames that hold the number of their video; with what DAVIS and Sintel have beside that."""

    name = "films"
    fields = ("video", "labels")
    frame_size = SIZE

    def __init__(self, names):
        self.videos = [VideoInfo(name, 9) for name in names]

    def read(self, video, start, stop, fields=("video",)):
        return {f: np.full((stop - start, *SIZE), video, np.uint8) for f in fields}

    def native_masks(self, video):
        return self.videos[video].name

    def native_pairs(self):
        return [(video, 5) for video in range(len(self.videos))]


@pytest.fixture
def load(monkeypatch):
    """load(split, training=None, **options) of a dataset with eleven films and a test split."""
    opened = []

    def open_films(options, split, frame_size):
        opened.append(split)
        return Films(NAMES if split == "train" else ["official"])

    entry = datasets.DatasetEntry(open_films, {}, group=FILM)
    monkeypatch.setitem(datasets.DATASETS, "films", entry)

    def load(split, training=None, **options):
        data = {"name": "films", "cache": ""} | options
        return datasets.load(data, split, SIZE, training=training)

    load.opened = opened
    return load


def names(dataset):
    return [info.name for info in dataset.videos]


@few
@given(names_lists, st.integers(2, 8), st.randoms())
def test_every_video_is_in_one_fold_whatever_their_order(videos, num_folds, random):
    if len(videos) < num_folds:
        with pytest.raises(ConfigError, match=f"num_folds is {num_folds}, but there are"):
            fold_of(videos, num_folds, 0, str)
        return
    folds = [fold_of(videos, num_folds, fold, str) for fold in range(num_folds)]
    assert sorted(name for fold in folds for name in fold) == sorted(videos)  # complete, disjoint
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    shuffled = random.sample(videos, len(videos))
    assert [fold_of(shuffled, num_folds, fold, str) for fold in range(num_folds)] == folds


@few
@given(names_lists, st.text(min_size=1, max_size=8), st.integers(2, 8))
def test_one_more_video_moves_one_from_each_fold_to_its_neighbour(videos, new, num_folds):
    if new in videos or len(videos) < num_folds:
        return

    def fold_in(names):
        folds = {fold: fold_of(names, num_folds, fold, str) for fold in range(num_folds)}
        return {name: fold for fold, videos in folds.items() for name in videos}

    before, after = fold_in(videos), fold_in([*videos, new])
    moved = [(before[name], after[name]) for name in videos if before[name] != after[name]]
    assert all(abs(old - now) == 1 for old, now in moved)
    assert len({frozenset(pair) for pair in moved}) == len(moved)  # one across each border


def test_the_folds_are_frozen():
    """Another value here means that folds of earlier runs are others: change the code back."""
    assert sorted(fold_of([f"video{i}" for i in range(7)], 3, 1, str)) == FROZEN


FROZEN = ["video4", "video6"]


@pytest.mark.parametrize("num_folds", [2, 3, 11])
def test_a_folds_films_are_tested_and_neither_train_nor_validate(load, num_folds):
    tested = []
    for fold in range(num_folds):
        options = dict(validation_share=0.2, num_folds=num_folds, fold=fold)
        parts = {split: load(split, **options) for split in ("train", "validation", "test")}
        assert sorted(sum(map(names, parts.values()), [])) == sorted(NAMES)
        films = [{FILM(name) for name in names(part)} for part in parts.values()]
        assert all(films) and sum(map(len, films)) == 11  # no film is in two splits
        for split in ("validation", "test"):  # read from the same dataset, opened once
            count = len(load.opened)
            again = load(split, parts["train"], **options)
            assert names(again) == names(parts[split])
            assert len(load.opened) - count == (split == "test")
        tested += names(parts["test"])
    assert sorted(tested) == sorted(NAMES)
    assert load.opened == ["train"] * len(load.opened)  # the official test split is left alone
    assert names(load("test", validation_share=0.2)) == ["official"]


def test_without_a_validation_split_the_rest_trains(load):
    train = load("train", num_folds=3, fold=1)
    test = load("test", train, num_folds=3, fold=1)
    assert len(load.opened) == 1 and sorted(names(train) + names(test)) == sorted(NAMES)


def test_a_fold_reads_its_own_videos(load):
    test = load("test", validation_share=0.1, num_folds=4, fold=2)
    assert isinstance(test, Subset)
    for video, name in enumerate(names(test)):
        assert (test.read(video, 0, 2, ("labels",))["labels"] == NAMES.index(name)).all()
        assert test.native_masks(video) == name
    assert test.native_pairs() == [(video, 5) for video in range(len(test.videos))]


def test_more_folds_than_films_is_one_clear_sentence(load):
    with pytest.raises(ConfigError, match="num_folds is 12, but there are 11 training videos to"):
        load("train", num_folds=12, fold=0)


def test_a_few_videos_of_each_split_for_a_quick_try(load):
    """Spread evenly over the split, with all that is read of them; none twice."""
    whole = names(load("train", validation_share=0.2))
    few = load("train", validation_share=0.2, max_videos=3)
    assert names(few) == [whole[0], whole[(len(whole) - 1) // 2], whole[-1]]
    for video, name in enumerate(names(few)):
        assert (few.read(video, 0, 1)["video"] == NAMES.index(name)).all()
    validation = names(load("validation", training=few, validation_share=0.2, max_videos=3))
    assert len(validation) == 3 and not set(validation) & set(whole)
    assert names(load("train", max_videos=100, validation_share=0.2)) == whole
    assert names(load("test", max_videos=1)) == ["official"]
