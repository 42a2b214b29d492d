"""Files that are sound and that the system does not let be read: no advice to fetch or delete them.

One test for every reader of files in `media`, of the kinds of refusal that can be made here.
"""

import os

import numpy as np
import PIL.Image
import pytest

from tests.refusals import as_nobody, no_more_files
from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.media import folders
from v2v_jax.media.flow_files import read_flow, write_flow
from v2v_jax.media.folders import find_videos, list_folders, list_pictures
from v2v_jax.media.frame_sources import open_source
from v2v_jax.media.label_files import LabelInfo, LabelWriter, StoredLabels
from v2v_jax.media.pictures import Picture
from v2v_jax.media.video import VideoFile, VideoStream, read_video, write_video

HARMFUL = ("fetch", "remove", "delete", "unpack", "damaged")


def make(folder):
    """A file of each kind, and who reads it."""
    write_video(folder / "a.mp4", np.zeros((3, 16, 16, 3), np.uint8))
    PIL.Image.new("RGB", (16, 16)).save(folder / "a.png")
    write_flow(folder / "a.flo", np.zeros((4, 5, 2), np.float32))
    writer = LabelWriter(folder / "a.zarr", LabelInfo("mine", {}, 1, "", 3, (4, 4), (4, 4)))
    writer.append(np.zeros((2, 4, 4, 2), np.int16))
    writer.finish()
    return {
        "a.mp4": (VideoFile, VideoStream, read_video, open_source),
        "a.png": (Picture,),
        "a.flo": (read_flow,),
        "a.zarr/zarr.json": (lambda path: StoredLabels(path.parent),),
    }


def message_of(read, path):
    with pytest.raises(DataError) as caught:
        read(path)
    text = str(caught.value)
    assert str(path.name).partition(".json")[0] in text or "a.zarr" in text
    assert not any(word in text for word in HARMFUL), text
    return caught.value, text


def test_who_may_not_read_it(tmp_path):
    readers = make(tmp_path)
    for name in readers:
        (tmp_path / name).chmod(0)
    with as_nobody(tmp_path):
        for name, reads in readers.items():
            for read in reads:
                _, text = message_of(read, tmp_path / name)
                assert "Permission denied" in text and "check who may read it" in text


def test_a_closed_folder_is_not_a_missing_file(tmp_path):
    (tmp_path / "closed").mkdir()
    write_video(tmp_path / "closed" / "a.mp4", np.zeros((3, 16, 16, 3), np.uint8))
    (tmp_path / "closed").chmod(0)
    with as_nobody(tmp_path):
        for read in (VideoFile, VideoStream):
            _, text = message_of(read, tmp_path / "closed" / "a.mp4")
            assert "Permission denied" in text and "does not exist" not in text
        for listing in (list_pictures, list_folders):
            with pytest.raises(DataError, match="closed cannot be read .Permission denied"):
                listing(tmp_path / "closed")


def test_closed_folders_among_others_are_named(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(folders, "_said", set())
    for name in ("open/a.mp4", "closed/b.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "closed").chmod(0)
    with as_nobody(tmp_path):
        assert find_videos(tmp_path) == [os.path.join("open", "a.mp4")]
    assert f"left out 1 closed folder ({tmp_path / 'closed'})" in caplog.text


def test_too_many_open_files(tmp_path):
    """The same with every file: no video is to blame, none is passed over as damaged."""
    for name, reads in make(tmp_path).items():
        for read in reads:
            with no_more_files():
                error, text = message_of(read, tmp_path / name)
            assert "Too many open files" in text and "ulimit -n" in text
            assert not isinstance(error, CorruptVideoError)


def test_labels_are_not_damaged_by_too_many_open_files(tmp_path):
    make(tmp_path)
    stored = StoredLabels(tmp_path / "a.zarr")
    with no_more_files(), pytest.raises(DataError, match="Too many open.*ulimit -n") as caught:
        stored.read(0, 3)
    assert not isinstance(caught.value, CorruptVideoError) and "delete" not in str(caught.value)
    assert stored.read(0, 3)["flow_valid"][:2].all()
