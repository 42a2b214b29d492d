"""GATECH through tensorflow-datasets: the same arrays as from the files."""

import pickle

import numpy as np
import pytest

from tests.gatech_files import make_pictures, truth
from v2v_jax import datasets
from v2v_jax.datasets.gatech import Gatech
from v2v_jax.errors import DataError

pytest.importorskip("tensorflow_datasets")
SIZE = (36, 36)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Where the files are, and where they are prepared."""
    from v2v_jax.cli import commands

    source, prepared = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("prepared")
    make_pictures(source, videos=(1,), count=19)
    make_pictures(source, videos=(2, 10), count=33)
    make_pictures(source, "Images_test", videos=(1,))
    arguments = [
        "prepare-tfds",
        "gatech",
        f"--source={source}",
        f"--data_dir={prepared}",
        "--config=tiny",
    ]
    assert commands.execute(arguments) == 0
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


def test_short_videos_are_left_out_of_what_was_prepared(folders):
    _, prepared = folders
    data = {"name": "gatech", "source": "tfds", "root": str(prepared), "cache": ""}
    whole, long = (datasets.load(data, "train", SIZE, min_frames=n) for n in (16, 20))
    assert [v.num_frames for v in whole.videos] == [19, 33, 33]
    assert [v.name for v in long.videos] == ["2", "10"]
    for field in ("video", "labels"):
        expected, found = whole.read(2, 14, 19, (field,)), long.read(1, 14, 19, (field,))
        np.testing.assert_array_equal(found[field], expected[field])
    again = pickle.loads(pickle.dumps(long))
    assert again.videos == long.videos
    with pytest.raises(DataError, match="all 3 videos are shorter than 40 frames"):
        datasets.load(data, "train", SIZE, min_frames=40)


def test_wrong_options(tmp_path, capsys):
    from v2v_jax.cli import commands

    for arguments, message in (
        (["gatech"], "gatech needs --source=FOLDER"),
        (["scenes", "--source=x"], "scenes is rendered: no --source"),
        (["scenes", "--config=huge"], "scenes has no configuration 'huge'; known: default"),
    ):
        assert commands.execute(["prepare-tfds", *arguments, f"--data_dir={tmp_path}"]) == 1
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_not_prepared(tmp_path):
    with pytest.raises(DataError, match="v2v prepare-tfds gatech --config=tiny .* --source=FOLDER"):
        open_prepared(tmp_path, "train")


def test_bad_data_is_named_and_nothing_is_left(tmp_path, capsys):
    from v2v_jax.cli import commands

    make_pictures(tmp_path / "source")
    make_pictures(tmp_path / "source", "Images_test", videos=(1,))
    truth(tmp_path / "source", "2_7.tiff").unlink()
    arguments = [
        "prepare-tfds",
        "gatech",
        f"--source={tmp_path / 'source'}",
        f"--data_dir={tmp_path / 'out'}",
    ]
    assert commands.execute([*arguments, "--config=tiny"]) == 1
    assert "2_7.* is missing" in capsys.readouterr().err
    with pytest.raises(DataError, match="not prepared"):
        open_prepared(tmp_path / "out", "train")
