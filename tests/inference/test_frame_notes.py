"""Predicted frames as pictures: palettes, notes beside them, and that they can be read again."""

import json

import av
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from tests.networks import noise, stub
from v2v_jax.datasets.base.class_masks import ClassTable, class_mask, object_mask
from v2v_jax.datasets.readers.frame_folder import FrameFolder
from v2v_jax.inference.output_files import parse_output, predict_to_files
from v2v_jax.inference.predictor import Predictor
from v2v_jax.media.frame_sources import open_source
from v2v_jax.media.pictures import Picture
from v2v_jax.tasks import Depth, Flow, Segmentation


def predicted(tmp_path, task, apply, pattern):
    predictor = Predictor(stub(apply, task), scale="native")
    output = parse_output(str(tmp_path / pattern), task)
    video = noise(9, 24, 32, 3)
    predict_to_files(predictor, open_source(video), output)
    return np.concatenate([chunk.values for chunk in predictor.chunks(video)])


NAMES = ("sky", "ground", "solid, porous", "Bäume")
LABELS = Segmentation(NAMES)
CLASSES = lambda p, v: jax.nn.one_hot(v[..., 0] % 4, 4)


def test_label_pictures_have_colours_for_people_and_numbers_for_programs(tmp_path):
    labels = predicted(tmp_path, LABELS, CLASSES, "out/%d.png")
    assert len(np.unique(labels)) == 4
    notes = json.loads((tmp_path / "out" / "labels.json").read_text(encoding="utf-8"))["labels"]
    assert [entry["index"] for entry in notes] == [0, 1, 2, 3]
    assert tuple(entry["name"] for entry in notes) == NAMES
    table = np.array([entry["color"] for entry in notes])
    np.testing.assert_array_equal(table, LABELS.label_colors)
    for number in (0, 8):
        with PIL.Image.open(tmp_path / f"out/{number}.png") as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(image, labels[number])
            np.testing.assert_array_equal(image.convert("RGB"), table[labels[number]])


def test_label_pictures_are_read_again_as_their_numbers(tmp_path):
    """Also where a dataset has the same colours for other classes."""
    labels = predicted(tmp_path, LABELS, CLASSES, "out/%d.png")
    picture = Picture(tmp_path / "out" / "3.png")
    assert picture.kind == "palette" and picture.only_numbers
    np.testing.assert_array_equal(picture.numbers(), labels[3])
    for colors in (None, LABELS.label_colors, LABELS.label_colors[::-1]):
        table = ClassTable.make(NAMES, colors)
        found = class_mask(Picture(tmp_path / "out" / "3.png"), table)
        np.testing.assert_array_equal(found, labels[3])
    found = object_mask(Picture(tmp_path / "out" / "3.png"), (24, 32), (24, 32))
    np.testing.assert_array_equal(found, labels[3] != 0)
    # Another program's palette picture still goes by its colours.
    other = PIL.Image.open(tmp_path / "out" / "3.png")
    other.save(tmp_path / "other.png")  # without the text
    assert not Picture(tmp_path / "other.png").only_numbers
    table = ClassTable.make(NAMES, LABELS.label_colors[::-1])
    np.testing.assert_array_equal(class_mask(Picture(tmp_path / "other.png"), table), 3 - labels[3])


def test_predicted_labels_can_be_learned_from(tmp_path):
    """A folder of them takes the place of masks, also where there is void among the classes."""
    save = lambda path, frame: PIL.Image.fromarray(frame).save(path)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "labels").mkdir(exist_ok=True)
        labels = predicted(tmp_path / "labels", LABELS, CLASSES, f"{name}/%d.png")
        for number, frame in enumerate(noise(9, 24, 32, 3)):
            save(tmp_path / "images" / name / f"{number}.png", frame)
    names = ("sky", "ground", "Void", "solid", "trees")
    lines = [f"{9 * i} {9 * i} 0\t{name}\n" for i, name in enumerate(names)]
    (tmp_path / "label_colors.txt").write_text("".join(lines))
    (tmp_path / "train.txt").write_text("a\n")
    (tmp_path / "test.txt").write_text("b\n")
    dataset = FrameFolder(tmp_path, "test", frame_size=(24, 32), min_frames=8)
    assert dataset.label_names == ("sky", "ground", "solid", "trees")
    np.testing.assert_array_equal(dataset.read(0, 0, 9, ("labels",))["labels"], labels)


def test_depth_and_flow_pictures_say_their_scale(tmp_path):
    far = lambda p, v: v.astype(jnp.float32)[..., :1] / 99
    depth = predicted(tmp_path, Depth(), far, "d/%d.png")
    notes = json.loads((tmp_path / "d" / "depth.json").read_text())
    assert notes["unit"] == "metre"
    numbers = np.asarray(PIL.Image.open(tmp_path / "d" / "4.png"))
    np.testing.assert_allclose(numbers / notes["steps_per_unit"], depth[4], atol=0.003)
    move = lambda p, v: v.astype(jnp.float32)[..., :2] / 99 - 1
    flow = predicted(tmp_path, Flow(), move, "f/%d.png")
    notes = json.loads((tmp_path / "f" / "flow.json").read_text())
    with av.open(str(tmp_path / "f" / "4.png")) as file:
        (frame,) = file.decode(video=0)
    numbers = frame.to_ndarray(format="rgb48le").astype(float)
    found = (numbers[..., :2] - notes["zero"]) / notes["steps_per_unit"]
    assert (numbers[..., 2] == 1).all()
    np.testing.assert_allclose(found, flow[4], atol=0.01)
    predicted(tmp_path, Flow(), move, "flo/%d.flo")
    assert all(path.suffix == ".flo" for path in (tmp_path / "flo").iterdir())


def test_notes_of_our_own_are_replaced_and_others_stay(tmp_path, caplog):
    predicted(tmp_path, LABELS, CLASSES, "out/%d.png")
    before = (tmp_path / "out" / "labels.json").read_text()
    predicted(tmp_path, Segmentation("wxyz"), CLASSES, "out/%d.png")
    after = (tmp_path / "out" / "labels.json").read_text()
    assert '"w"' in after and after != before and not caplog.records
    for other in ('{"labels": ["mine"]}', "no JSON", "[1]"):
        (tmp_path / "out" / "labels.json").write_text(other)
        caplog.clear()
        predicted(tmp_path, LABELS, CLASSES, "out/%d.png")
        assert (tmp_path / "out" / "labels.json").read_text() == other
        assert "labels.json was written by another program" in caplog.text
        assert len(list((tmp_path / "out").iterdir())) == 10
