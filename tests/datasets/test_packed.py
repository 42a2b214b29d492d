"""The cache of decoded frames: the same bytes as without it, whatever happens to its files."""

import errno
import os
import queue
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import filelock
import numpy as np
import pytest
from PIL import Image

from tests.memory_dataset import (
    LENGTHS,
    Memory,
    assert_same,
    batches_of,
    both,
    plans_for,
    warnings_of,
)
from tests.refusals import as_nobody
from tests.tiny import ROOT, tiny_config
from v2v_jax import datasets
from v2v_jax.cli import commands
from v2v_jax.datasets.base.video_dataset import FIELDS
from v2v_jax.datasets.cache import cache_builder, cache_files
from v2v_jax.datasets.cache.packed import PackedVideos
from v2v_jax.datasets.readers.davis import Davis
from v2v_jax.datasets.readers.video_folder import VideoFolder
from v2v_jax.datasets.scenes import Scenes
from v2v_jax.errors import ConfigError, CorruptVideoError, DataError
from v2v_jax.media.video import write_video
from v2v_jax.run.experiment import make_experiment


class Source(Memory):
    """Random videos with an identity; counts how often they are read."""

    def __init__(self, *arguments, version=1, **options):
        super().__init__(*arguments, **options)
        self.version, self.reads = version, 0
        for arrays in self.arrays:
            arrays["video"] += np.uint8(version)

    def identity(self):
        return {"version": self.version}

    def read(self, video, start, stop, fields=("video",)):
        self.reads += 1
        return super().read(video, start, stop, fields)


class HalfReadable(Source):
    """Of the third video only the first four frames can be read."""

    def read(self, video, start, stop, fields=("video",)):
        if video == 2 and stop > 4:
            raise CorruptVideoError("clip2.avi ends after frame 3.")
        return super().read(video, start, stop, fields)


def open_cache(folder, source=None, fields=tuple(FIELDS)):
    dataset = PackedVideos(source or Source(), folder, "train")
    dataset.prepare_fields(fields)
    return dataset


def assert_equal_to(source, dataset, fields=tuple(FIELDS)):
    for video, length in enumerate(LENGTHS):
        for start, stop in ((0, length), (1, 2), (length - 1, length)):
            found = dataset.read(video, start, stop, fields)
            assert list(found) == list(fields)
            for field in fields:
                expected = source.arrays[video][field][start:stop]
                assert found[field].dtype == expected.dtype
                assert found[field].shape == expected.shape
                assert found[field].tobytes() == expected.tobytes()


def the_cache(folder):
    """The folder of the one cache that is there."""
    (path,) = (path for path in folder.iterdir() if path.is_dir())
    return path


def visible(folder):
    """What stands in the folder under a name that a cache could have."""
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def hidden_folders(folder):
    return [path.name for path in folder.iterdir() if path.is_dir() and path.name[0] == "."]


# ------------------------------------------------------------------------------------------------
# Content


def test_every_field_of_every_window_is_as_read_directly(tmp_path):
    dataset = open_cache(tmp_path)
    assert_equal_to(Source(), dataset)
    with pytest.raises(ValueError, match="Frames 0..8 of video clip0"):
        dataset.read(0, 0, 8)
    with pytest.raises(ValueError, match="read-only"):
        dataset.read(0, 0, 1)["video"][:] = 0


def test_the_dataset_looks_as_without_a_cache(tmp_path):
    source = Source()
    dataset = PackedVideos(source, tmp_path, "train")
    for name in ("name", "fields", "label_names", "frame_size", "videos"):
        assert getattr(dataset, name) == getattr(source, name)
    assert dataset.identity() == source.identity()
    with pytest.raises(DataError, match="memory has no audio"):
        dataset.prepare_fields(("video", "audio"))


def test_only_the_fields_asked_for_are_kept_and_others_come_from_the_dataset(tmp_path):
    source = Source()
    dataset = open_cache(tmp_path, source, ("labels", "video"))
    files = sorted(path.name for path in the_cache(tmp_path).iterdir())
    assert files == ["labels.npy", "manifest.json", "verified.json", "video.npy"]
    reads = source.reads
    dataset.read(0, 0, 3, ("video", "labels"))
    assert source.reads == reads
    assert_equal_to(source, dataset, ("depth", "video"))
    assert source.reads > reads


def test_a_sound_cache_is_opened_without_reading_the_videos_or_the_sums_again(
    tmp_path, monkeypatch
):
    first = Source()
    open_cache(tmp_path, first)
    assert first.reads == len(LENGTHS)
    monkeypatch.setattr(cache_files, "sum_of", None)
    again = Source()
    assert_equal_to(again, open_cache(tmp_path, again))
    assert again.reads == 0


def test_a_cache_that_was_copied_is_verified_once(tmp_path, monkeypatch):
    open_cache(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    summed, compute = [], cache_files.sum_of
    monkeypatch.setattr(cache_files, "sum_of", lambda array: summed.append(1) or compute(array))
    for count in (len(LENGTHS) * len(FIELDS), 0):
        source = Source()
        assert_equal_to(source, open_cache(tmp_path / "b", source))
        assert len(summed) == count and source.reads == 0
        summed.clear()


def test_a_dataset_that_does_not_know_itself_cannot_be_cached(tmp_path):
    with pytest.raises(DataError, match="memory cannot be cached; leave --config.data.cache out"):
        open_cache(tmp_path, Memory())


# ------------------------------------------------------------------------------------------------
# Through the feeds


@both
def test_feeds_deliver_the_same_clips_with_and_without_a_cache(kind, tmp_path):
    plans = plans_for(Source())
    expected, _ = batches_of(kind, Source(), plans)
    for _ in range(2):  # built, opened
        found, feed = batches_of(kind, PackedVideos(Source(), tmp_path, "train"), plans)
        assert_same(found, expected)
        assert len(feed.skipped) == 0


@both
@pytest.mark.parametrize("source", [lambda: Source(corrupt=[2]), HalfReadable])
def test_unreadable_videos_are_treated_as_without_a_cache(kind, source, tmp_path, monkeypatch):
    plans = plans_for(source(), range(8))
    warnings = warnings_of(monkeypatch)
    expected, _ = batches_of(kind, source(), plans)
    before = list(warnings)
    for _ in range(2):
        warnings.clear()
        found, feed = batches_of(kind, PackedVideos(source(), tmp_path, "train"), plans)
        assert_same(found, expected)
        assert len(feed.skipped) == 1 and warnings == before


def test_reading_an_unreadable_video_says_what_the_dataset_says(tmp_path):
    dataset = open_cache(tmp_path, Source(corrupt=[2]))
    with pytest.raises(CorruptVideoError, match=r"^clip2\.avi cannot be decoded: bad header"):
        dataset.read(2, 0, 3)


def test_progress_sees_every_video(tmp_path):
    seen = []

    def progress(items, total, text):
        seen.append((total, text))
        yield from items

    PackedVideos(Source(), tmp_path, "train").prepare_fields(("video",), progress)
    assert seen == [(5, "caching memory"), (5, "verifying the cache")]


def test_the_configuration_opens_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Scenes, "python_share", 0.0)  # starting processes takes long
    config = tiny_config(data__cache=str(tmp_path))
    dataset = make_experiment(config, "test").dataset
    assert isinstance(dataset, PackedVideos) and visible(tmp_path) == []
    dataset.prepare_fields(("video", "labels"))
    assert the_cache(tmp_path).name.startswith("scenes-test-48x64-")
    direct = make_experiment(tiny_config(), "test").dataset
    assert isinstance(direct, Scenes)
    for field, value in direct.read(1, 2, 5, ("video", "labels")).items():
        np.testing.assert_array_equal(dataset.read(1, 2, 5, (field,))[field], value)


@pytest.mark.parametrize("name", [" ", "file"])
def test_a_folder_that_cannot_be_one(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    data = {"name": "scenes", **datasets.DATASETS["scenes"].options, "cache": name}
    with pytest.raises(ConfigError, match=f"^data.cache is '{name}', which is not a folder; "):
        datasets.load(data, "train", (48, 64))


# ------------------------------------------------------------------------------------------------
# Damage


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def swap_header(path):
    path.write_bytes(path.read_bytes().replace(b"25, 6, 8,", b"25, 8, 6,"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: flip(p / "video.npy", -1), "is damaged (the sum of clip4.avi in video.npy"),
        (lambda p: flip(p / "depth.npy", 128), "is damaged (the sum of clip0.avi in depth.npy"),
        (lambda p: os.truncate(p / "flow.npy", 1000), "is damaged ("),
        (lambda p: os.truncate(p / "labels.npy", 0), "is damaged ("),
        (lambda p: os.remove(p / "labels.npy"), "is damaged ("),
        (lambda p: flip(p / "video.npy", 0), "is damaged ("),
        (lambda p: swap_header(p / "video.npy"), "is damaged (video.npy holds uint8 (25, 8, 6, 3)"),
        (lambda p: os.remove(p / "manifest.json"), "has no manifest.json that can be read"),
        (lambda p: os.truncate(p / "manifest.json", 100), "is damaged (manifest.json cannot be"),
        (lambda p: flip(p / "manifest.json", 200), "is damaged (the sum of manifest.json"),
    ],
)
def test_a_damaged_cache_is_built_anew_with_one_warning(damage, message, tmp_path, monkeypatch):
    open_cache(tmp_path)
    damage(the_cache(tmp_path))
    warnings = warnings_of(monkeypatch)
    source = Source()
    dataset = open_cache(tmp_path, source)
    assert source.reads == len(LENGTHS)
    assert_equal_to(source, dataset)
    (warning,) = warnings
    assert warning.startswith(f"The cache {the_cache(tmp_path)} {message}")
    assert warning.endswith("; it is built again.") and "\n" not in warning
    assert hidden_folders(tmp_path) == []


def test_a_check_finds_what_neither_size_nor_time_shows(tmp_path, capsys):
    open_cache(tmp_path)
    path = the_cache(tmp_path)
    assert commands.execute(["pack", f"--verify={tmp_path}"]) == 0
    assert capsys.readouterr().out.startswith(f"{path} is sound: depth, flow, ")
    status = (path / "flow.npy").stat()
    flip(path / "flow.npy", -5)
    os.utime(path / "flow.npy", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert commands.execute(["pack", f"--verify={tmp_path}"]) == 1
    assert "the sum of clip4.avi in flow.npy is wrong" in capsys.readouterr().out


def test_changed_data_makes_another_cache(tmp_path, monkeypatch):
    open_cache(tmp_path)
    old = the_cache(tmp_path)
    warnings = warnings_of(monkeypatch)
    source = Source(version=2)
    assert_equal_to(source, open_cache(tmp_path, source))
    (warning,) = warnings
    assert "delete those that are out of date" in warning and old.name in warning
    assert_equal_to(Source(), open_cache(tmp_path))  # the first is still what it was
    assert len(visible(tmp_path)) == 2


def test_a_cache_under_the_name_of_another_is_not_used(tmp_path, monkeypatch):
    open_cache(tmp_path)
    mine = the_cache(tmp_path)
    shutil.rmtree(mine)
    open_cache(tmp_path, Source(version=2))
    the_cache(tmp_path).rename(mine)
    warnings = warnings_of(monkeypatch)
    source = Source()
    assert_equal_to(source, open_cache(tmp_path, source))
    assert "holds other data than its name says; it is built again" in warnings[0]


def test_data_that_changes_while_it_is_read(tmp_path):
    source = Source()
    source.identity = lambda: {"reads": source.reads}
    with pytest.raises(DataError, match="files of memory changed while they were read"):
        open_cache(tmp_path, source)
    assert visible(tmp_path) == hidden_folders(tmp_path) == []


# ------------------------------------------------------------------------------------------------
# What a cache depends on


def write_movie(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, np.full((16, 32, 48, 3), level, np.uint8))


def test_a_video_file_that_is_replaced(tmp_path):
    videos = tmp_path / "videos"
    write_movie(videos / "test" / "t.mp4", 0)
    for level in (50, 200):
        write_movie(videos / "train" / "a.mp4", level)
        source = VideoFolder(videos, "train", frame_size=(16, 24))
        dataset = open_cache(tmp_path / "cache", source, ("video",))
        frames = dataset.read(0, 3, 9)["video"]
        np.testing.assert_array_equal(frames, source.read(0, 3, 9)["video"])
        assert abs(int(frames.mean()) - level) < 3
    shutil.move(videos, tmp_path / "moved")
    source = VideoFolder(tmp_path / "moved", "train", frame_size=(16, 24))
    open_cache(tmp_path / "cache", source, ("video",))
    assert len(visible(tmp_path / "cache")) == 2  # moving the files changes nothing


def test_identities_tell_frames_masks_and_parameters_apart(tmp_path):
    for number in range(16):
        for folder, mode, suffix in (("JPEGImages", "RGB", "jpg"), ("Annotations", "L", "png")):
            path = tmp_path / folder / "480p" / "dog" / f"{number:05d}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new(mode, (8, 6)).save(path)
    identity = lambda: Davis(tmp_path, "test", held_out=["dog"]).identity()
    before = identity()
    assert before == identity() and len(before["files"]) == 32
    mask = tmp_path / "Annotations" / "480p" / "dog" / "00003.png"
    os.utime(mask, (1, 1))
    assert identity() != before
    scenes = [
        Scenes("train"),
        Scenes("test"),
        Scenes("train", seed=1),
        Scenes("train", noise=1.0),
        Scenes("train", num_frames=3),
    ]
    identities = [str(dataset.identity()) for dataset in scenes]
    assert len(set(identities)) == len(scenes) and identities[0] == str(Scenes("train").identity())


# ------------------------------------------------------------------------------------------------
# Writing that fails, and several writers


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        DataError, match=r"^The cache .*file/deep.* cannot be written \(Not a dir.*\); choose"
    ):
        open_cache(tmp_path / "file" / "deep")


def test_a_sound_cache_in_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    open_cache(tmp_path)
    os.remove(the_cache(tmp_path) / "verified.json")

    def refuse(path):
        raise AssertionError(f"{path} was to be written")

    monkeypatch.setattr(cache_builder, "_locked", refuse)
    monkeypatch.setattr(cache_files.pathlib.Path, "write_bytes", lambda *_: os.open("/proc/x", 65))
    assert_equal_to(Source(), open_cache(tmp_path))


@pytest.mark.parametrize("name", ["video.npy", "manifest.json"])
def test_a_cache_that_may_not_be_read_is_not_built_anew(tmp_path, name):
    """It is as good as ever: building it again may take hours, and another one's files."""
    open_cache(tmp_path)
    file = next(tmp_path.glob(f"*/{name}"))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    file.chmod(0)
    source = Source()
    with as_nobody(tmp_path), pytest.raises(DataError, match="denied.*check who may read it"):
        open_cache(tmp_path, source)
    assert source.reads == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_a_disk_without_enough_space(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=7000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    source = Source()
    with pytest.raises(DataError, match="takes 0.0 GiB and its disk has 0.0 GiB left; choose"):
        open_cache(tmp_path, source)
    assert source.reads == 0 and visible(tmp_path) == hidden_folders(tmp_path) == []


def test_a_disk_that_fills_up(tmp_path):
    """A limit to the size of files stands for the full disk: writing fails in the same way."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(DataError, match=r"cannot be written \(File too large\); choose a d"):
            open_cache(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert visible(tmp_path) == hidden_folders(tmp_path) == []
    assert_equal_to(Source(), open_cache(tmp_path))


def test_an_error_of_the_dataset_leaves_nothing(tmp_path):
    with pytest.raises(DataError, match=r"^clip2\.avi has a mask of another size\.$"):
        open_cache(tmp_path, Source(wrong=[2]))
    assert visible(tmp_path) == hidden_folders(tmp_path) == []


def build_slowly(folder):
    """Run in a process of its own, to be killed."""
    source = Source()
    read = source.read

    def slow(video, *arguments):
        if video == 3:
            print("reading", flush=True)
            time.sleep(60)
        return read(video, *arguments)

    source.read = slow
    open_cache(folder, source)


def test_killed_while_writing(tmp_path):
    code = f"from tests.datasets.test_packed import *; build_slowly({str(tmp_path)!r})"
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, env=environment
    )
    assert process.stdout.readline() == b"reading\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert visible(tmp_path) == [] and len(hidden_folders(tmp_path)) == 1
    assert_equal_to(Source(), open_cache(tmp_path))
    assert len(visible(tmp_path)) == 1 and hidden_folders(tmp_path) == []


def build_together(folder, barrier, results, source=None):
    source = source or Source()
    barrier.wait()
    dataset = open_cache(folder, source)
    try:
        assert_equal_to(Source(), dataset)
        results.put(source.reads)
    except AssertionError:
        results.put("different")


@pytest.mark.parametrize("locks", [True, False])
def test_several_builders_at_once(locks, tmp_path, monkeypatch):
    """With locks one builds and the others wait; without, the first to finish wins."""
    count = 4
    if not locks:

        def refuse(*_, **__):
            raise OSError(errno.ENOLCK, "no locks here")

        monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    barrier, results = threading.Barrier(count), queue.Queue()
    threads = [
        threading.Thread(target=build_together, args=(tmp_path, barrier, results))
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reads = sorted(results.get() for _ in threads)
    assert len(reads) == count and set(reads) <= {0, len(LENGTHS)}
    if locks:
        assert reads == [0, 0, 0, len(LENGTHS)]
    assert len(visible(tmp_path)) == 1 and hidden_folders(tmp_path) == []
