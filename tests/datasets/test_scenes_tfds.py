"""`scenes` through tensorflow-datasets: the same arrays, from records with random access."""

import pathlib
import pickle

import numpy as np
import pytest

from v2v_jax.datasets.scenes import Scenes
from v2v_jax.datasets.scenes.tfds_reader import ScenesTfds
from v2v_jax.errors import DataError

TINY = (64, 86)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A data_dir with scenes/tiny in array_record files."""
    from v2v_jax.cli import commands

    data_dir = tmp_path_factory.mktemp("tfds")
    assert (
        commands.execute(["prepare-tfds", "scenes", "--config=tiny", f"--data_dir={data_dir}"]) == 0
    )
    return data_dir


def test_stored_arrays_equal_rendered_ones(prepared: pathlib.Path) -> None:
    for split, num_videos in (("train", 3), ("validation", 1), ("test", 2)):
        stored = ScenesTfds(split, prepared, frame_size=TINY)
        rendered = Scenes(split, num_videos=num_videos, num_frames=24, frame_size=TINY)
        assert stored.videos == rendered.videos
        assert stored.label_names == rendered.label_names
        for video in range(num_videos):
            ours = stored.read(video, 0, 24, stored.fields)
            theirs = rendered.read(video, 0, 24, rendered.fields)
            assert set(ours) == set(theirs)
            for field, array in theirs.items():
                assert ours[field].dtype == array.dtype
                np.testing.assert_array_equal(ours[field], array)


@pytest.mark.parametrize("window", [(0, 16), (3, 5), (15, 17), (8, 24), (16, 24), (23, 24)])
def test_window_reads_only_the_records_that_it_touches(
    prepared: pathlib.Path, window: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    start, stop = window
    stored = ScenesTfds("train", prepared, frame_size=TINY)
    whole = stored.read(1, 0, 24, ("video", "depth"))
    touched = []
    record = ScenesTfds._record
    monkeypatch.setattr(
        ScenesTfds, "_record", lambda self, v, c, f: touched.append((v, c)) or record(self, v, c, f)
    )
    part = stored.read(1, start, stop, ("video", "depth"))
    for field, array in whole.items():
        np.testing.assert_array_equal(part[field], array[start:stop])
    assert touched == [(1, c) for c in range(2) if start < 16 * (c + 1) and stop > 16 * c]


def test_data_source_has_random_access(prepared: pathlib.Path) -> None:
    import tensorflow_datasets as tfds

    source = tfds.data_source("scenes/tiny", split="test", data_dir=prepared)
    assert len(source) == 4  # two videos of 24 frames, in records of 16 and 8
    record = source[3]
    assert (record["video_index"], record["first_frame"]) == (1, 16)
    expected = Scenes("test", num_videos=2, num_frames=24, frame_size=TINY).read(1, 16, 24)
    np.testing.assert_array_equal(record["video"], expected["video"])


def test_copy_for_another_process_reads_the_same(prepared: pathlib.Path) -> None:
    stored = ScenesTfds("test", prepared, frame_size=TINY)
    copy = pickle.loads(pickle.dumps(stored))
    np.testing.assert_array_equal(copy.read(1, 2, 4)["video"], stored.read(1, 2, 4)["video"])


def test_what_is_missing_is_named_with_its_remedy(
    prepared: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(
        DataError, match="not prepared.*v2v prepare-tfds scenes --config=tiny --data_dir="
    ):
        ScenesTfds("train", tmp_path, frame_size=TINY)
    with pytest.raises(DataError, match="no split 'valid': choose train or "):
        ScenesTfds("valid", prepared, frame_size=TINY)
    with pytest.raises(DataError, match="fixed frame sizes.*not at 10x20"):
        ScenesTfds("train", prepared, frame_size=(10, 20))
    with pytest.raises(DataError, match="no configuration 'huge'; choose one of default"):
        ScenesTfds("train", prepared, config="huge", frame_size=TINY)
    stored = ScenesTfds("train", prepared, frame_size=TINY)
    with pytest.raises(DataError, match="frames 20 to 24 were asked for"):
        stored.read(0, 20, 25)
    with pytest.raises(DataError, match="has videos 0 to 2 here, not 3"):
        stored.read(3, 0, 1)
