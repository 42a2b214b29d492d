"""Labels for every task: of a frame, of two, of a clip; what datasets make of them."""

import numpy as np
import pytest
from PIL import Image

from tests import teachers as mine
from tests.teachers import SIZE
from tests.tiny import tiny_config
from v2v_jax import datasets
from v2v_jax.cli import commands
from v2v_jax.datasets.base.resizing import resize_probabilities
from v2v_jax.errors import ConfigError, DataError
from v2v_jax.labelling.label_maker import LabelSet, check_labels, label_videos
from v2v_jax.labelling.teachers import TeacherOptions, make_teacher
from v2v_jax.media.label_files import StoredLabels, label_path
from v2v_jax.media.video import read_video, write_video
from v2v_jax.system.jobs import Backend
from v2v_jax.tasks import make_task, task_class

COUNT = 11


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks") / "videos"
    folder.mkdir()
    rng = np.random.default_rng(4)
    for name in ("a.mp4", "b.mp4"):
        write_video(folder / name, rng.integers(0, 255, (COUNT, *SIZE, 3), np.uint8))
    return folder


def label(videos, output, task, teacher, *options):
    arguments = [f"--videos={videos}", f"--output={output}", f"--task={task}"]
    arguments += [f"--teacher=tests.teachers:{teacher}", "--batch_size=4", *options]
    assert commands.execute(["label", *arguments]) == 0
    field = task_class(task).label_field
    return lambda name: StoredLabels(label_path(output, name, field))


@pytest.fixture(scope="module")
def frames(videos):
    return {name: read_video(videos / name)[0] for name in ("a.mp4", "b.mp4")}


def test_classes_of_a_frame(videos, frames, tmp_path, capsys):
    read = label(videos, tmp_path, "segmentation", "bright")
    for name, video in frames.items():
        found = read(name).read(0, COUNT)
        assert found.keys() == {"labels"} and found["labels"].dtype == np.uint8
        np.testing.assert_array_equal(found["labels"], [mine.bright(frame) for frame in video])
    assert read("a.mp4").info.label_names == ("background", "foreground")
    assert "22 frames" in capsys.readouterr().out
    arguments = ["label", f"--videos={videos}", f"--output={tmp_path}", "--check"]
    assert commands.execute(arguments) == 0  # the set says which task it is for


def test_one_probability_is_that_of_the_second_class(videos, frames, tmp_path):
    read = label(videos, tmp_path, "segmentation", "redness", "--label_names=other,red")
    found = read("b.mp4").read(2, 9)
    red = frames["b.mp4"][2:9, ..., 0]
    np.testing.assert_array_equal(found["probabilities"], np.stack([255 - red, red], -1))
    np.testing.assert_array_equal(found["labels"], red > 127)
    assert read("b.mp4").info.label_names == ("other", "red")


def test_probabilities_of_three_classes(videos, frames, tmp_path):
    read = label(videos, tmp_path, "segmentation", "which_channel")
    found = read("a.mp4").read(0, COUNT)
    expected = np.stack([mine.which_channel(frame) for frame in frames["a.mp4"]])
    assert found["probabilities"].shape == (COUNT, *SIZE, 3)
    np.testing.assert_allclose(
        found["probabilities"][:, 1:] / 255, expected[:, 1:], atol=0.5 / 255 + 1e-9
    )
    assert (found["labels"][:, 0] == 255).all() and not found["probabilities"][:, 0].any()
    assert found["labels"][:, 1:].max() == 2
    assert read("a.mp4").info.label_names == ("red", "green", "blue")


def test_depth_of_clips_and_their_lengths(videos, frames, tmp_path):
    read = label(videos, tmp_path, "depth", "depth_of_clip")
    depth = read("a.mp4").read(0, COUNT)["depth"]
    assert depth.dtype == np.float16
    np.testing.assert_array_equal(depth[:, 0, 0], [4] * 8 + [3] * 3)  # batches of four
    assert np.isinf(depth[:, 1:3, 0]).all()  # not known, and infinite
    np.testing.assert_array_equal(depth[:, :, 1:], frames["a.mp4"][:, :, 1:, 1] / 4)


def test_flow_of_clips_is_that_of_pairs(videos, tmp_path):
    read = label(videos, tmp_path / "clips", "flow", "clip_flow")
    expected = label(videos, tmp_path / "pairs", "flow", "content_flow")
    for name in ("a.mp4", "b.mp4"):
        for found, value in zip(*(r(name).read(0, COUNT).values() for r in (read, expected))):
            np.testing.assert_array_equal(found, value)


def test_classes_of_pairs_leave_the_last_frame_open(videos, frames, tmp_path):
    read = label(videos, tmp_path, "segmentation", "changed")
    found = read("a.mp4").read(0, COUNT)["labels"]
    red = frames["a.mp4"][..., 0].astype(int)
    np.testing.assert_array_equal(found[:-1], red[1:] > red[:-1])
    assert (found[-1] == 255).all()


def test_what_is_nowhere_known_is_no_damage(tmp_path):
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v" / "a.mp4", np.zeros((3, *SIZE, 3), np.uint8))
    for task, teacher in (("segmentation", "nothing_known"), ("flow", "no_flow_known")):
        read = label(tmp_path / "v", tmp_path / task, task, teacher)
        found = read("a.mp4").read(0, 3)
        assert not found.get("flow_valid", np.array(False)).any()
        assert (found.get("labels", np.array(255)) == 255).all()


def test_folders_of_pictures(tmp_path):
    rng = np.random.default_rng(0)
    sequences = {}
    for name in ("bear", "deep/cow"):
        folder = tmp_path / "sequences" / name
        folder.mkdir(parents=True)
        sequences[name] = rng.integers(0, 255, (5, *SIZE, 3), np.uint8)
        for t, frame in enumerate(sequences[name]):
            Image.fromarray(frame).save(folder / f"{t}.png")
    read = label(tmp_path / "sequences", tmp_path / "labels", "segmentation", "redness")
    for name, video in sequences.items():
        np.testing.assert_array_equal(read(name).read(0, 5)["probabilities"][..., 1], video[..., 0])
    arguments = [f"--videos={tmp_path / 'sequences'}", f"--output={tmp_path / 'labels'}"]
    assert commands.execute(["label", *arguments, "--check"]) == 0
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "sequences/bear/2.png")
    assert commands.execute(["label", *arguments, "--check"]) == 1


# ------------------------------------------------------------------------------------------------
# As fields of datasets


def dataset(name, root, labels, split="train", size=(8, 12), **others):
    data = {"name": name, **datasets.DATASETS[name].options, "root": str(root)}
    data |= {"teacher_labels": str(labels), "validation_share": 0.0, **others}
    return datasets.load(data, split, size, min_frames=4)


def test_probabilities_of_a_folder_of_videos(videos, frames, tmp_path):
    label(videos, tmp_path, "segmentation", "redness", "--label_names=other,red")
    data = dataset("folder", videos, tmp_path)
    assert data.fields == ("video", "labels", "probabilities")
    assert data.label_names == ("other", "red") and data.channels("probabilities") == (2,)
    read = data.read(0, 1, 6, data.fields)
    red = frames[data.videos[0].name][1:6, ..., 0].reshape(5, 8, 2, 12, 2).mean((2, 4))
    np.testing.assert_allclose(read["probabilities"][..., 1], red, atol=0.51)
    known = np.abs(red - 127.5) > 1
    np.testing.assert_array_equal(read["labels"][known], (red > 127)[known])
    with pytest.raises(DataError, match="probabilities"):
        dataset("folder", videos, "").check_fields(("video", "probabilities"))


def make_davis(root):
    rng = np.random.default_rng(1)
    for name in ("bear", "cow"):
        for kind, extension in (("JPEGImages", "jpg"), ("Annotations", "png")):
            folder = root / kind / "480p" / name
            folder.mkdir(parents=True)
            for t in range(5):
                shape = (*SIZE, 3) if extension == "jpg" else SIZE
                picture = rng.integers(0, 256, shape, np.uint8)
                picture = picture if extension == "jpg" else 255 * (picture > 200).astype(np.uint8)
                Image.fromarray(picture).save(folder / f"{t:05d}.{extension}")


def test_a_test_split_keeps_its_own_truth(tmp_path):
    make_davis(tmp_path)
    arguments = ["--dataset=davis", f"--root={tmp_path}", f"--output={tmp_path / 'labels'}"]
    arguments += ["--task=segmentation", "--teacher=tests.teachers:redness"]
    assert commands.execute(["label", *arguments]) == 0
    made = tmp_path / "labels"
    train, test, truth = (
        dataset("davis", tmp_path, labels, split, held_out="cow")
        for labels, split in ((made, "train"), (made, "test"), ("", "test"))
    )
    assert train.fields == ("video", "labels", "probabilities")
    assert test.fields == ("video", "labels")
    np.testing.assert_array_equal(*(d.read(0, 0, 5, ("labels",))["labels"] for d in (test, truth)))


def test_depth_of_flat_folders_of_frames(tmp_path):
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 255, (5, *SIZE, 3), np.uint8)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "images" / f"one_{t}.png")
        Image.fromarray(frame[..., 0] % 2).save(tmp_path / "labels" / f"one_{t}.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "train.txt").write_text("one\n")
    arguments = ["--dataset=frames", f"--root={tmp_path}", f"--output={tmp_path / 'made'}"]
    arguments += ["--task=depth", "--teacher=tests.teachers:depth_of_clip"]
    assert commands.execute(["label", *arguments]) == 0
    data = dataset("frames", tmp_path, tmp_path / "made", size=SIZE)
    assert data.fields == ("video", "labels", "depth") and data.label_names == ("a", "b")
    found = data.read(0, 0, 5, ("depth", "labels"))
    np.testing.assert_array_equal(found["depth"][:, :, 1:], frames[:, :, 1:, 1] / 4)
    np.testing.assert_array_equal(found["labels"], frames[..., 0] % 2)


def test_resized_probabilities():
    values = np.zeros((4, 6, 2), np.uint8)
    values[..., 0], values[..., 1] = 200, 55
    values[:, :2] = 0  # not known
    values[0, 2] = 0
    found = resize_probabilities(values, (2, 3))
    assert not found[:, 0].any() and (found[:, 1:] == (200, 55)).all()
    np.testing.assert_array_equal(resize_probabilities(values, (8, 12))[::2, ::2], values)


def test_soft_targets_are_an_option_of_segmentation(videos, tmp_path):
    label(videos, tmp_path, "segmentation", "redness")
    data = dataset("folder", videos, tmp_path)
    soft = make_task("segmentation", data, {"targets": "probabilities"})
    assert soft.fields == ("video", "labels", "probabilities")
    assert soft.evaluation_fields == ("video", "labels")
    assert make_task("segmentation", data).fields == ("video", "labels")
    with pytest.raises(ConfigError, match="targets is 'soft'; known: labels, probabilities"):
        make_task("segmentation", data, {"targets": "soft"})
    batch = data.read(0, 0, 4, data.fields)
    batch = {name: value[None] for name, value in batch.items()} | {"mask": np.ones(1, bool)}
    outputs = np.zeros((1, 4, 8, 12, 2), np.float32)
    total, count = soft.loss(outputs, batch)
    np.testing.assert_allclose((total / count, count), (np.log(2), 4 * 8 * 12), rtol=1e-5)
    config = tiny_config("seg", "dataset=folder", data__teacher_labels="DIR")
    assert config.data.teacher_labels == "DIR"


# ------------------------------------------------------------------------------------------------
# What cannot be used


def test_teachers_of_another_task(videos, tmp_path):
    for name, options, message in (
        ("brox", {"field": "depth"}, "brox makes flow, not depth"),
        ("tflite:x", {}, "tflite:x makes labels, not flow"),
        ("tests.teachers:redness", {}, "sees one frame, flow needs two"),
        ("tests.teachers:moving_squares", {}, "takes 0 arguments"),
        ("tests.teachers:redness", {"field": "colour"}, "not 'colour'"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_teacher(name, TeacherOptions(**options))


@pytest.mark.parametrize(
    "field, teacher, names, message",
    [
        ("depth", "bright", (), "returned int64 .* for depth; expected float"),
        ("labels", "content_flow", (), "with values from .* are from 0 to 1"),
        ("labels", "redness", ("a", "b", "c"), "probabilities of a, b, c"),
        ("labels", "third_class", (), "returned class 2; there are 2"),
    ],
)
def test_what_does_not_fit_the_task(videos, tmp_path, field, teacher, names, message):
    options = TeacherOptions(field, label_names=names)
    labels = LabelSet(
        str(videos), ["a.mp4"], str(tmp_path), f"tests.teachers:{teacher}", options=options
    )
    report = label_videos(labels, Backend())
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(report.failed[0][1])
    assert check_labels(labels) == ["missing: a.mp4 has no labels"]


def test_another_task_or_other_classes_need_another_folder(videos, tmp_path):
    label(videos, tmp_path, "segmentation", "redness")
    place = (str(videos), ["a.mp4"], str(tmp_path))
    for teacher, options, message in (
        ("redness", TeacherOptions("labels", label_names=("a", "b")), "not of .* a, b, at"),
        ("content_flow", TeacherOptions(), "redness .labels. .*, not of .*content_flow .flow."),
    ):
        labels = LabelSet(*place, f"tests.teachers:{teacher}", options=options)
        with pytest.raises(ConfigError, match=message):
            label_videos(labels, Backend())
