"""Networks of TensorFlow Lite as teachers: made here, and MediaPipe's where it is at hand."""

import os
import sys

import numpy as np
import pytest

from tests.teachers import SIZE
from v2v_jax.errors import ConfigError
from v2v_jax.labelling import tflite_teacher as tflite
from v2v_jax.labelling.label_maker import LabelSet, label_videos
from v2v_jax.labelling.teachers import TeacherOptions, make_teacher
from v2v_jax.media.label_files import StoredLabels, label_path
from v2v_jax.media.video import read_video, write_video
from v2v_jax.system.jobs import Backend

REAL = os.environ.get("V2V_REAL_DATA", "")


def convert(function, shape, dtype="float32"):
    """The bytes of a network that computes `function` of (1,H,W,C)."""
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    signature = tf.TensorSpec(shape, getattr(tf, dtype))
    concrete = tf.function(function).get_concrete_function(signature)
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """name → file: logits of red beside green; one score; class numbers; of any size."""
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    folder = tmp_path_factory.mktemp("tflite")
    shape = (1, *SIZE, 3)
    made = {
        "logits": (lambda x: 8 * x[..., :2], shape),
        "softmax": (lambda x: tf.nn.softmax(8 * x[..., :3]), shape),
        "score": (lambda x: x[..., :1], shape),
        "numbers": (lambda x: tf.argmax(x, -1, tf.int32), shape),
        "any_size": (lambda x: x[..., 2:], (1, None, None, 3)),
        "grey": (lambda x: x, (1, *SIZE, 1)),
    }
    for name, (function, size) in made.items():
        (folder / f"{name}.tflite").write_bytes(convert(function, size))
    return folder


def frames(size=SIZE, count=3):
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8)


def codes(path, video, **options):
    teacher = make_teacher(f"tflite:{path}.tflite", TeacherOptions("labels", **options))
    assert not teacher.needs_next and teacher.field == "labels"
    return teacher.encoded(video, 1.0)[0]


def test_scores_become_probabilities(networks):
    video = frames()
    red, green = (video[..., c].astype(np.float64) / 255 for c in (0, 1))
    expected = 1 / (1 + np.exp(8 * (red - green)))
    np.testing.assert_allclose(codes(networks / "logits", video)[..., 1] / 255, expected, atol=3e-3)
    logits = np.exp(8 * video.astype(np.float64) / 255)
    found = codes(networks / "softmax", video, label_names=("r", "g", "b"))
    np.testing.assert_allclose(found / 255, logits / logits.sum(-1, keepdims=True), atol=3e-3)
    found = codes(networks / "score", video)
    np.testing.assert_array_equal(found, np.stack([255 - video[..., 0], video[..., 0]], -1))
    numbers = codes(networks / "numbers", video, label_names=("r", "g", "b"))
    np.testing.assert_array_equal(numbers, video.argmax(-1))


def test_what_black_and_white_are(networks):
    video = frames()
    found = codes(networks / "score", video, input_range=(0.0, 0.5))
    np.testing.assert_allclose(found[..., 1], video[..., 0] / 2, atol=0.51)


def test_frames_of_other_sizes(networks):
    double = frames().repeat(2, 1).repeat(2, 2)
    found = codes(networks / "score", double)  # seen at half the size, given at the frames'
    assert found.shape == (3, 32, 48, 2)
    np.testing.assert_allclose(found[:, 8:24, 8:40].mean(), double[:, 8:24, 8:40].mean(), atol=9)
    for size in ((16, 24), (20, 28), (16, 24)):
        video = frames(size, 2)
        np.testing.assert_array_equal(codes(networks / "any_size", video)[..., 1], video[..., 2])


def test_labels_of_videos_by_several_threads(networks, tmp_path):
    (tmp_path / "videos").mkdir()
    names = [f"{k}.mp4" for k in range(4)]
    for name in names:
        write_video(tmp_path / "videos" / name, frames(count=5))
    teacher, options = f"tflite:{networks}/score.tflite", TeacherOptions("labels")
    place = (str(tmp_path / "videos"), names, str(tmp_path / "labels"))
    labels = LabelSet(*place, teacher, batch_size=2, options=options)
    assert label_videos(labels, Backend(threads=3)).status == 0
    for name in names:
        stored = StoredLabels(label_path(tmp_path / "labels", name, "labels"))
        video = read_video(tmp_path / "videos" / name)[0]
        np.testing.assert_array_equal(stored.read(0, 5)["probabilities"][..., 1], video[..., 0])
        assert stored.info.teacher == "tflite:score.tflite" and stored.info.parameters["sha256"]
    assert label_videos(labels, Backend()).skipped == names


def test_networks_that_cannot_be_used(networks, tmp_path):
    (tmp_path / "damaged.tflite").write_bytes(b"no network at all")
    for path, options, message in (
        (tmp_path / "none", {}, "none.tflite cannot be read .No such file"),
        (tmp_path / "damaged", {}, "damaged.tflite is not a network of TensorFlow Lite"),
        (networks / "grey", {}, r"takes .*1\) and gives .* expected a picture"),
        (networks / "softmax", {}, "has 3 classes, --label_names 2"),
        (networks / "score", {"label_names": ("a", "b", "c")}, "has 2 classes"),
    ):
        with pytest.raises(ConfigError, match=message):
            codes(path, frames(), **options)


def test_without_a_runtime(monkeypatch):
    for module in ("ai_edge_litert", "ai_edge_litert.interpreter", "tensorflow"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"LiteRT or TensorFlow; pip install 'v2v_jax\[tflite\]'"):
        tflite.tflite_teacher("x.tflite")


@pytest.mark.skipif(not REAL, reason="V2V_REAL_DATA is not set")
def test_people_of_mediapipe():
    """A person is found where DAVIS has one, and none on a wall."""
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    from v2v_jax.media.pictures import Picture

    root = os.path.join(REAL, "davis2016")
    names = [
        os.path.join(root, folder, "180p/dance-twirl/00020")
        for folder in ("JPEGImages", "Annotations")
    ]
    if not os.path.exists(names[0] + ".jpg"):
        pytest.skip("DAVIS is not at hand")
    frame = Picture(names[0] + ".jpg").frame()
    person = np.asarray(Picture(names[1] + ".png").frame()[..., 0]) > 127
    path = os.path.join(REAL, "teachers", "selfie_segmentation_landscape")
    found = codes(path, np.stack([frame, np.full_like(frame, 180)]))[..., 1] / 255
    assert found[0][person].mean() > 0.5 > 0.2 > found[0][~person].mean()
    assert found[1].mean() < 0.1
