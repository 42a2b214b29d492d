"""MOVi: tiny data with Kubric's features, written by tensorflow-datasets, read by our class."""

from unittest import mock

import numpy as np
import pytest

from v2v_jax import datasets
from v2v_jax.cli import commands
from v2v_jax.datasets.base.video_dataset import FIELDS
from v2v_jax.datasets.readers import movi
from v2v_jax.datasets.readers.movi import Movi
from v2v_jax.datasets.tfds.convert_tfds import convert
from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.tasks import make_task

T, H, W = 18, 16, 24
FLOW_RANGE, DEPTH_RANGE = (-8.0, 24.0), (2.0, 66.0)
FOCAL_LENGTH, SENSOR_WIDTH = 35.0, 32.0
ALL = Movi.fields


def example(seed: int) -> dict:
    """One video with Kubric's features, those that are not read left out."""
    rng = np.random.default_rng(seed)
    coarse = lambda *shape: rng.integers(0, 65536, shape).astype(np.uint16)
    return {
        "metadata": {
            "video_name": f"scene{seed}",
            "width": W,
            "height": H,
            "num_frames": T,
            "num_instances": 2,
            "depth_range": np.float32(DEPTH_RANGE),
            "forward_flow_range": np.float32(FLOW_RANGE),
            "backward_flow_range": np.float32(FLOW_RANGE),
        },
        "background": "x",
        "camera": {
            "focal_length": FOCAL_LENGTH,
            "sensor_width": SENSOR_WIDTH,
            "field_of_view": 0.85,
            "positions": np.zeros((T, 3), np.float32),
            "quaternions": np.zeros((T, 4), np.float32),
        },
        "video": rng.integers(0, 256, (T, H, W, 3)).astype(np.uint8),
        "segmentations": rng.integers(0, 3, (T, H, W, 1)).astype(np.uint8),
        "forward_flow": coarse(T, H, W, 2),
        "backward_flow": coarse(T, H, W, 2),
        "depth": coarse(T, H, W, 1),
    }


def features(tfds):
    """As challenges/movi/movi_e.py declares them."""
    tensor, picture = tfds.features.Tensor, tfds.features.Image
    many = lambda feature: tfds.features.Sequence(feature, length=T)
    pair = tensor(shape=(2,), dtype=np.float32)
    return tfds.features.FeaturesDict(
        {
            "metadata": {
                "video_name": tfds.features.Text(),
                "width": np.int32,
                "height": np.int32,
                "num_frames": np.int32,
                "num_instances": np.uint16,
                "depth_range": pair,
                "forward_flow_range": pair,
                "backward_flow_range": pair,
            },
            "background": tfds.features.Text(),
            "camera": {
                "focal_length": np.float32,
                "sensor_width": np.float32,
                "field_of_view": np.float32,
                "positions": tensor(shape=(T, 3), dtype=np.float32),
                "quaternions": tensor(shape=(T, 4), dtype=np.float32),
            },
            "video": tfds.features.Video(shape=(T, H, W, 3)),
            "segmentations": many(picture(shape=(H, W, 1), dtype=np.uint8)),
            "forward_flow": many(tensor(shape=(H, W, 2), dtype=np.uint16)),
            "backward_flow": many(tensor(shape=(H, W, 2), dtype=np.uint16)),
            "depth": many(picture(shape=(H, W, 1), dtype=np.uint16)),
        }
    )


def prepare(data_dir, file_format: str = "array_record") -> None:
    """Writes movi_e/256x256/1.0.0, two training videos and a test video."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class MoviE(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="256x256")]  # noqa: RUF012

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features(tfds))

        def _split_generators(self, manager):
            seeds = {"train": (0, 1), "validation": (2,), "test": (3,)}
            return {
                split: ((str(s), example(s)) for s in chosen) for split, chosen in seeds.items()
            }

        def _generate_examples(self):
            raise NotImplementedError

    MoviE(data_dir=data_dir, config="256x256", file_format=file_format).download_and_prepare()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("movi")
    prepare(data_dir)
    return data_dir


def decoded(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """Kubric's formula, in float64."""
    return values.astype(np.float64) / 65535 * (bounds[1] - bounds[0]) + bounds[0]


def test_splits_and_names(prepared):
    train, test = (Movi(prepared, split) for split in ("train", "test"))
    assert {v.name: v.num_frames for v in train.videos} == {"scene0": T, "scene1": T}
    assert [v.name for v in test.videos] == ["scene3"]
    assert test.native_size == (H, W) and test.label_names == ("background", "foreground")
    assert train.identity() != test.identity()


def test_fields_at_their_own_size(prepared):
    dataset = Movi(prepared, "test", frame_size=(H, W))
    got, truth = dataset.read(0, 1, T, ALL), example(3)
    for field, array in got.items():
        assert array.shape == (T - 1, H, W, *FIELDS[field].channels), field
        assert array.dtype == FIELDS[field].dtype, field
    np.testing.assert_array_equal(got["video"], truth["video"][1:])
    np.testing.assert_array_equal(got["labels"], truth["segmentations"][1:, ..., 0] > 0)
    row_column = decoded(truth["forward_flow"][1:], FLOW_RANGE)
    np.testing.assert_allclose(got["flow"][..., 0], row_column[..., 1], atol=0.01)  # u
    np.testing.assert_allclose(got["flow"][..., 1], row_column[..., 0], atol=0.01)  # v
    assert got["flow_valid"].all()
    distance = decoded(truth["depth"][1:, ..., 0], DEPTH_RANGE)
    for y, x in [(0, 0), (7, 11), (H - 1, 5)]:
        ray = np.array([(x + 0.5 - W / 2) / W * 32 / 35, (y + 0.5 - H / 2) / W * 32 / 35, 1])
        along_axis = distance[:, y, x] / np.linalg.norm(ray)
        np.testing.assert_allclose(got["depth"][:, y, x], along_axis, rtol=2e-3)


def test_everything_is_rescaled_with_the_frames(prepared):
    dataset = Movi(prepared, "test", frame_size=(H // 2, W // 4))
    got, truth = dataset.read(0, 4, 6, ALL), example(3)
    flow = decoded(truth["forward_flow"][4:6], FLOW_RANGE)[..., ::-1]
    blocks = flow.reshape(2, H // 2, 2, W // 4, 4, 2).mean((2, 4)) * [0.25, 0.5]
    np.testing.assert_allclose(got["flow"], blocks, atol=0.01)
    whole = Movi(prepared, "test", frame_size=(H, W)).read(0, 4, 6, ALL)
    for field in ("labels", "depth"):  # nothing between two objects is made up
        assert set(got[field].ravel()) <= set(whole[field].ravel())


def test_only_the_window_is_decoded(prepared):
    dataset = Movi(prepared, "train")
    pictures, numbers = mock.Mock(wraps=movi.Picture), mock.Mock(wraps=movi._decode)
    with mock.patch.multiple(movi, Picture=pictures, _decode=numbers):
        assert list(dataset.read(1, 2, 5, ("flow",))) == ["flow"]
        assert dataset.read(1, 2, 5, ("depth", "video"))["depth"].shape == (3, 128, 171)
    assert pictures.call_count == 3 + 2 * 3
    assert [call.args[0].size for call in numbers.call_args_list] == [3 * H * W * 2] + [H * W] * 3


def test_by_name(prepared):
    for task, wanted in (("flow", "flow_valid"), ("depth", "depth"), ("segmentation", "labels")):
        data = dict(name="movi", **datasets.DATASETS["movi"].options) | {"root": str(prepared)}
        dataset = datasets.load(data, "test", (H, W))
        assert wanted in make_task(task, dataset).fields
        assert wanted in dataset.read(0, 0, 8, (wanted,)), task


def test_not_there_or_in_another_format(tmp_path, prepared):
    with pytest.raises(
        DataError, match="movi_e/256x256 is not prepared in .*v2v convert-tfds .*256x256/1.0.0"
    ):
        Movi(tmp_path, "train")
    with pytest.raises(DataError, match="no variant 'movi_x'; choose one of movi_a"):
        Movi(prepared, "train", variant="movi_x")
    with pytest.raises(DataError, match="no configuration '64x64'"):
        Movi(prepared, "train", resolution="64x64")
    with pytest.raises(DataError, match="movi_d/256x256 is not prepared"):
        Movi(prepared, "train", variant="movi_d")


def test_kubrics_own_format_is_converted(tmp_path, capsys):
    prepare(tmp_path, "tfrecord")
    with pytest.raises(DataError, match="tfrecord, which has no random access; convert it") as info:
        Movi(tmp_path, "test")
    folder = str(info.value).split()[-1]
    assert commands.execute(["convert-tfds", folder]) == 0
    assert "3 files written" in capsys.readouterr().out
    video = Movi(tmp_path, "test", frame_size=(H, W)).read(0, 0, T)["video"]
    np.testing.assert_array_equal(video, example(3)["video"])
    assert len(Movi(tmp_path, "train").videos) == 2
    assert convert(folder) == 0  # nothing is left to do


def test_what_cannot_be_converted(tmp_path, capsys):
    assert commands.execute(["convert-tfds", str(tmp_path)]) == 1
    assert "has no TFRecord files; expected the folder" in capsys.readouterr().err
    prepare(tmp_path, "tfrecord")
    folder = tmp_path / "movi_e/256x256/1.0.0"
    [shard] = folder.glob("*-train.tfrecord-*")
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DataError, match="train.tfrecord-00000-of-00001 is damaged"):
        convert(folder)
    assert not list(folder.glob("*-train.array_record-*"))
    with pytest.raises(DataError, match="which has no random access"):
        Movi(tmp_path, "test")


def test_damaged_records(prepared):
    dataset = Movi(prepared, "test", frame_size=(H, W))
    record = dataset._records[0]
    dataset._records = [record]
    values = record.features.feature
    del values["forward_flow"].int64_list.value[-1]
    with pytest.raises(CorruptVideoError, match="forward_flow of movi_e/256x256 scene3 has"):
        dataset.read(0, 0, 4, ("flow",))
    whole = values["depth"].bytes_list.value[2]
    values["depth"].bytes_list.value[2] = whole[: len(whole) // 2]
    with pytest.raises(CorruptVideoError, match="depth 2 of movi_e/256x256 scene3 cannot be read"):
        dataset.read(0, 0, 4, ("depth",))
    values["depth"].bytes_list.value[2] = values["segmentations"].bytes_list.value[2][:0]
    with pytest.raises(CorruptVideoError, match="depth 2"):
        dataset.read(0, 0, 4, ("depth",))
    del values["camera/focal_length"]
    with pytest.raises(CorruptVideoError, match="has no camera/focal_length"):
        dataset.read(0, 0, 4)
