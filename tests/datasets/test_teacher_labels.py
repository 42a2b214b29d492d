"""Flow labels as fields of a dataset of videos: scaled, mirrored, valid but for the last frame."""

import os
import pathlib

import jax
import numpy as np
import pytest

from tests.tiny import read_metrics, tiny_config
from v2v_jax import datasets
from v2v_jax.cli import config_options
from v2v_jax.datasets.base.reading import read_videos
from v2v_jax.datasets.base.video_dataset import DECODING_SHARE
from v2v_jax.errors import ConfigError, CorruptVideoError, DataError
from v2v_jax.input.clips import Clips
from v2v_jax.input.feeds import make_feed
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.labelling.label_maker import LabelSet, label_videos
from v2v_jax.labelling.teachers import TeacherOptions
from v2v_jax.media.label_files import label_path
from v2v_jax.media.video import write_video
from v2v_jax.run import recipes
from v2v_jax.system.jobs import Backend
from v2v_jax.system.sharding import make_mesh

NATIVE = (48, 64)
FRAME = (24, 16)  # half the height, a quarter of the width
FIELDS = ("video", "flow", "flow_valid")
COUNTS = {"v_Apply_g01_c01.avi": 18, "v_Apply_g02_c01.avi": 17, "v_Apply_g08_c01.avi": 20}


def left_right_flow(first, second):
    """u is the grey of the first frame over 8 and 4 more in the right half; v is -8."""
    u = np.full(NATIVE, first.mean() / 8, np.float32)
    u[:, NATIVE[1] // 2 :] += 4
    return np.stack([u, np.full(NATIVE, -8.0, np.float32)], axis=-1)


def partly_known_flow(first, second):
    """Not known in the upper quarter."""
    flow = np.ones((*NATIVE, 2), np.float32)
    flow[: NATIVE[0] // 4] = np.nan
    return flow


def upward_flow(first, second):
    """All goes up, 8 px a frame: what a network can learn of frames without texture."""
    return np.broadcast_to(np.float32([0, -8]), (*NATIVE, 2))


def left_half(frame):
    """Probably the second class on the left, hardly on the right."""
    probability = np.full(NATIVE, 0.1)
    probability[:, : NATIVE[1] // 2] = 0.9
    return probability


def make_ucf101(root: pathlib.Path) -> None:
    """Three videos of one class, the frames of each grey 8, 16, 24, …, and the lists."""
    folder, lists = root / "UCF-101" / "Apply", root / "ucfTrainTestlist"
    folder.mkdir(parents=True)
    lists.mkdir()
    for name, count in COUNTS.items():
        gray = 8 * np.arange(1, count + 1, dtype=np.uint8)
        frames = np.broadcast_to(gray[:, None, None, None], (count, *NATIVE, 3))
        write_video(folder / "tmp.mp4", frames)
        (folder / "tmp.mp4").rename(folder / name)  # FFmpeg goes by the content
    names = [f"Apply/{name}" for name in COUNTS]
    (lists / "classInd.txt").write_text("1 Apply\r\n")
    (lists / "testlist01.txt").write_text("".join(f"{name}\r\n" for name in names[:2]))
    (lists / "trainlist01.txt").write_text(f"{names[2]} 1\r\n")


def make_labels(root, output, teacher="left_right_flow", field="flow"):
    names = [f"Apply/{name}" for name in COUNTS]
    teacher = f"tests.datasets.test_teacher_labels:{teacher}"
    place = (str(root / "UCF-101"), names, str(output))
    labels = LabelSet(*place, teacher, batch_size=8, options=TeacherOptions(field))
    assert label_videos(labels, Backend()).status == 0


def options(root, labels, **others):
    data = dict(name="ucf101", **datasets.DATASETS["ucf101"].options)
    return data | {"root": str(root), "teacher_labels": str(labels)} | others


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ucf101")
    make_ucf101(folder)
    make_labels(folder, folder / "labels")
    return folder


@pytest.fixture
def own(tmp_path):
    """A copy that a test may damage."""
    make_ucf101(tmp_path)
    make_labels(tmp_path, tmp_path / "labels")
    return tmp_path


def open_test(root, **others):
    return datasets.load(options(root, root / "labels", **others), "test", FRAME)


def test_vectors_scale_with_the_frame(made):
    dataset = open_test(made)
    assert dataset.fields == FIELDS and dataset.native_size == NATIVE
    read = dataset.read(0, 0, 18, FIELDS)
    assert read["flow"].shape == (18, *FRAME, 2) and read["flow"].dtype == np.float16
    assert read["flow_valid"].shape == (18, *FRAME) and read["flow_valid"].dtype == bool
    gray = read["video"].astype(np.float32).mean((1, 2, 3))
    u, v = read["flow"][:-1, ..., 0], read["flow"][:-1, ..., 1]
    # u by the width's quarter, v by the height's half.
    left = np.broadcast_to(gray[:-1, None, None] / 32, (17, 24, 8))
    np.testing.assert_allclose(u[:, :, :8], left, atol=0.1)
    np.testing.assert_allclose(u[:, :, 8:] - u[:, :, :8], 1, atol=1e-2)
    np.testing.assert_array_equal(v, -4)
    assert read["flow_valid"][:-1].all()


def test_processes_read_the_same(made):
    dataset = open_test(made, processes=2)
    assert dataset.processes == 2 and dataset.source.python_share == DECODING_SHARE
    for video, found in read_videos(dataset, FIELDS):
        expected = dataset.read(video, 0, dataset.videos[video].num_frames, FIELDS)
        for field in FIELDS:
            np.testing.assert_array_equal(found[field], expected[field])


def test_the_last_frame_leads_nowhere(made):
    dataset = open_test(made)
    for video, info in enumerate(dataset.videos):
        last = dataset.read(video, info.num_frames - 1, info.num_frames, FIELDS)
        assert not last["flow_valid"].any() and not last["flow"].any()
        window = dataset.read(video, info.num_frames - 4, info.num_frames, ("flow_valid",))
        np.testing.assert_array_equal(window["flow_valid"].all((1, 2)), [True, True, True, False])


def test_fields_one_by_one(made):
    dataset = open_test(made)
    together = dataset.read(1, 2, 9, FIELDS)
    for field in FIELDS:
        alone = dataset.read(1, 2, 9, (field,))
        assert list(alone) == [field]
        np.testing.assert_array_equal(alone[field], together[field])


def test_without_labels_there_is_no_flow(made):
    dataset = datasets.load(options(made, ""), "test", FRAME)
    with pytest.raises(DataError, match="has no flow, flow_valid"):
        dataset.check_fields(FIELDS)
    with pytest.raises(ConfigError, match="leave data.source=tfds out"):
        datasets.load(options(made, "x", source="tfds"), "test", FRAME)


def test_what_the_teacher_does_not_know_is_not_valid(made, tmp_path):
    make_labels(made, tmp_path / "labels", "partly_known_flow")
    dataset = datasets.load(options(made, tmp_path / "labels"), "test", FRAME)
    read = dataset.read(0, 0, 3, FIELDS)
    assert not read["flow_valid"][:, :6].any() and read["flow_valid"][:, 6:].all()
    np.testing.assert_array_equal(read["flow"][:, 6:, :, 0], 0.25)
    np.testing.assert_array_equal(read["flow"][:, :6], 0)


def test_labels_that_are_missing_or_of_another_video(own):
    path = pathlib.Path(label_path(own / "labels", f"Apply/{list(COUNTS)[1]}"))
    path.rename(own / "elsewhere")
    command = f"v2v label --videos={own}/UCF-101 --output={own}/labels"
    with pytest.raises(DataError) as raised:
        open_test(own)
    assert f"Video Apply/{list(COUNTS)[1]} of ucf101 has no flow labels" in str(raised.value)
    assert command in str(raised.value)
    (own / "elsewhere").rename(path)
    open_test(own)
    with pytest.raises(DataError, match="none does not exist; make them: v2v label"):
        datasets.load(options(own, own / "none"), "test", FRAME)

    video = own / "UCF-101" / "Apply" / list(COUNTS)[0]
    with open(video, "ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match="are of a video of 18 frames.*labels what has changed"):
        open_test(own)


def test_labels_of_two_teachers(own, tmp_path):
    make_labels(own, tmp_path / "others", "partly_known_flow")
    name = f"Apply/{list(COUNTS)[1]}"
    os.rename(label_path(own / "labels", name), tmp_path / "aside")
    os.rename(label_path(tmp_path / "others", name), label_path(own / "labels", name))
    with pytest.raises(DataError, match="come from different teachers"):
        open_test(own)


def test_damaged_labels_are_a_video_that_cannot_be_read(own):
    name = f"Apply/{list(COUNTS)[1]}"
    (shard,) = (
        p for p in pathlib.Path(label_path(own / "labels", name), "c").rglob("*") if p.is_file()
    )
    shard.write_bytes(shard.read_bytes()[:-9])
    dataset = open_test(own)
    dataset.read(0, 0, 3, FIELDS)
    with pytest.raises(CorruptVideoError, match="g02_c01.avi.flow.zarr are damaged"):
        dataset.read(1, 0, 3, FIELDS)


@pytest.mark.parametrize("feed", ["device", "tf_data"])
@pytest.mark.parametrize("cached", [False, True])
def test_feeds_mirror_u_and_keep_the_last_frame_out(made, tmp_path, feed, cached):
    dataset = open_test(made, cache=str(tmp_path / "cache") if cached else "")
    preprocessing = Preprocessing(frame_size=FRAME, crop_size=(16, 16), clip_length=8)
    feed = make_feed(feed, dataset, FIELDS, preprocessing, make_mesh(jax.devices()[:1]))
    row = lambda *values: np.array(values, np.int32)
    plan = Clips(
        video=row(0, 0),
        start=row(10, 10),  # frames 10..17: the video's last
        top=row(0, 0),
        left=row(0, 0),
        mirror=np.array([False, True]),
        mask=np.ones(2, bool),
    )
    (batch,) = feed.batches([plan])
    clip = jax.tree.map(np.asarray, jax.jit(feed.prepare)(feed.store, batch))
    plain, mirrored = clip["flow"].astype(np.float32)
    np.testing.assert_allclose(mirrored[..., 0], -plain[:, :, ::-1, 0])
    np.testing.assert_allclose(mirrored[..., 1], plain[:, :, ::-1, 1])
    assert plain[:-1].any() and clip["flow_valid"][:, :-1].all()
    assert not clip["flow_valid"][:, -1].any()


def test_a_cache_knows_when_labels_change(made, own, tmp_path):
    cache = str(tmp_path / "cache")
    read = lambda dataset: dataset.read(0, 0, 4, FIELDS)["flow"]

    def cached():
        dataset = open_test(own, cache=cache)
        dataset.prepare_fields(FIELDS)
        return dataset

    before = read(cached())
    os.rename(own / "labels", own / "old")
    make_labels(own, own / "labels", "partly_known_flow")
    after = read(cached())
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, read(open_test(own)))


def test_configuration(made):
    config = tiny_config("flow", "dataset=ucf101", data__teacher_labels="DIR")
    recipes.validate(config)
    assert config.data.teacher_labels == "DIR"
    assert tiny_config("flow", "dataset=folder").data.teacher_labels == ""


def test_the_former_name_is_an_error_that_says_the_present_one(made):
    with pytest.raises(ConfigError, match="data.flow_labels; did you mean data.teacher_labels"):
        config_options.read("flow:dataset=ucf101", ["--config.data.flow_labels=DIR"])
    config = tiny_config("flow", "dataset=ucf101").unlock()
    config.data.flow_labels = "DIR"  # of a recipe of one's own
    with pytest.raises(ConfigError, match="no option data.flow_labels; known: .*teacher_labels"):
        recipes.validate(config)


@pytest.mark.slow
def test_training_on_labels(made, tmp_path, compilation_cache):
    """train.py's own function, on labelled videos: it learns the labels' constant flow."""
    from v2v_jax.training.loop import train_and_evaluate

    make_labels(made, tmp_path / "labels", "upward_flow")
    config = tiny_config(
        "flow",
        "dataset=ucf101",
        data__root=str(made),
        data__teacher_labels=str(tmp_path / "labels"),
        feed="device",
        preprocessing__frame_size=(32, 48),
        num_steps=60,
        eval_every=30,
        optimizer__learning_rate=0.05,
    )
    values = train_and_evaluate(config, tmp_path / "run")
    assert values["epe"] < 0.5 * values["baseline_epe"]
    assert len(read_metrics(tmp_path / "run", "eval/epe")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["device", "tf_data"])
def test_training_on_probabilities(made, tmp_path, compilation_cache, feed):
    """Segmentation learns from soft targets: as sure as the teacher, no surer."""
    import v2v_jax
    from v2v_jax.training.loop import train_and_evaluate

    make_labels(made, tmp_path / "labels", "left_half", "labels")
    config = tiny_config(
        "seg",
        "dataset=ucf101",
        data__root=str(made),
        data__teacher_labels=str(tmp_path / "labels"),
        task_options__targets="probabilities",
        feed=feed,
        preprocessing__frame_size=(32, 48),
        preprocessing__crop_size=(32, 48),
        mirror=False,
        num_steps=60,
        eval_every=30,
    )
    values = train_and_evaluate(config, tmp_path / "run")
    assert values["accuracy"] > 0.9 > values["baseline_accuracy"]
    (video,) = list((made / "UCF-101" / "Apply").glob("*g01*"))
    probabilities = v2v_jax.load(tmp_path / "run").probabilities(video)
    sure = probabilities[:, :, : NATIVE[1] // 4, 1].mean()
    assert 0.8 < sure < 0.97
