"""UCF101: official lists, missing and damaged videos."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from v2v_jax.datasets.base.reading import read_video_labels
from v2v_jax.datasets.base.video_dataset import FIELDS
from v2v_jax.datasets.readers.ucf101 import Ucf101
from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.media.video import read_video, write_video

REAL = os.path.join(os.environ.get("V2V_REAL_DATA", ""), "ucf101")
TRAIN = ["YoYo/v_YoYo_g08_c01.avi 2", "HandstandPushups/v_HandStandPushups_g01_c01.avi 1"]
TEST = ["YoYo/v_YoYo_g01_c01.avi"]


def make_video(path: Path, count: int = 18, value: int = 0) -> None:
    """An AVI by name; the reader goes by content, so an MP4's content does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.full((count, 32, 48, 3), value, np.uint8) + np.arange(count, dtype=np.uint8)[
        :, None, None, None
    ] * np.uint8(10)
    write_video(path.with_suffix(".mp4"), frames)
    path.with_suffix(".mp4").rename(path)


def make_lists(root: Path, train=TRAIN, test=TEST, number: int = 1) -> None:
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "classInd.txt").write_bytes(b"1 HandstandPushups\r\n2 YoYo\r\n")
    for split, lines in (("train", train), ("test", test)):
        text = "".join(line + "\r\n" for line in lines)
        (lists / f"{split}list{number:02d}.txt").write_bytes(text.encode())


@pytest.fixture
def root(tmp_path):
    make_lists(tmp_path)
    # The files' spelling differs from the lists', as in some archives.
    for name in ("YoYo/v_YoYo_g08_c01", "HandstandPushups/v_HandstandPushups_g01_c01"):
        make_video(tmp_path / "UCF-101" / f"{name}.avi")
    make_video(tmp_path / "UCF-101" / "YoYo" / "v_YoYo_g01_c01.avi", 20, 40)
    return tmp_path


def test_official_split(root):
    train = Ucf101(root, "train", frame_size=(16, 24))
    assert [(v.name, v.num_frames) for v in train.videos] == [
        ("YoYo/v_YoYo_g08_c01.avi", 18),
        ("HandstandPushups/v_HandstandPushups_g01_c01.avi", 18),
    ]
    assert train.corrupt == []
    test = Ucf101(root, "test", frame_size=(16, 24))
    assert [v.num_frames for v in test.videos] == [20]
    frames = test.read(0, 3, 19)
    assert list(frames) == ["video"]
    assert frames["video"].shape == (16, 16, 24, 3)
    assert frames["video"].dtype == FIELDS["video"].dtype
    whole, _ = read_video(root / "UCF-101/YoYo/v_YoYo_g01_c01.avi", size=(16, 24))
    np.testing.assert_array_equal(frames["video"], whole[3:19])


def test_lists_of_other_systems(root, caplog):
    lines = [TRAIN[0].replace("/", "\\"), *TRAIN[1:], TRAIN[0]]
    lists = root / "ucfTrainTestlist"
    (lists / "trainlist01.txt").write_bytes(" \r".join(lines).encode("utf-8-sig"))
    (lists / "classInd.txt").write_bytes("1\tHandstandPushups\r\n2  YoYo\r\n".encode("utf-16"))
    train = Ucf101(root, "train", frame_size=(16, 24))
    assert len(train.videos) == len(TRAIN)
    assert train.video_label_names == ("HandstandPushups", "YoYo")
    assert "repeats names (1: " in caplog.records[0].getMessage()


def test_wrong_questions(root):
    dataset = Ucf101(root, "test")
    with pytest.raises(DataError, match="has no labels"):
        dataset.read(0, 0, 4, ("video", "labels"))
    with pytest.raises(ValueError, match="has 20 frames"):
        dataset.read(0, 10, 21)
    with pytest.raises(DataError, match="no split 'val'; choose train or test"):
        Ucf101(root, "val")
    with pytest.raises(DataError, match="choose 1, 2 or 3"):
        Ucf101(root, "train", list_number=4)


def test_other_official_list(root):
    make_lists(root, train=TEST, test=TRAIN[:1], number=3)
    assert Ucf101(root, "train", list_number=3).videos[0].name == "YoYo/v_YoYo_g01_c01.avi"
    with pytest.raises(DataError, match=r"trainlist02\.txt cannot be read"):
        Ucf101(root, "train", list_number=2)


@pytest.mark.parametrize("folder", ["UCF-101", "ucfTrainTestlist"])
def test_missing_folder(root, folder):
    (root / folder).rename(root / "elsewhere")
    with pytest.raises(DataError, match=f"{folder} does not exist; unpack"):
        Ucf101(root, "train")


@pytest.mark.parametrize(
    "line",
    [
        "../v_YoYo_g01_c01.avi 2",
        "../../secret/a.avi 2",
        "/etc/a.avi 2",
        "YoYo/v_YoYo_g01_c01.avi two",
        "YoYo/v_YoYo_g01_c01.avi 2 2",
        "v_YoYo_g01_c01.avi",
        "YoYo/notes.txt 2",
    ],
)
def test_malformed_line(root, line):
    make_lists(root, train=[TRAIN[0], line])
    with pytest.raises(DataError, match=r"trainlist01\.txt, line 2: .*expected 'Class/"):
        Ucf101(root, "train", allow_missing=True)


@pytest.mark.parametrize("label", [0, 1, 3])
def test_class_number_out_of_range_or_of_another_class(root, label):
    make_lists(root, train=[f"YoYo/v_YoYo_g08_c01.avi {label}"])
    with pytest.raises(DataError, match=rf"line 1: class number {label} is not that of YoYo"):
        Ucf101(root, "train")


def test_malformed_class_list(root):
    (root / "ucfTrainTestlist" / "classInd.txt").write_text("1 YoYo\nYoYo\n")
    with pytest.raises(DataError, match=r"classInd\.txt, line 2"):
        Ucf101(root, "train")


def test_empty_and_undecodable_list(root):
    make_lists(root, train=[])
    with pytest.raises(DataError, match=r"trainlist01\.txt is empty"):
        Ucf101(root, "train")
    (root / "ucfTrainTestlist" / "trainlist01.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"trainlist01\.txt cannot be read"):
        Ucf101(root, "train")


def test_missing_videos(root, caplog):
    lines = [*TRAIN, "YoYo/v_YoYo_g09_c01.avi 2", "YoYo/v_YoYo_g09_c02.avi 2"]
    make_lists(root, train=lines, test=lines[2:])
    with pytest.raises(DataError, match=r"2 of the 4 videos .*first being YoYo/v_YoYo_g09_c01"):
        Ucf101(root, "train")
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert len(Ucf101(root, "train", allow_missing=True).videos) == 2
    assert "using 2 of the 4 videos" in caplog.text
    with pytest.raises(DataError, match="None of the 2 videos"):
        Ucf101(root, "test", allow_missing=True)


def add_videos(root: Path, count: int) -> list[str]:
    folder = root / "UCF-101" / "YoYo"
    content = (folder / "v_YoYo_g01_c01.avi").read_bytes()
    names = [f"YoYo/v_YoYo_g50_c{i:02d}.avi" for i in range(count)]
    for name in names:
        (root / "UCF-101" / name).write_bytes(content)
    make_lists(root, train=[f"{name} 2" for name in names])
    return names


def test_one_corrupt_video_is_left_out(root, caplog):
    names = add_videos(root, 4)
    path = root / "UCF-101" / names[1]
    path.write_bytes(path.read_bytes()[:500])
    with caplog.at_level(logging.WARNING, logger="absl"):
        dataset = Ucf101(root, "train")
    assert [v.name for v in dataset.videos] == [names[0], names[2], names[3]]
    [(name, reason)] = dataset.corrupt
    assert name == names[1] and str(path) in reason
    assert str(path) in caplog.text
    np.testing.assert_array_equal(dataset.read(1, 0, 4)["video"], dataset.read(0, 0, 4)["video"])


def test_more_corrupt_videos_than_tolerated(root):
    names = add_videos(root, 4)
    for name in names[1:3]:
        (root / "UCF-101" / name).write_text("This is no video.")
    with pytest.raises(DataError, match="2 of 4 videos cannot be read .*c01.avi.*c02.avi") as error:
        Ucf101(root, "train")
    assert not isinstance(error.value, CorruptVideoError)


def test_the_only_video_is_corrupt(root):
    (root / "UCF-101" / "YoYo" / "v_YoYo_g01_c01.avi").write_bytes(b"")
    with pytest.raises(DataError, match="1 of 1 videos cannot be read"):
        Ucf101(root, "test")


def test_short_videos_are_left_out_but_not_corrupt(root, caplog):
    names = add_videos(root, 3)
    for name in names[:2]:
        make_video(root / "UCF-101" / name, 15)
    with caplog.at_level(logging.WARNING, logger="absl"):
        dataset = Ucf101(root, "train")
    assert [v.name for v in dataset.videos] == names[2:] and dataset.corrupt == []
    assert "2 of 3 videos shorter than 16 frames" in caplog.text and names[0] in caplog.text
    assert len(Ucf101(root, "train", min_frames=15).videos) == 3
    with pytest.raises(DataError, match="all 3 videos are shorter than 30 frames"):
        Ucf101(root, "train", min_frames=30)


def test_damage_after_listing(root):
    dataset = Ucf101(root, "test")
    path = root / "UCF-101" / "YoYo" / "v_YoYo_g01_c01.avi"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(CorruptVideoError, match=r"v_YoYo_g01_c01\.avi"):
        dataset.read(0, 0, 16)


@pytest.mark.skipif(not os.path.isdir(REAL), reason="V2V_REAL_DATA has no ucf101 folder")
def test_real_videos():
    train = Ucf101(REAL, "train", allow_missing=True)
    test = Ucf101(REAL, "test", allow_missing=True)
    assert len(train.videos) + len(test.videos) == 24
    assert not {v.name for v in train.videos} & {v.name for v in test.videos}
    clip = test.read(0, 100, 116)["video"]
    assert clip.shape == (16, 128, 171, 3)
    assert 20 < clip.mean() < 235
    with pytest.raises(DataError, match="of the 9537 videos"):
        Ucf101(REAL, "train")


# ------------------------------------------------------------------------------------------------
# Classes of whole videos


def test_the_class_is_the_folder(root):
    train = Ucf101(root, "train", frame_size=(16, 24))
    assert train.video_label_names == ("HandstandPushups", "YoYo")
    assert read_video_labels(train).tolist() == [1, 0]
    test = Ucf101(root, "test", frame_size=(16, 24))
    assert test.video_label_names == train.video_label_names
    assert read_video_labels(test).tolist() == [1]


def test_without_the_list_of_classes_they_are_sorted(root):
    (root / "ucfTrainTestlist" / "classInd.txt").unlink()
    for split, labels in (("train", [1, 0]), ("test", [1])):
        dataset = Ucf101(root, split, frame_size=(16, 24))
        assert dataset.video_label_names == ("HandstandPushups", "YoYo")
        assert read_video_labels(dataset).tolist() == labels


@pytest.mark.skipif(not os.path.isdir(REAL), reason="needs V2V_REAL_DATA")
def test_real_videos_have_their_classes():
    dataset = Ucf101(REAL, "train", allow_missing=True)
    assert len(dataset.video_label_names) == 101
    for video, label in zip(dataset.videos, read_video_labels(dataset)):
        assert video.name.split("/")[0].lower() == dataset.video_label_names[label].lower()
