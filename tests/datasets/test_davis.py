"""DAVIS: kinds of masks, lists, inconsistent folders."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from v2v_jax.datasets.base.video_dataset import FIELDS
from v2v_jax.datasets.readers.davis import Davis
from v2v_jax.errors import CorruptVideoError, DataError

REAL = os.path.join(os.environ.get("V2V_REAL_DATA", ""), "davis")
SIZE = (24, 32)  # H, W of the files


def save_mask(path: Path, values: np.ndarray, mode: str) -> None:
    if mode == "1":
        picture = Image.fromarray((values > 0).astype(np.uint8) * 255).convert("1")
    elif mode == "P":
        picture = Image.fromarray(values)
        picture.putpalette([v for i in range(256) for v in (i, 255 - i, i // 2)])
    elif mode == "RGB":
        picture = Image.fromarray(np.repeat(values[..., None], 3, axis=-1))
    elif mode == "I;16":
        picture = Image.fromarray(values.astype(np.uint16))
    else:
        picture = Image.fromarray(values.astype(np.uint8)).convert(mode)
    assert picture.mode == mode
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def make_sequence(
    root: Path, name: str, count: int = 17, mode: str = "P", values=(0, 1, 3), resolution="480p"
) -> None:
    """Frame t is grey 5t with a white left half; its mask has `values` in vertical thirds."""
    h, w = SIZE
    for t in range(count):
        frame = np.full((h, w, 3), 5 * t, np.uint8)
        frame[:, : w // 2] = 255
        path = root / "JPEGImages" / resolution / name / f"{t:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(path, quality=95)
        mask = np.zeros((h, w), np.uint8 if max(values) < 256 else np.uint16)
        for value, third in zip(values, np.array_split(np.arange(w), 3), strict=True):
            mask[:, third] = value
        save_mask(root / "Annotations" / resolution / name / f"{t:05d}.png", mask, mode)


def test_frames_and_labels(tmp_path):
    make_sequence(tmp_path, "bear")
    make_sequence(tmp_path, "dog", 20)
    train = Davis(tmp_path, "train", held_out=("dog",), frame_size=(12, 18))
    test = Davis(tmp_path, "test", held_out=("dog",), frame_size=(12, 18))
    assert [(v.name, v.num_frames) for v in train.videos] == [("bear", 17)]
    assert [(v.name, v.num_frames) for v in test.videos] == [("dog", 20)]
    assert test.label_names == ("background", "foreground") and test.corrupt == []
    arrays = test.read(0, 2, 6, ("video", "labels"))
    for field, array in arrays.items():
        assert array.shape == (4, 12, 18, *FIELDS[field].channels)
        assert array.dtype == FIELDS[field].dtype
    np.testing.assert_allclose(
        arrays["video"][:, 6, 14], np.repeat([[10], [15], [20], [25]], 3, axis=1), atol=3
    )
    assert arrays["video"][:, 6, 3].min() > 250
    assert list(test.read(0, 0, 16, ("labels",))) == ["labels"]


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("P", (0, 1, 5), (0, 1, 1)),  # 2017: object numbers
        ("P", (255, 1, 0), (255, 1, 0)),  # 2017: void
        ("L", (0, 255, 255), (0, 1, 1)),  # 2016
        ("L", (0, 1, 2), (0, 1, 1)),
        ("LA", (0, 255, 255), (0, 1, 1)),  # 2016's bear/00077.png
        ("I;16", (0, 256, 65535), (0, 1, 1)),
        ("1", (0, 255, 0), (0, 1, 0)),
        ("RGB", (0, 255, 0), (0, 1, 0)),
    ],
)
def test_kinds_of_masks(tmp_path, mode, values, expected):
    make_sequence(tmp_path, "bear", mode=mode, values=values)
    dataset = Davis(tmp_path, "test", held_out=("bear",), frame_size=(10, 15))
    labels = dataset.read(0, 0, 2, ("labels",))["labels"]
    # Nearest neighbour: no value in between, even with borders that do not fall on voxels.
    assert set(np.unique(labels)) == set(expected)
    assert tuple(labels[0, 5, [2, 7, 12]]) == expected


def test_official_lists(tmp_path):
    for name in ("bear", "dog", "swan"):
        make_sequence(tmp_path, name)
    lists = tmp_path / "ImageSets" / "480p"
    lists.mkdir(parents=True)
    line = "/JPEGImages/480p/{0}/{1:05d}.jpg /Annotations/480p/{0}/{1:05d}.png \n"
    (lists / "train.txt").write_text("".join(line.format("bear", i) for i in range(17)))
    (lists / "val.txt").write_text("".join(line.format("dog", i) for i in range(17)))
    assert [v.name for v in Davis(tmp_path, "train").videos] == ["bear"]
    assert [v.name for v in Davis(tmp_path, "test").videos] == ["dog"]
    newer = tmp_path / "ImageSets" / "2017"
    newer.mkdir()
    (newer / "train.txt").write_text("swan\r\nbear\r\n")
    assert [v.name for v in Davis(tmp_path, "train").videos] == ["swan", "bear"]
    (newer / "train.txt").write_text("swan\nwolf\n")
    with pytest.raises(DataError, match="1 sequences of .*train.txt .*'wolf'"):
        Davis(tmp_path, "train")


def test_lists_of_windows_and_lists_that_overlap(tmp_path, caplog):
    for name in ("bear", "dog"):
        make_sequence(tmp_path, name)
    lists = tmp_path / "ImageSets" / "2016"
    lists.mkdir(parents=True)
    line = "\\JPEGImages\\480p\\dog\\00000.jpg \\Annotations\\480p\\dog\\00000.png\r\n"
    (lists / "train.txt").write_text(line, encoding="utf-16")
    (lists / "val.txt").write_text("bear\ndog\n", encoding="utf-8-sig")
    assert [v.name for v in Davis(tmp_path, "train").videos] == ["dog"]
    assert [v.name for v in Davis(tmp_path, "test").videos] == ["bear", "dog"]
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "1 of the 2 videos for testing are also for training (dog)" in said


def test_names_as_a_mac_writes_them(tmp_path):
    """é is two characters there, and one in the list and in what is typed."""
    make_sequence(tmp_path, "cafe\u0301")
    make_sequence(tmp_path, "dog")
    lists = tmp_path / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("café\n", encoding="utf-8")
    assert [v.name for v in Davis(tmp_path, "train").videos] == ["cafe\u0301"]
    assert [v.name for v in Davis(tmp_path, "test", held_out=("café",)).videos] == ["cafe\u0301"]
    assert [v.name for v in Davis(tmp_path, "train", held_out=("café",)).videos] == ["dog"]


def test_companion_files_and_upper_case(tmp_path):
    make_sequence(tmp_path, "bear")
    for part, extension in (("JPEGImages", "jpg"), ("Annotations", "png")):
        folder = tmp_path / part / "480p" / "bear"
        (folder / f"._00000.{extension}").write_bytes(b"\0\5\26\7")
        (folder / f"00003.{extension}").rename(folder / f"00003.{extension.upper()}")
        (folder.parent / ".ipynb_checkpoints").mkdir()
    dataset = Davis(tmp_path, "test", held_out=("bear",))
    assert [(v.name, v.num_frames) for v in dataset.videos] == [("bear", 17)]
    assert dataset.read(0, 0, 17, ("video", "labels"))["labels"].shape[0] == 17
    with pytest.raises(DataError, match="has no videos"):
        Davis(tmp_path, "train", held_out=("bear",))


def test_resolutions(tmp_path):
    make_sequence(tmp_path, "bear", resolution="240p")
    assert len(Davis(tmp_path, "test", held_out=("bear",)).videos) == 1
    make_sequence(tmp_path, "bear", resolution="1080p")
    with pytest.raises(DataError, match="holds 1080p, 240p; expected 480p"):
        Davis(tmp_path, "test", held_out=("bear",))
    with pytest.raises(DataError, match=r"720p does not exist"):
        Davis(tmp_path, "test", resolution="720p", held_out=("bear",))
    assert len(Davis(tmp_path, "test", resolution="1080p", held_out=("bear",)).videos) == 1


def test_missing_folders_and_lists(tmp_path):
    with pytest.raises(DataError, match="JPEGImages does not exist; unpack"):
        Davis(tmp_path / "none", "train")
    make_sequence(tmp_path, "bear")
    with pytest.raises(DataError, match="no list ImageSets/2017/val.txt.*held_out"):
        Davis(tmp_path, "test")
    with pytest.raises(DataError, match="held_out .*'cat'"):
        Davis(tmp_path, "test", held_out=("cat",))
    with pytest.raises(DataError, match="has no videos"):
        Davis(tmp_path, "train", held_out=("bear",))
    (tmp_path / "Annotations").rename(tmp_path / "other")
    with pytest.raises(DataError, match="Annotations.480p does not exist"):
        Davis(tmp_path, "test", held_out=("bear",))


@pytest.mark.parametrize(
    ("kind", "file", "message"),
    [
        ("Annotations", "00003.png", r"Mask .*00003\.png is missing"),
        ("JPEGImages", "00003.jpg", r"Frame .*00003\.jpg is missing"),
        ("JPEGImages", "00000.jpg", r"Frame .*00000\.jpg is missing"),
    ],
)
def test_missing_file(tmp_path, kind, file, message):
    make_sequence(tmp_path, "bear")
    (tmp_path / kind / "480p" / "bear" / file).unlink()
    with pytest.raises(DataError, match=message):
        Davis(tmp_path, "test", held_out=("bear",))


def test_mask_of_another_size(tmp_path):
    make_sequence(tmp_path, "bear")
    path = tmp_path / "Annotations/480p/bear/00004.png"
    save_mask(path, np.zeros((12, 16), np.uint8), "P")
    dataset = Davis(tmp_path, "test", held_out=("bear",))
    with pytest.raises(DataError, match=r"00004\.png is 16x12, its frame is 32x24"):
        dataset.read(0, 0, 16, ("video", "labels"))
    assert dataset.read(0, 0, 4, ("labels",))["labels"].shape[0] == 4
    assert dataset.read(0, 0, 16)["video"].shape[0] == 16


def test_mask_of_unknown_kind(tmp_path):
    make_sequence(tmp_path, "bear")
    path = tmp_path / "Annotations/480p/bear/00004.png"
    Image.new("CMYK", SIZE[::-1]).save(path, "TIFF")
    with pytest.raises(DataError, match=r"00004\.png is a picture of Pillow's mode CMYK"):
        Davis(tmp_path, "test", held_out=("bear",)).read(0, 0, 16, ("labels",))


@pytest.mark.parametrize(
    "file", ["JPEGImages/480p/bear/00005.jpg", "Annotations/480p/bear/00005.png"]
)
@pytest.mark.parametrize("content", ["empty", "text", "half"])
def test_unreadable_pictures(tmp_path, file, content):
    make_sequence(tmp_path, "bear")
    path = tmp_path / file
    data = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "text": b"no picture", "half": data[: len(data) * 2 // 3]}[content]
    )
    dataset = Davis(tmp_path, "test", held_out=("bear",))
    with pytest.raises(CorruptVideoError, match=f"{path.name} cannot be read"):
        dataset.read(0, 0, 16, ("video", "labels"))
    assert dataset.read(0, 6, 17, ("video", "labels"))["video"].shape[0] == 11


def test_short_sequences_are_left_out(tmp_path):
    make_sequence(tmp_path, "bear", 15)
    make_sequence(tmp_path, "dog", 16)
    dataset = Davis(tmp_path, "test", held_out=("bear", "dog"))
    assert [v.name for v in dataset.videos] == ["dog"] and dataset.corrupt == []
    with pytest.raises(DataError, match="all 1 videos are shorter than 16 frames"):
        Davis(tmp_path, "test", held_out=("bear",))
    with pytest.raises(ValueError, match="video dog: it has 16 frames"):
        dataset.read(0, 8, 17)
    with pytest.raises(DataError, match="davis has no flow"):
        dataset.read(0, 0, 16, ("flow",))


@pytest.mark.skipif(not os.path.isdir(REAL), reason="V2V_REAL_DATA has no davis folder")
def test_real_sequences():
    train = Davis(REAL, "train", held_out=("dog", "libby"))
    test = Davis(REAL, "test", held_out=("dog", "libby"))
    assert [v.name for v in test.videos] == ["dog", "libby"] and len(train.videos) == 4
    arrays = test.read(0, 0, 16, ("video", "labels"))
    assert arrays["video"].shape == (16, 128, 171, 3)
    assert set(np.unique(arrays["labels"])) == {0, 1}
    assert 0.02 < arrays["labels"].mean() < 0.5
