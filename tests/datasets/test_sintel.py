"""MPI-Sintel: the archive's format on tiny trees, splits, what is missing, the real files."""

import os

import numpy as np
import pytest

from tests.sintel_files import H, W, make_sequence, save
from v2v_jax import datasets
from v2v_jax.datasets.base.video_dataset import FIELDS
from v2v_jax.datasets.readers.sintel import Sintel
from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.media.flow_files import write_flow

REAL = os.path.join(os.environ.get("V2V_REAL_DATA", ""), "sintel")
HALF = (12, 10)  # vectors are then halved in v and quartered in u
LABELS = ("flow", "flow_valid", "flow_occluded")
ALL = ("video", *LABELS)


def open_test(root, **options) -> Sintel:
    return Sintel(root, "test", **{"held_out": ("cave_4",), "frame_size": HALF} | options)


def test_splits_and_passes(tmp_path):
    for name in ("alley_1", "cave_4", "ambush_2"):
        make_sequence(tmp_path, name)
    options = dict(held_out=("cave_4", "ambush_2"))
    train, test = (Sintel(tmp_path, split, **options) for split in ("train", "test"))
    assert [v.name for v in train.videos] == ["clean/alley_1"]
    assert [(v.name, v.num_frames) for v in test.videos] == [
        ("clean/ambush_2", 17),
        ("clean/cave_4", 17),
    ]
    both = Sintel(tmp_path, "test", render_pass="both", **options)
    names = [v.name for v in both.videos]
    assert names == ["clean/ambush_2", "clean/cave_4", "final/ambush_2", "final/cave_4"]
    assert both.read(1, 0, 1)["video"].max() == 5 and both.read(3, 0, 1)["video"].max() == 7
    assert both.identity() != test.identity() != train.identity()


def test_fields(tmp_path):
    make_sequence(tmp_path, "cave_4")
    dataset = open_test(tmp_path)
    assert dataset.native_size == (H, W) and dataset.fields == ALL and dataset.corrupt == []
    arrays = dataset.read(0, 1, 17, ALL)
    for field, array in arrays.items():
        assert array.shape == (16, *HALF, *FIELDS[field].channels), field
        assert array.dtype == FIELDS[field].dtype, field
    number = np.arange(2, 18)
    np.testing.assert_array_equal(arrays["video"][:, 5, 5, 0], 5 * number)
    valid = np.zeros((16, *HALF), bool)
    valid[:15, 3:] = True  # the last frame has no flow
    np.testing.assert_array_equal(arrays["flow_valid"], valid)
    expected = np.where(valid[..., None], (number[:, None] * [0.25, -0.5])[:, None, None], 0)
    np.testing.assert_allclose(arrays["flow"], expected, atol=2e-3)
    occluded = np.zeros((16, *HALF), bool)
    occluded[:15, :, :5] = True
    np.testing.assert_array_equal(arrays["flow_occluded"], occluded)
    assert list(dataset.read(0, 0, 3, ("flow",))) == ["flow"]


def test_native_pairs(tmp_path):
    make_sequence(tmp_path, "cave_4")
    dataset = open_test(tmp_path)
    pairs = dataset.native_pairs()
    assert pairs == [(0, i) for i in range(16)]
    frames = list(dataset.native_frames(0))
    assert len(frames) == 17 and frames[3].shape == (H, W, 3) and (frames[3] == 20).all()
    flow, valid, occluded = dataset.native_truth(0, 3)
    assert flow.shape == (H, W, 2) and (flow[6:] == [4, -4]).all()
    assert valid.sum() == 18 * W and occluded.sum() == 20 * H


def test_points_that_leave_the_frame_stay_valid(tmp_path):
    make_sequence(tmp_path, "cave_4")
    path = tmp_path / "training/flow/cave_4/frame_0001.flo"
    write_flow(path, np.full((H, W, 2), 300.0, np.float32))
    arrays = open_test(tmp_path).read(0, 0, 1, LABELS)
    assert arrays["flow_valid"][0, 3:].all()
    np.testing.assert_array_equal(arrays["flow"][0, 3:], np.full((9, 10, 2), (75, 150)))


def test_partial_trees(tmp_path):
    make_sequence(tmp_path, "alley_1")
    make_sequence(tmp_path, "cave_4", numbers=(4, 5, 6, 9, 10), flows=(5,), passes=("clean",))
    with pytest.raises(DataError, match=r"clean.cave_4.frame_0001\.png is missing.*partial=True"):
        open_test(tmp_path)
    dataset = open_test(tmp_path, partial=True, render_pass="both", min_frames=8)
    assert [(v.name, v.num_frames) for v in dataset.videos] == [
        ("clean/cave_4 from 0004", 8),
        ("clean/cave_4 from 0009", 8),
    ]
    arrays = dataset.read(0, 0, 8, ALL)
    # 4 5 6 5 4 5 6 5: the flow from 5 to 6 is known, both times.
    np.testing.assert_array_equal(arrays["video"][:, 0, 0, 0], [20, 25, 30, 25, 20, 25, 30, 25])
    np.testing.assert_array_equal(arrays["flow_valid"].any((1, 2)), [0, 1, 0, 0, 0, 1, 0, 0])
    assert dataset.native_pairs() == [(0, 1)] and dataset.native_truth(0, 1)[0][9, 0, 0] == 5
    assert [frame[0, 0, 0] for frame in dataset.native_frames(0)] == [20, 25, 30]
    # A video that is long enough is as without `partial`.
    whole = Sintel(tmp_path, "train", held_out=("cave_4",), partial=True)
    assert [(v.name, v.num_frames) for v in whole.videos] == [("clean/alley_1 from 0001", 17)]


def test_without_occlusions(tmp_path):
    make_sequence(tmp_path, "cave_4")
    (tmp_path / "training/occlusions").rename(tmp_path / "elsewhere")
    dataset = open_test(tmp_path)
    assert dataset.fields == ("video", "flow", "flow_valid")
    assert dataset.native_truth(0, 0)[2] is None
    with pytest.raises(DataError, match="has no flow_occluded"):
        dataset.read(0, 0, 1, ALL)


def test_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"training.clean does not exist; unpack MPI-Sintel"):
        open_test(tmp_path)
    make_sequence(tmp_path, "alley_1")
    make_sequence(tmp_path, "cave_4")
    with pytest.raises(DataError, match="'ambush_2', which is not in .*out of alley_1, cave_4"):
        Sintel(tmp_path, "train")
    with pytest.raises(DataError, match="held_out is empty"):
        open_test(tmp_path, held_out=())
    with pytest.raises(DataError, match="no render pass 'albedo'; choose clean, final or both"):
        open_test(tmp_path, render_pass="albedo")
    with pytest.raises(DataError, match="no split 'val'"):
        Sintel(tmp_path, "val")
    (tmp_path / "training/flow/cave_4/frame_0003.flo").unlink()
    with pytest.raises(DataError, match=r"frame_0003\.flo is missing; .*partial=True"):
        open_test(tmp_path)
    assert len(open_test(tmp_path, partial=True).native_pairs()) == 15
    (tmp_path / "training/invalid/cave_4/frame_0005.png").unlink()
    with pytest.raises(DataError, match=r"invalid.cave_4.frame_0005\.png is missing"):
        open_test(tmp_path, partial=True)


@pytest.mark.parametrize(
    ("file", "error", "message"),
    [
        ("clean/cave_4/frame_0002.png", CorruptVideoError, "frame_0002.png cannot be read"),
        ("flow/cave_4/frame_0002.flo", CorruptVideoError, "frame_0002.flo cannot be read"),
        ("invalid/cave_4/frame_0002.png", CorruptVideoError, "frame_0002.png cannot be read"),
        ("occlusions/cave_4/frame_0002.png", CorruptVideoError, "frame_0002.png cannot be read"),
    ],
)
def test_damaged_files(tmp_path, file, error, message):
    make_sequence(tmp_path, "cave_4")
    dataset = open_test(tmp_path)
    path = tmp_path / "training" / file
    for size in (0, 40):
        path.write_bytes(path.read_bytes()[:size] if size else b"")
        with pytest.raises(error, match=message):
            dataset.read(0, 0, 4, ALL)
    assert dataset.read(0, 2, 8, ALL)["flow"].shape[0] == 6


def test_files_of_another_size_or_kind(tmp_path):
    make_sequence(tmp_path, "cave_4")
    dataset = open_test(tmp_path)
    training = tmp_path / "training"
    save(training / "clean/cave_4/frame_0002.png", np.zeros((H, W + 2, 3), np.uint8))
    with pytest.raises(DataError, match="is 42x24, the dataset's frames are 40x24"):
        dataset.read(0, 0, 4)
    write_flow(training / "flow/cave_4/frame_0003.flo", np.zeros((H - 1, W, 2), np.float32))
    with pytest.raises(DataError, match=r"frame_0003\.flo is 40x23"):
        dataset.read(0, 2, 3, ("flow",))
    save(training / "invalid/cave_4/frame_0004.png", np.zeros((H, W, 3), np.uint8))
    with pytest.raises(DataError, match=r"frame_0004\.png is a PNG of Pillow's mode RGB"):
        dataset.read(0, 3, 4, ("flow_valid",))


def test_by_name(tmp_path):
    make_sequence(tmp_path, "cave_4")
    options = datasets.DATASETS["sintel"].options
    data = dict(name="sintel", **options) | dict(root=str(tmp_path), held_out="cave_4")
    dataset = datasets.load(data, "test", HALF)
    assert isinstance(dataset, Sintel) and dataset.videos[0].name == "clean/cave_4"
    cached = datasets.load(data | {"cache": str(tmp_path / "cache")}, "test", HALF)
    cached.prepare_fields(ALL)
    assert cached.native_size == (H, W)
    for field, array in dataset.read(0, 0, 17, ALL).items():
        np.testing.assert_array_equal(cached.read(0, 0, 17, ALL)[field], array)


@pytest.mark.skipif(not os.path.isdir(REAL), reason="V2V_REAL_DATA has no sintel folder")
def test_real_files():
    options = dict(render_pass="both", held_out=("temple_3",), partial=True)
    train, test = (Sintel(REAL, split, **options) for split in ("train", "test"))
    assert [v.name for v in train.videos] == ["clean/alley_2 from 0002"]
    assert [(v.name, v.num_frames) for v in test.videos] == [("final/temple_3 from 0021", 16)]
    assert test.native_size == (436, 1024)
    arrays = test.read(0, 0, 16, ALL)
    labelled = np.flatnonzero(arrays["flow_valid"].any((1, 2)))
    np.testing.assert_array_equal(labelled, [1, 7, 13])  # 21 22 23 24 23 22 21 22 …
    [(video, index)] = test.native_pairs()
    flow, valid, occluded = test.native_truth(video, index)
    speed = np.linalg.norm(flow[valid], axis=-1).mean()
    assert index == 1 and speed == pytest.approx(56.996, abs=1e-2)
    kept = arrays["flow_valid"][1]
    rescaled = arrays["flow"][1].astype(np.float32) * [1024 / 171, 436 / 128]
    assert np.linalg.norm(rescaled[kept], axis=-1).mean() == pytest.approx(speed, rel=0.02)
    assert occluded.mean() == pytest.approx(arrays["flow_occluded"][1].mean(), abs=0.01)
