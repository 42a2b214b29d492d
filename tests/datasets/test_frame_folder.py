"""Folders of frames and masks: both layouts, classes, lists, bad data."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from v2v_jax.datasets.readers.frame_folder import FrameFolder
from v2v_jax.errors import DataError

SIZE = (8, 12)
TABLE = "64 128 64\tAnimal\n192 0 128\t\tArchway\n0 0 0\t\tVoid\n0 128 192 Bicyclist rider\n"
COLORS = np.array([(64, 128, 64), (192, 0, 128), (0, 0, 0), (0, 128, 192)], np.uint8)
VALUES = np.broadcast_to(np.arange(SIZE[1]) // 3, SIZE)  # all four in stripes
LABELS = np.broadcast_to(np.repeat([0, 1, 255, 2], 3), SIZE)


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def frame(n: int) -> np.ndarray:
    return np.full((*SIZE, 3), n, np.uint8)


def make_folders(root: Path, mask=COLORS[VALUES], videos=("b2", "b10"), count=17) -> Path:
    for video in videos:
        for n in range(count):
            save(root / "images" / video / f"{30 * n}.png", frame(n))
            save(root / "labels" / video / f"{30 * n}.png", mask)
    (root / "label_colors.txt").write_text(TABLE)
    (root / "train.txt").write_text("b2\r\n\r\n")
    (root / "test.txt").write_text("b10\n")
    return root


def make_camvid(root: Path, frames="images", masks="labels") -> Path:
    for video in ("0001TP", "Seq05VD"):
        for n in range(17):
            stem = f"{video}_{'f' if video[0] == 'S' else '0'}{30 * n + 6690:05d}"
            save(root / frames / f"{stem}.png", frame(n))
            save(root / masks / f"{stem}_L.png", COLORS[VALUES])
    (root / "label_colors.txt").write_text(TABLE)
    return root


def test_folder_a_video(tmp_path):
    make_folders(tmp_path)
    train = FrameFolder(tmp_path, "train", frame_size=SIZE)
    test = FrameFolder(tmp_path, "test", frame_size=SIZE)
    assert [v.name for v in train.videos] == ["b2"] and [v.name for v in test.videos] == ["b10"]
    assert train.label_names == ("Animal", "Archway", "Bicyclist rider")
    arrays = test.read(0, 0, 17, ("video", "labels"))
    # 30 before 270 before 300: natural order.
    np.testing.assert_array_equal(arrays["video"][:, 0, 0, 0], np.arange(17))
    np.testing.assert_array_equal(arrays["labels"], np.broadcast_to(LABELS, (17, *SIZE)))


@pytest.mark.parametrize(
    "folders", [("images", "labels"), ("701_StillsRaw_full", "LabeledApproved_full")]
)
def test_camvids_layout(tmp_path, folders):
    make_camvid(tmp_path, *folders)
    test = FrameFolder(tmp_path, "test", held_out=("Seq05VD",), frame_size=SIZE)
    train = FrameFolder(tmp_path, "train", held_out=("Seq05VD",), frame_size=SIZE)
    assert [v.name for v in test.videos] == ["Seq05VD"]
    assert [v.name for v in train.videos] == ["0001TP"]
    arrays = train.read(0, 4, 6, ("video", "labels"))
    np.testing.assert_array_equal(arrays["video"][:, 0, 0, 0], [4, 5])
    np.testing.assert_array_equal(arrays["labels"], [LABELS, LABELS])


@pytest.mark.parametrize("table", [True, False])
def test_index_masks(tmp_path, table):
    make_folders(tmp_path, VALUES.astype(np.uint8))
    if not table:
        (tmp_path / "label_colors.txt").unlink()
        (tmp_path / "classes.txt").write_text("Animal\nArchway\nvoid\nBicyclist\n")
    dataset = FrameFolder(tmp_path, "train", frame_size=SIZE)
    assert len(dataset.label_names) == 3
    np.testing.assert_array_equal(dataset.read(0, 0, 1, ("labels",))["labels"][0], LABELS)


def test_frames_without_masks(tmp_path):
    make_folders(tmp_path)
    (tmp_path / "labels" / "b2" / "30.png").unlink()
    with pytest.raises(DataError, match="b2/30.png has no mask .*allow_missing"):
        FrameFolder(tmp_path, "train", frame_size=SIZE)
    dataset = FrameFolder(tmp_path, "train", allow_missing=True, frame_size=SIZE)
    labels = dataset.read(0, 0, 3, ("labels",))["labels"]
    assert np.all(labels[1] == 255)
    np.testing.assert_array_equal(labels[[0, 2]], [LABELS, LABELS])


def test_the_number_255_is_ignored_in_index_masks_as_promised(tmp_path):
    values = np.where(VALUES == 1, 255, VALUES).astype(np.uint8)
    for number, stored in enumerate((values, values.astype(np.uint16))):
        root = make_folders(tmp_path / str(number), stored)
        labels = FrameFolder(root, "train", frame_size=SIZE).read(0, 0, 1, ("labels",))["labels"]
        np.testing.assert_array_equal(labels[0], np.where(VALUES == 1, 255, LABELS))


def test_pascal_vocs_palette_masks(tmp_path):
    """Their colours are not listed, their numbers are lines, and 255 is the border."""
    make_folders(tmp_path, count=1)
    picture = Image.fromarray(np.where(VALUES == 3, 255, VALUES).astype(np.uint8))
    picture.putpalette([v for i in range(256) for v in (i, 255 - i, 7)])
    picture.save(tmp_path / "labels/b2/0.png")
    dataset = FrameFolder(tmp_path, "train", frame_size=SIZE, min_frames=1)
    labels = dataset.read(0, 0, 1, ("labels",))["labels"][0]
    np.testing.assert_array_equal(labels, np.where(VALUES == 3, 255, LABELS))


def test_16_bit_frames_are_not_white(tmp_path):
    make_folders(tmp_path)
    for n in range(17):
        save(tmp_path / "images/b2" / f"{30 * n}.png", np.full(SIZE, 257 * n, np.uint16))
    video = FrameFolder(tmp_path, "train", frame_size=SIZE).read(0, 0, 17)["video"]
    np.testing.assert_array_equal(video[:, 0, 0], np.repeat(np.arange(17)[:, None], 3, axis=1))


def test_companion_files_and_hidden_folders_are_no_data(tmp_path, caplog):
    make_folders(tmp_path)
    for path in ("images/b2/._0.png", "labels/b2/._0_L.png", "images/._cover.png"):
        (tmp_path / path).write_bytes(b"\0\5\26\7")
    (tmp_path / "images/.ipynb_checkpoints").mkdir()
    for _ in range(2):
        dataset = FrameFolder(tmp_path, "train", frame_size=SIZE)
    assert [v.num_frames for v in dataset.videos] == [17]
    [said] = [r.getMessage() for r in caplog.records]
    assert f"Dataset frames in {tmp_path}: left out 3 hidden files (" in said


@pytest.mark.parametrize("names", [("30.tif", "30.tiff"), ("30.PNG", "30.png")])
def test_two_pictures_of_one_name(tmp_path, names):
    make_folders(tmp_path)
    for path in (tmp_path / "images/b2").iterdir():
        path.rename(path.with_suffix(Path(names[0]).suffix))
    (tmp_path / "images/b2" / names[1]).write_bytes(b"")
    with pytest.raises(DataError, match=f"b2 holds .* and .*30.{names[1][3:]}; keep one"):
        FrameFolder(tmp_path, "train", frame_size=SIZE)


def test_lists_of_other_systems(tmp_path):
    make_folders(tmp_path)
    (tmp_path / "label_colors.txt").unlink()
    (tmp_path / "classes.txt").write_bytes("void\r\nStraße \r\nsky\r\nroad".encode("utf-8-sig"))
    (tmp_path / "train.txt").write_bytes("images\\b2\\\r\n".encode("utf-16"))
    dataset = FrameFolder(tmp_path, "train", frame_size=SIZE)
    assert dataset.label_names == ("Straße", "sky", "road")
    assert [v.name for v in dataset.videos] == ["b2"]


@pytest.mark.parametrize("kind", ["mac", "windows"])
def test_names_as_other_systems_write_them(tmp_path, kind):
    """é is two characters in the names of a Mac, and another byte in those of an old archive."""
    name, code = {"mac": ("cafe\u0301", "utf-8"), "windows": ("caf\udce9", "cp1252")}[kind]
    make_folders(tmp_path, videos=(name, "b10"))
    (tmp_path / "train.txt").write_bytes("café\n".encode(code))
    assert [v.name for v in FrameFolder(tmp_path, "train", frame_size=SIZE).videos] == [name]
    held = dict(held_out=["café"], frame_size=SIZE)
    assert [v.name for v in FrameFolder(tmp_path, "test", **held).videos] == [name]
    assert [v.name for v in FrameFolder(tmp_path, "train", **held).videos] == ["b10"]


def test_lists_that_overlap_or_repeat(tmp_path, caplog):
    make_folders(tmp_path)
    (tmp_path / "train.txt").write_text("b2\nb10\nb2\n")
    dataset = FrameFolder(tmp_path, "train", frame_size=SIZE)
    assert [v.name for v in dataset.videos] == ["b2", "b10"]
    said = "\n".join(r.getMessage() for r in caplog.records)
    assert "train.txt repeats names (1: b2)" in said
    assert "1 of the 1 videos for testing are also for training (b10)" in said


def outside(root: Path) -> None:
    """A list that names a folder which exists, but not in the dataset."""
    save(root.parent / "secret" / "0.png", frame(0))
    (root / "train.txt").write_text("../../secret\n")


@pytest.mark.parametrize(
    "damage,message",
    [
        (outside, r"Video '../../secret' of .*train.txt is not in .*; there are b2, b10"),
        (lambda r: (r / "train.txt").write_text("b3\n"), "'b3' of .*train.txt is not in"),
        (lambda r: (r / "train.txt").unlink(), "has no train.txt"),
        (
            lambda r: (r / "label_colors.txt").write_text("1 2 3 a\n1 2 b\n"),
            "label_colors.txt, line 2: '1 2 b' is not 'R G B name'",
        ),
        (
            lambda r: (r / "label_colors.txt").write_text("1 2 3 a\n1 2 300 b\n"),
            "line 2: '1 2 300 b' is not .* 0 to 255",
        ),
        (
            lambda r: (r / "label_colors.txt").write_text("1 2 3 a\n1 2 3 b\n"),
            r"has the colour \(1, 2, 3\) twice",
        ),
        (lambda r: (r / "label_colors.txt").write_text("1 2 3 a\n"), "has 1 classes"),
        (lambda r: (r / "label_colors.txt").write_bytes(b"\0\1"), "label_colors.txt cannot be"),
        (lambda r: (r / "label_colors.txt").unlink(), "neither label_colors.txt nor classes.txt"),
        (lambda r: save(r / "images" / "a_1.png", frame(0)), r"both folders \(b2\) and pictures"),
        (
            lambda r: save(r / "images" / "b2" / "x.jpg", frame(0)),
            "b2 holds pictures of mixed formats",
        ),
    ],
)
def test_bad_folders_are_named(tmp_path, damage, message):
    root = make_folders(tmp_path / "data")
    damage(root)
    with pytest.raises(DataError, match=message):
        FrameFolder(root, "train", frame_size=SIZE)


def test_flat_frame_without_a_video(tmp_path):
    make_camvid(tmp_path)
    save(tmp_path / "images" / "cover.png", frame(0))
    with pytest.raises(DataError, match="cover.png is not named <video>_<frame>"):
        FrameFolder(tmp_path, "train", held_out=("0001TP",))


def test_colour_masks_without_colours(tmp_path):
    make_folders(tmp_path)
    (tmp_path / "label_colors.txt").unlink()
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    dataset = FrameFolder(tmp_path, "train", frame_size=SIZE)
    with pytest.raises(DataError, match="0.png is a colour picture, but the dataset names no"):
        dataset.read(0, 0, 1, ("labels",))
