"""The catalogue's UCF101 and DAVIS: tiny data written by the real builders, read by our classes."""

import json
import os
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest

from v2v_jax.datasets.base.video_dataset import FIELDS
from v2v_jax.datasets.tfds import catalogue
from v2v_jax.datasets.tfds.catalogue import TfdsDavis, TfdsUcf101
from v2v_jax.errors import CorruptVideoError, DataError

SIZE = (24, 32)  # H, W of the stored frames


def noise(count: int, seed: int, channels: int = 3) -> np.ndarray:
    """(T,H,W,C) smooth noise, every frame another."""
    small = np.random.default_rng(seed).integers(0, 256, (count, 3, 4, channels), dtype=np.uint8)
    return small.repeat(SIZE[0] // 3, axis=1).repeat(SIZE[1] // 4, axis=2)


UCF = {"train": [noise(16, 0), noise(20, 1)], "test": [noise(18, 2)]}
DAVIS = {
    "train": [("bear", noise(17, 3)), ("dog", noise(19, 4))],
    "validation": [("cow", noise(16, 5))],
}


def masks_of(frames: np.ndarray) -> np.ndarray:
    """(T,H,W,1) object numbers 0, 1, 2 and void 255 in four vertical stripes."""
    stripes = np.array([0, 1, 2, 255], np.uint8).repeat(SIZE[1] // 4)
    return np.broadcast_to(stripes[:, None], (len(frames), *SIZE, 1))


def ucf_examples(videos):
    for index, frames in enumerate(videos):
        yield f"v{index}.avi", {"video": frames, "label": index}


def davis_examples(videos):
    for name, frames in videos:
        masks = masks_of(frames)
        yield (
            name,
            {
                "video": {"frames": list(frames), "segmentations": list(masks)},
                "metadata": {"num_frames": len(frames), "video_name": name},
            },
        )


def prepare(data_dir, name: str, content, examples, file_format: str = "array_record") -> None:
    """Runs the catalogue's builder on made-up examples instead of downloaded ones."""
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder(name, data_dir=data_dir, file_format=file_format)
    splits = {split: examples(videos) for split, videos in content.items()}
    with mock.patch.object(type(builder), "_split_generators", lambda self, manager: splits):
        builder.download_and_prepare()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("prepared")
    prepare(data_dir, "ucf101/ucf101_1", UCF, ucf_examples)
    prepare(data_dir, "davis/480p", DAVIS, davis_examples)
    return data_dir


def catalogue_source(data_dir):
    import tensorflow_datasets as tfds

    return tfds.data_source("ucf101/ucf101_1", data_dir=data_dir, split="train")


def by_frames(dataset) -> dict[int, int]:
    """Number of frames → index: the builders shuffle."""
    return {info.num_frames: index for index, info in enumerate(dataset.videos)}


def test_identities_tell_records_apart(prepared):
    identities = [
        dataset.identity()
        for dataset in (TfdsUcf101(prepared, "train"), TfdsUcf101(prepared, "test"))
    ]
    assert identities[0] != identities[1]
    for identity in identities:
        ((name, size, time),) = identity["files"]
        assert name.startswith("ucf101-t") and size > 0 and time > 0


def test_ucf101(prepared):
    train = TfdsUcf101(prepared, "train", frame_size=SIZE)
    assert set(by_frames(train)) == {16, 20} and train.fields == ("video",)
    # The catalogue stores JPEG pictures: its own decoder, which decodes whole videos, tells what
    # they hold, and they resemble what was written.
    whole = {len(example["video"]): example["video"] for example in catalogue_source(prepared)}
    for frames in UCF["train"]:
        got = train.read(by_frames(train)[len(frames)], 3, 15)["video"]
        assert got.shape == (12, *SIZE, 3) and got.dtype == FIELDS["video"].dtype
        np.testing.assert_array_equal(got, whole[len(frames)][3:15])
        assert np.abs(got.astype(int) - frames[3:15]).mean() < 10
        assert np.abs(got.astype(int) - frames[4:16]).mean() > 40
    test = TfdsUcf101(prepared, "test", frame_size=(12, 18))
    assert test.read(0, 0, 18)["video"].shape == (18, 12, 18, 3)
    assert "ucf101/ucf101_1 test record 0" in test.videos[0].name


def test_davis(prepared):
    train = TfdsDavis(prepared, "train", frame_size=SIZE)
    assert {info.name: info.num_frames for info in train.videos} == {"bear": 17, "dog": 19}
    for name, frames in DAVIS["train"]:
        index = [info.name for info in train.videos].index(name)
        got = train.read(index, 5, 16, ("video", "labels"))
        np.testing.assert_array_equal(got["video"], frames[5:16])
        expected = np.array([0, 1, 1, 255], np.uint8).repeat(SIZE[1] // 4)
        np.testing.assert_array_equal(
            got["labels"], np.broadcast_to(expected, (11, *SIZE)), strict=True
        )
    test = TfdsDavis(prepared, "test", frame_size=(10, 15))
    labels = test.read(0, 0, 16, ("labels",))
    assert list(labels) == ["labels"] and labels["labels"].shape == (16, 10, 15)
    assert set(np.unique(labels["labels"])) == {0, 1, 255}
    with pytest.raises(DataError, match="has no depth"):
        test.read(0, 0, 16, ("depth",))
    with pytest.raises(ValueError, match="video cow: it has 16 frames"):
        test.read(0, 1, 17)


def test_only_the_frames_asked_for_are_decoded(prepared):
    dataset = TfdsDavis(prepared, "train", frame_size=SIZE)
    with mock.patch.object(catalogue, "Picture", wraps=catalogue.Picture) as opened:
        dataset.read(0, 4, 9)
    assert opened.call_count == 5


def test_frame_counts_are_kept(tmp_path):
    prepare(tmp_path, "davis/480p", DAVIS, davis_examples)
    first = TfdsDavis(tmp_path, "train")
    [path] = tmp_path.rglob("v2v_frame_counts-train.json")
    with mock.patch.object(TfdsDavis, "_inspect", side_effect=AssertionError("counted again")):
        assert TfdsDavis(tmp_path, "train").videos == first.videos
    # Counts of other data, and a damaged file, are not believed.
    stored = json.loads(path.read_text())
    stored["fingerprint"][1] += 1
    stored["videos"] = {index: ["cat", 99] for index in stored["videos"]}
    for content in (json.dumps(stored), "{", "[]", ""):
        path.write_text(content)
        assert TfdsDavis(tmp_path, "train").videos == first.videos
    assert list(path.parent.glob("*.tmp")) == []


def test_frame_counts_that_cannot_be_kept(tmp_path):
    prepare(tmp_path, "davis/480p", DAVIS, davis_examples)
    (tmp_path / "davis/480p/2.1.0/v2v_frame_counts-validation.json").mkdir()
    assert TfdsDavis(tmp_path, "test").videos[0].num_frames == 16


def test_not_prepared(tmp_path):
    with pytest.raises(
        DataError, match="davis/480p is not prepared in .*: python -c .*'davis/480p', "
    ):
        TfdsDavis(tmp_path / "none", "train")
    with pytest.raises(DataError, match="no configuration 'ucf101_9'.*choose one of ucf101_1,"):
        TfdsUcf101(tmp_path, "train", config="ucf101_9")
    with pytest.raises(DataError, match="no split 'validation'; choose train or test"):
        TfdsDavis(tmp_path, "validation")


def test_prepared_in_another_format(tmp_path):
    prepare(tmp_path, "davis/480p", DAVIS, davis_examples, file_format="tfrecord")
    with pytest.raises(DataError, match="tfrecord, .*convert-tfds .*davis/480p/2.1.0$"):
        TfdsDavis(tmp_path, "train")


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "half"])
def test_damaged_record_file(tmp_path, damage):
    prepare(tmp_path, "davis/480p", DAVIS, davis_examples)
    assert len(TfdsDavis(tmp_path, "train").videos) == 2  # and its counts are kept
    [path] = (tmp_path / "davis/480p/2.1.0").glob("*train*.array_record*")
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        content = {
            "empty": b"",
            "text": b"no records here\n" * 5000,
            "half": data[: len(data) // 2],
        }
        path.write_bytes(content[damage])
    with pytest.raises(DataError, match="davis/480p.*again"):
        TfdsDavis(tmp_path, "train")


def test_short_videos_are_left_out(tmp_path):
    content = DAVIS | {"train": [("bear", noise(17, 0)), ("fox", noise(9, 1))]}
    prepare(tmp_path, "davis/480p", content, davis_examples)
    dataset = TfdsDavis(tmp_path, "train")
    assert [info.name for info in dataset.videos] == ["bear"] and dataset.corrupt == []
    assert dataset.read(0, 0, 17, ("labels",))["labels"].shape == (17, 128, 171)


def test_mask_of_another_size_and_damaged_picture(tmp_path):
    def examples(videos):
        for key, example in davis_examples(videos):
            example["video"]["segmentations"][3] = np.zeros((6, 8, 1), np.uint8)
            yield key, example

    prepare(tmp_path, "davis/480p", DAVIS, examples)
    dataset = TfdsDavis(tmp_path, "test")
    with pytest.raises(DataError, match="mask 3 of davis/480p cow is 8x6, its frame is 32x24"):
        dataset.read(0, 0, 16, ("labels",))
    record = dataset._records[0]
    pictures = record.features.feature["video/frames"].bytes_list.value
    pictures[2] = pictures[2][:60]
    dataset._records = [record]
    with pytest.raises(CorruptVideoError, match="frame 2 of davis/480p cow cannot be read"):
        dataset.read(0, 0, 16)
    del record.features.feature["video/segmentations"].bytes_list.value[-1]
    with pytest.raises(CorruptVideoError, match="16 frames and 15 masks"):
        dataset._inspect(0)
    del record.features.feature["video/frames"]
    with pytest.raises(CorruptVideoError, match="has no video/frames"):
        dataset.read(0, 0, 16)


def test_importing_does_not_import_tensorflow():
    code = "import sys, v2v_jax.datasets.tfds.catalogue as c; print('tensorflow' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert result.stdout.strip() == "False"


def test_ucf101_has_the_catalogues_classes(prepared):
    train = TfdsUcf101(prepared, "train", frame_size=SIZE)
    assert len(train.video_label_names) == 101 and train.video_label_names[0] == "ApplyEyeMakeup"
    assert [train.video_label(video) for video in (0, 1)] == [0, 1]
