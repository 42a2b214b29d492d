"""GATECH through tensorflow-datasets: the same arrays as from the files."""

import pickle

import numpy as np
import pytest

from tests.datasets.test_gatech import make_pictures, truth
from v2v_jax import datasets
from v2v_jax.datasets.gatech import Gatech
from v2v_jax.errors import DataError

pytest.importorskip("tensorflow_datasets")
SIZE = (36, 36)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Where the files are, and where they are prepared."""
    from v2v_jax.datasets.gatech.prepare_tfds import main

    source, prepared = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("prepared")
    make_pictures(source, videos=(1,), count=19)
    make_pictures(source, videos=(2, 10), count=33)
    make_pictures(source, "Images_test", videos=(1,))
    arguments = [f"--source={source}", f"--data_dir={prepared}", "--config=tiny"]
    assert main(arguments) == 0
    return source, prepared


def open_prepared(folder, split):
    data = {"name": "gatech", "source": "tfds", "root": str(folder), "cache": ""}
    return datasets.load(data, split, SIZE)


@pytest.mark.parametrize("split", ["train", "test"])
def test_same_videos_and_arrays_as_from_the_files(folders, split):
    source, prepared = folders
    expected = Gatech(source, split, frame_size=SIZE)
    found = open_prepared(prepared, split)
    assert found.videos == expected.videos and found.label_names == expected.label_names
    for video, info in enumerate(expected.videos):
        for start, stop in [(0, info.num_frames), (3, 17), (info.num_frames - 2, info.num_frames)]:
            for field, array in found.read(video, start, stop, ("video", "labels")).items():
                wanted = expected.read(video, start, stop, (field,))[field]
                np.testing.assert_array_equal(array, wanted)
                assert array.dtype == wanted.dtype
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.read(0, 1, 4)["video"], found.read(0, 1, 4)["video"])
    assert found.identity()["files"]


def test_not_prepared(tmp_path):
    with pytest.raises(DataError, match="gatech.prepare_tfds --config=tiny .* --source=FOLDER"):
        open_prepared(tmp_path, "train")


def test_bad_data_is_named_and_nothing_is_left(tmp_path, capsys):
    from v2v_jax.datasets.gatech.prepare_tfds import main

    make_pictures(tmp_path / "source")
    make_pictures(tmp_path / "source", "Images_test", videos=(1,))
    truth(tmp_path / "source", "2_7.tiff").unlink()
    arguments = [f"--source={tmp_path / 'source'}", f"--data_dir={tmp_path / 'out'}"]
    assert main([*arguments, "--config=tiny"]) == 1
    assert "2_7.* is missing" in capsys.readouterr().err
    with pytest.raises(DataError, match="not prepared"):
        open_prepared(tmp_path / "out", "train")
