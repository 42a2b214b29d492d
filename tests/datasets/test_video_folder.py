"""A folder of videos: which files, which split."""

import os

import numpy as np
import pytest

from v2v_jax.datasets.readers.video_folder import VideoFolder
from v2v_jax.errors import DataError
from v2v_jax.media.video import read_video, write_video

REAL = os.path.join(os.environ.get("V2V_REAL_DATA", ""), "videos")


@pytest.fixture
def video(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("one") / "a.mp4"
    frames = np.arange(18, dtype=np.uint8)[:, None, None, None] * np.full((32, 48, 3), 9, np.uint8)
    write_video(path, frames)
    return path.read_bytes()


def fill(root, video: bytes, names) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(video)


def names_of(root, split, **arguments) -> list[str]:
    return [v.name for v in VideoFolder(root, split, frame_size=(16, 24), **arguments).videos]


def test_files_are_found_by_extension_in_natural_order(tmp_path, video):
    wanted = ["clip2.mp4", "clip10.mp4", os.path.join("deep", "er", "clip1.MP4"), "z.avi"]
    fill(tmp_path / "train", video, [*wanted, "notes.txt", ".hidden.mp4", "clip3.mp4.part"])
    fill(tmp_path / "test", video, ["t.mkv"])
    assert names_of(tmp_path, "train") == wanted
    assert names_of(tmp_path, "test") == ["t.mkv"]


def test_split_folders_in_any_letter_case(tmp_path, video, caplog):
    fill(tmp_path, video, ["Train/a.mp4", "TEST/b.mp4", "val/c.mp4", "d.mp4"])
    assert names_of(tmp_path, "train") == ["a.mp4"] and names_of(tmp_path, "test") == ["b.mp4"]
    said = caplog.records[0].getMessage()
    assert f"2 videos in {tmp_path} are outside TEST and Train and left out (d.mp4, val" in said
    fill(tmp_path, video, ["train/e.mp4"])
    with pytest.raises(DataError, match="two folders for one split, Train and train; rename one"):
        names_of(tmp_path, "train")


def test_frames(tmp_path, video):
    fill(tmp_path, video, ["train/a.mp4", "test/b.mp4"])
    dataset = VideoFolder(tmp_path, "train", frame_size=(16, 24))
    frames = dataset.read(0, 1, 17)
    assert list(frames) == ["video"]
    assert frames["video"].shape == (16, 16, 24, 3) and frames["video"].dtype == np.uint8
    expected, _ = read_video(tmp_path / "train" / "a.mp4", 1, 17, (16, 24))
    np.testing.assert_array_equal(frames["video"], expected)


def test_hash_split_is_stable(tmp_path, video):
    names = [f"v{i}.mp4" for i in range(40)]
    fill(tmp_path, video, names)
    train, test = names_of(tmp_path, "train"), names_of(tmp_path, "test")
    assert sorted(train + test) == sorted(names)
    assert 1 <= len(test) <= 12
    # Others that go or come, and folders that are renamed, move nothing to the other split.
    for name in names[20:]:
        (tmp_path / name).unlink()
    fill(tmp_path, video, [os.path.join("more", f"w{i}.mp4") for i in range(20)])
    later = [os.path.basename(name) for name in names_of(tmp_path, "test")]
    assert {name for name in later if name[0] == "v"} == set(test) & set(names[:20])
    assert len(names_of(tmp_path, "test", test_share=0.9)) > len(later)


@pytest.mark.parametrize("test_share", [0.0, 1.0])
def test_two_videos_give_one_to_each_split(tmp_path, video, test_share):
    fill(tmp_path, video, ["a.mp4", "b.mp4"])
    parts = [names_of(tmp_path, split, test_share=test_share) for split in ("train", "test")]
    assert sorted(parts[0] + parts[1]) == ["a.mp4", "b.mp4"]
    assert len(parts[0]) == 1


def test_nothing_to_use(tmp_path, video):
    with pytest.raises(DataError, match="none does not exist"):
        VideoFolder(tmp_path / "none", "train")
    with pytest.raises(DataError, match="has no videos for the train split; expected files ending"):
        VideoFolder(tmp_path, "train")
    fill(tmp_path, video, ["train/a.mp4", "test/notes.txt"])
    with pytest.raises(DataError, match="test has no videos for the test split"):
        VideoFolder(tmp_path, "test")
    with pytest.raises(DataError, match="no split 'val'"):
        VideoFolder(tmp_path, "val")


def test_one_bad_video_in_a_hundred_is_tolerated(tmp_path, video):
    fill(tmp_path, video, [f"train/v{i}.mp4" for i in range(200)] + ["test/t.mp4"])
    for i in (7, 100):
        (tmp_path / "train" / f"v{i}.mp4").write_bytes(video[:400])
    dataset = VideoFolder(tmp_path, "train")
    assert len(dataset.videos) == 198
    assert [name for name, _ in dataset.corrupt] == ["v7.mp4", "v100.mp4"]
    (tmp_path / "train" / "v150.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"3 of 200 videos cannot be read \(v7.mp4, v100.mp4, v150"):
        VideoFolder(tmp_path, "train")


def test_short_videos(tmp_path, video):
    fill(tmp_path, video, ["train/a.mp4", "test/b.mp4"])
    write_video(tmp_path / "train" / "short.mp4", np.zeros((15, 32, 48, 3), np.uint8))
    assert names_of(tmp_path, "train") == ["a.mp4"]
    assert names_of(tmp_path, "train", min_frames=15) == ["a.mp4", "short.mp4"]
    with pytest.raises(
        DataError, match=r"shorter than 19 frames \(a.mp4 \(18\), short.mp4 \(15\)\)"
    ):
        VideoFolder(tmp_path, "train", min_frames=19)


@pytest.mark.skipif(not os.path.isdir(REAL), reason="V2V_REAL_DATA has no videos folder")
def test_real_videos():
    parts = [VideoFolder(REAL, split) for split in ("train", "test")]
    assert sum(len(part.videos) for part in parts) == 4
    for part in parts:
        assert part.read(0, 30, 46)["video"].shape == (16, 128, 171, 3)
