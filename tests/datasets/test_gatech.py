"""GATECH: both layouts, kinds of masks, inconsistent folders."""

import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.gatech_files import COLORS, NAMES, SIZE, index_mask, make_pictures, save_mask, truth
from v2v_jax import datasets
from v2v_jax.datasets.base.reading import read_checked
from v2v_jax.datasets.gatech import Gatech
from v2v_jax.datasets.gatech.dataset import CLASSES
from v2v_jax.errors import CorruptVideoError, DataError


def expected_labels(values: np.ndarray) -> np.ndarray:
    return np.where(values == 0, 255, values.astype(int) - 1)


def test_classes():
    assert CLASSES.names == NAMES
    assert CLASSES.labels == (255, 0, 1, 2, 3, 4, 5, 6, 7)


@pytest.mark.parametrize("kind", ["index", "colour", "palette of colours", "palette of numbers"])
@pytest.mark.parametrize("ext", ["tiff", "png"])
def test_pictures_and_kinds_of_masks(tmp_path, kind, ext):
    make_pictures(tmp_path, kind=kind, ext=ext)
    dataset = Gatech(tmp_path, "train", frame_size=SIZE)
    # 2 before 10, and frame 2 before frame 10.
    assert [(v.name, v.num_frames) for v in dataset.videos] == [("2", 17), ("10", 17)]
    assert dataset.label_names == NAMES
    arrays = read_checked(dataset, 1, 3, 7, ("video", "labels"))
    assert arrays["video"].dtype == arrays["labels"].dtype == np.uint8
    for t, n in enumerate((4, 5, 6, 7)):
        assert np.all(arrays["video"][t] == 7 * n)
        np.testing.assert_array_equal(arrays["labels"][t], expected_labels(index_mask(n)))


def test_the_number_255_is_ignored(tmp_path):
    make_pictures(tmp_path)
    values = index_mask(1).copy()
    values[:4] = 255
    save_mask(truth(tmp_path, "2_1.tiff"), values, "index")
    labels = Gatech(tmp_path, "train", frame_size=SIZE).read(0, 0, 1, ("labels",))["labels"]
    expected = expected_labels(index_mask(1))
    expected[:4] = 255
    np.testing.assert_array_equal(labels[0], expected)


def test_16_bit_index_masks(tmp_path):
    make_pictures(tmp_path, kind="16 bits", ext="png")
    labels = Gatech(tmp_path, "train", frame_size=SIZE).read(0, 0, 1, ("labels",))["labels"]
    np.testing.assert_array_equal(labels[0], expected_labels(index_mask(1)))


def test_labels_are_resized_by_nearest_neighbour(tmp_path):
    make_pictures(tmp_path, kind="colour")
    dataset = Gatech(tmp_path, "train", frame_size=(10, 27))
    arrays = dataset.read(0, 0, 17, ("video", "labels"))
    assert arrays["video"].shape == (17, 10, 27, 3) and arrays["labels"].shape == (17, 10, 27)
    for t in range(17):
        columns = np.floor((np.arange(27) + 0.5) * 36 / 27).astype(int)
        expected = expected_labels(index_mask(t + 1)[:1, columns])
        np.testing.assert_array_equal(arrays["labels"][t], np.broadcast_to(expected, (10, 27)))


def test_official_split_is_by_folder(tmp_path):
    make_pictures(tmp_path)
    make_pictures(tmp_path, "Images_test", videos=(1,), first=0)
    data = {"name": "gatech", "source": "files", "root": str(tmp_path), "cache": ""}
    train, test = (datasets.load(data, split, SIZE) for split in ("train", "test"))
    assert [v.name for v in train.videos] == ["2", "10"]
    assert [v.name for v in test.videos] == ["1"]
    assert np.all(test.read(0, 0, 1)["video"] == 0)
    assert train.identity() != test.identity()


def write_lossless(path: Path, frames: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 8_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def make_videos(root: Path, folder="Images", count=17, masks=None, size=(64, 144)) -> None:
    """Stripes of 16 columns whose colours compression changes a little."""
    h, w = size
    values = np.broadcast_to((np.arange(w) // 16) % 9, (count, h, w))
    gray = np.broadcast_to((np.arange(count) * 10)[:, None, None, None], (count, h, w, 3))
    write_lossless(root / folder / "Original" / "3.avi", gray.astype(np.uint8))
    colors = np.array(COLORS, np.uint8)[values] if masks is None else masks
    write_lossless(root / folder / "Ground_Truth" / "3.avi", colors)


def test_video_files(tmp_path):
    make_videos(tmp_path)
    dataset = Gatech(tmp_path, "train", frame_size=(64, 144))
    assert [(v.name, v.num_frames) for v in dataset.videos] == [("3", 17)]
    arrays = dataset.read(0, 2, 5, ("video", "labels"))
    assert abs(arrays["video"].astype(int).mean((1, 2, 3)) - (20, 30, 40)).max() < 4
    middles = arrays["labels"][:, 32, 8::16]
    np.testing.assert_array_equal(middles, [[255, 0, 1, 2, 3, 4, 5, 6, 7]] * 3)
    # The borders between colours are the only voxels that may be ignored or wrong.
    expected = expected_labels((np.arange(144) // 16) % 9)
    assert (arrays["labels"] == expected).mean() > 0.9


def test_video_files_that_are_no_masks(tmp_path):
    make_videos(tmp_path, masks=np.full((17, 64, 144, 3), 215, np.uint8))
    dataset = Gatech(tmp_path, "train", frame_size=(64, 144))
    with pytest.raises(DataError, match=r"Ground_Truth/3.avi, frame 0,.*100%.*9 class colours"):
        dataset.read(0, 0, 2, ("labels",))


def wrong_color(root: Path) -> None:
    values = np.array(COLORS, np.uint8)[index_mask()]
    values[5, 7] = (1, 2, 3)
    Image.fromarray(values).save(truth(root, "2_3.tiff"))


def wrong_number(root: Path) -> None:
    values = index_mask().copy()
    values[4, 6] = 9
    Image.fromarray(values).save(truth(root, "2_3.tiff"))


@pytest.mark.parametrize(
    "kind,damage,message",
    [
        ("colour", wrong_color, r"2_3.tiff has the colour \(1, 2, 3\) in row 5, column 7"),
        ("index", wrong_number, r"2_3.tiff has the number 9 in row 4, column 6; expected 0 to 8"),
        (
            "index",
            lambda root: Image.fromarray(index_mask()[:30]).save(truth(root, "2_3.tiff")),
            r"2_3.tiff is 36x30, its frame is 36x36",
        ),
        (
            "index",
            lambda root: save_mask(truth(root, "2_3.tiff"), index_mask(), "colour"),
            r"mixed formats: .*2_3.tiff is of kind colour, .* kind grey",
        ),
        (
            "index",
            lambda root: Image.new("CMYK", SIZE).save(truth(root, "2_3.tiff")),
            r"2_3.tiff is a picture of Pillow's mode CMYK",
        ),
    ],
)
def test_bad_masks_are_named_when_read(tmp_path, kind, damage, message):
    make_pictures(tmp_path, kind=kind)
    damage(tmp_path)
    dataset = Gatech(tmp_path, "train", frame_size=SIZE)
    dataset.read(0, 0, 17, ("video",))
    with pytest.raises(DataError, match=message):
        dataset.read(0, 0, 17, ("labels",))


def test_truncated_mask(tmp_path):
    make_pictures(tmp_path, ext="png")
    path = truth(tmp_path, "2_3.png")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CorruptVideoError, match="2_3.png cannot be read"):
        Gatech(tmp_path, "train", frame_size=SIZE).read(0, 0, 17, ("labels",))


def mix_pictures_and_videos(root: Path) -> None:
    (root / "Images" / "Original" / "5.avi").write_bytes(b"")


@pytest.mark.parametrize(
    "damage,message",
    [
        (lambda root: truth(root, "10_4.tiff").unlink(), r"mask .*Ground_Truth/10_4.* is missing"),
        (
            lambda root: (root / "Images/Original/10_4.tiff").unlink(),
            r"frame .*Original/10_4.* is missing",
        ),
        (
            lambda root: [
                (root / "Images" / part / "10_4.tiff").unlink()
                for part in ("Original", "Ground_Truth")
            ],
            "frame 4 of video 10 is missing .* which has 1 to 17",
        ),
        (
            lambda root: shutil.copy(truth(root, "2_1.tiff"), truth(root, "2_99.png")),
            r"Ground_Truth holds pictures of mixed formats \(2_1.tiff, 2_99.png\)",
        ),
        (
            lambda root: shutil.copy(
                root / "Images/Original/2_1.tiff", root / "Images/Original/cover.tiff"
            ),
            "cover.tiff is not named <video>_<frame>",
        ),
        (
            lambda root: shutil.copy(
                root / "Images/Original/2_1.tiff", root / "Images/Original/2_01.tiff"
            ),
            "2_0?1 and 2_0?1 .* are both frame 0?1 of video 2",
        ),
        (mix_pictures_and_videos, "are of mixed formats, pictures and videos"),
        (lambda root: shutil.rmtree(root / "Images/Original"), "Original does not exist; expected"),
        (
            lambda root: [p.unlink() for p in (root / "Images/Ground_Truth").iterdir()],
            "Ground_Truth has neither pictures .* nor videos",
        ),
        (
            lambda root: make_pictures(root, videos=(11,), kind="colour"),
            "those of 11 are of kind colour, those of 2 of kind grey",
        ),
    ],
)
def test_inconsistent_folders_are_named_when_opened(tmp_path, damage, message):
    make_pictures(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        Gatech(tmp_path, "train", frame_size=SIZE)


def test_video_and_masks_of_different_length(tmp_path):
    make_videos(tmp_path)
    write_lossless(truth(tmp_path, "3.avi"), np.zeros((5, 64, 144, 3), np.uint8))
    with pytest.raises(DataError, match="3.avi has 17 frames, its masks .*3.avi 5"):
        Gatech(tmp_path, "train")
