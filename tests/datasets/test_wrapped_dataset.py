"""A dataset that wraps another hides nothing: every public name of `VideoDataset` is tried."""

import argparse
import pickle

import numpy as np
import pytest

from tests.tiny import tiny_config
from v2v_jax.cli import check_data
from v2v_jax.datasets.base.held_back import Subset
from v2v_jax.datasets.base.video_dataset import VideoDataset, VideoInfo
from v2v_jax.datasets.base.wrapped_dataset import WrappedDataset
from v2v_jax.datasets.cache.packed import PackedVideos
from v2v_jax.datasets.cache.teacher_labels import TeacherLabels
from v2v_jax.errors import DataError
from v2v_jax.labelling.label_maker import LabelSet, label_videos
from v2v_jax.media.label_files import LabelInfo, LabelWriter, label_path
from v2v_jax.media.video import write_video
from v2v_jax.system.jobs import Backend

PUBLIC = sorted(
    {name for name in (*dir(VideoDataset), *VideoDataset.__annotations__) if name[0] != "_"}
)
# How to call each method. One that is new to the interface fails the tests until it is here, and
# until `WrappedDataset` forwards it.
ARGUMENTS = {
    "read": (0, 0, 1),
    "original_size": (0,),
    "channels": ("probabilities",),
    "files": (0,),
    "video_label": (0,),
    "identity": (),
    "prepare_fields": (("video",),),
    "check_fields": (("video",),),
}
# What a wrapper works out from attributes of the source instead of passing the call on.
DERIVED = {"check_fields": {"fields", "video_label_names"}, "channels": {"label_names"}}


class Spy(VideoDataset):
    """Notes which of its public names are asked for."""

    name = "spy"
    fields = ("video",)
    python_share = 1.0
    processes = 3
    label_names = ("a", "b")
    video_label_names = ("c", "d")
    frame_size = (4, 6)
    native_size = (40, 60)
    corrupt = (("bad.mp4", "it is damaged"),)
    extra = "not part of the interface"

    def __init__(self, path):
        self.seen = set()
        self.paths = [str(path)]
        self.videos = [VideoInfo("a.mp4", 3)]

    def __getattribute__(self, name):
        if name[0] != "_" and name != "seen":
            self.seen.add(name)
        return super().__getattribute__(name)

    def read(self, video, start, stop, fields=("video",)):
        return {f: np.zeros((stop - start, *self.frame_size, 3), np.uint8) for f in fields}

    def files(self, video):
        return (self.paths[video],)

    def original_size(self, video):
        return (40, 60)

    def video_label(self, video):
        return 1

    def identity(self):
        return {"spy": 1}


def plain(source, folder):
    return WrappedDataset(source)


def packed(source, folder):
    return PackedVideos(source, folder / "cache", "train")


def subset(source, folder):
    return Subset(source, [0], "train")


def with_flow(source, folder, labels="labels"):
    info = LabelInfo("t", {}, 5, "", 3, (8, 12), (8, 12))
    writer = LabelWriter(label_path(folder / labels, "a.mp4"), info)
    writer.append(np.zeros((2, 8, 12, 2), np.int16))
    writer.finish()
    (folder / labels / "labels.json").write_text('{"field": "flow"}')
    return TeacherLabels(source, str(folder / labels), str(folder))


wrappers = pytest.mark.parametrize("wrap", [plain, packed, subset, with_flow])


@pytest.fixture
def spy(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"12345")
    return Spy(tmp_path / "a.mp4")


def test_the_list_of_methods_is_complete():
    methods = {name for name in PUBLIC if callable(getattr(VideoDataset, name, None))}
    assert methods == ARGUMENTS.keys()
    assert {"name", "fields", "videos", "corrupt", "native_size", "video_label"} <= set(PUBLIC)


@wrappers
@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_reaches_the_source(wrap, name, spy, tmp_path):
    # What a wrapper reads once, when it is made, counts too.
    wrapper = wrap(spy, tmp_path)
    value = getattr(wrapper, name)
    if name in ARGUMENTS:
        spy.seen.clear()
        value(*ARGUMENTS[name])
    assert spy.seen & DERIVED.get(name, {name}), f"{type(wrapper).__name__}.{name}"


@wrappers
def test_values_are_the_sources(wrap, spy, tmp_path):
    wrapper = wrap(spy, tmp_path)
    changed = {"fields"} if wrap is with_flow else set()
    for name in set(PUBLIC) - ARGUMENTS.keys() - changed:
        assert getattr(wrapper, name) == getattr(spy, name), name
    assert wrapper.original_size(0) == (40, 60) and wrapper.video_label(0) == 1
    assert wrapper.read(0, 1, 3)["video"].shape == (2, 4, 6, 3)
    assert wrapper.extra == spy.extra
    with pytest.raises(AttributeError):
        wrapper._private  # noqa: B018
    with pytest.raises(AttributeError):
        wrapper.nothing  # noqa: B018


def test_flow_is_added(spy, tmp_path):
    wrapper = with_flow(spy, tmp_path)
    assert wrapper.fields == ("video", "flow", "flow_valid") and wrapper.native_size == (40, 60)
    spy.native_size = None
    assert with_flow(spy, tmp_path, "again").native_size == (8, 12)
    assert wrapper.identity()["video"] == spy.identity()
    cached = packed(wrapper, tmp_path)
    assert cached.corrupt == spy.corrupt and cached.teacher == "t" and cached.paths == spy.paths


class Countable(VideoDataset):
    """At the top level, so that it can be sent to another process."""

    name, frame_size, videos = "countable", (2, 3), [VideoInfo("a", 1)]

    def read(self, video, start, stop, fields=("video",)):
        return {f: np.ones((stop - start, 2, 3, 3), np.uint8) for f in fields}


def test_a_wrapper_can_be_sent_to_another_process(tmp_path):
    for wrapper in (WrappedDataset(Countable()), PackedVideos(Countable(), tmp_path, "train")):
        again = pickle.loads(pickle.dumps(wrapper))
        assert again.name == "countable" and again.read(0, 0, 1)["video"].all()


def still(first, second):
    """A teacher's function."""
    return np.zeros((*first.shape[:2], 2), np.float32)


GOOD = ("train/a.mp4", "train/b.mp4", "test/c.mp4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """videos/: videos of ten frames, one of them damaged; labels/: the flow of the others."""
    root = tmp_path_factory.mktemp("folder")
    frames = np.random.default_rng(0).integers(0, 256, (10, 16, 32, 3), np.uint8)
    for name in (*GOOD, "train/bad.mp4"):
        path = root / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    teacher = "tests.datasets.test_wrapped_dataset:still"
    labels = LabelSet(str(root / "videos"), GOOD, str(root / "labels"), teacher)
    assert label_videos(labels, Backend()).status == 0
    return root


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_check_data_sees_a_corrupt_video(cached, labelled, folder, tmp_path):
    """It was invisible where a cache or flow labels were set: no problems, exit status 0."""
    config = tiny_config(
        "flow" if labelled else "color",
        "dataset=folder",
        data__root=str(folder / "videos"),
        data__validation_share=0.0,
        data__cache=str(tmp_path / "cache") if cached else "",
        data__teacher_labels=str(folder / "labels") if labelled else "",
        preprocessing__frame_size=(16, 24),
        preprocessing__crop_size=(16, 16),
        preprocessing__clip_length=8,
    )
    reports = check_data.check(config)
    [(name, reason)] = reports["train"]["problems"]
    assert name == "bad.mp4" and "cannot be read" in reason
    assert reports["train"]["videos"] == 2 and reports["test"]["problems"] == []
    assert reports["train"]["original sizes"] == {"32x16": 2}
    with pytest.raises(DataError, match="1 problem found"):
        check_data.run(argparse.Namespace(config=config, workdir=None))
