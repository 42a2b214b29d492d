"""Whole sequences of DAVIS at their own size."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from v2v_jax.datasets.readers.davis import Davis
from v2v_jax.inference import sequence_evaluation
from v2v_jax.run import recipes

REAL = os.path.join(os.environ.get("V2V_REAL_DATA", ""), "davis2016")


def write_sequence(root, name, size, count=16):
    """A bright square that moves a pixel a frame to the right, and its mask."""
    for t in range(count):
        mask = np.zeros(size, np.uint8)
        mask[4:14, 2 + t : 12 + t] = 255
        for folder, extension, picture in (
            ("JPEGImages", "jpg", np.repeat(mask[..., None], 3, -1)),
            ("Annotations", "png", mask),
        ):
            path = root / folder / "480p" / name / f"{t:05d}.{extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)


class Bright:
    """Predicts what is bright; of the sequence `late`, where it was a frame before."""

    label_names = ("background", "foreground")

    def stream(self, frames):
        masks = [(frame[..., 0] > 127).astype(np.uint8) for frame in frames]
        late = masks[0].shape == (24, 40)
        yield from [masks[0], *masks[:-1]] if late else masks


def test_every_sequence_at_its_own_size(tmp_path, monkeypatch, capsys):
    for name, size in (("train", (24, 32)), ("right", (24, 32)), ("late", (24, 40))):
        write_sequence(tmp_path / "davis", name, size)
    dataset = Davis(tmp_path / "davis", "test", held_out=("right", "late"))
    assert dataset.native_masks(0).shape == (16, 24, 40)
    found = sequence_evaluation.measure_sequences(Bright(), dataset)
    assert found["right"]["J"] == (1.0, 1.0, 0.0) and found["right"]["F"].mean == 1.0
    assert found["late"]["J"].mean == pytest.approx(9 / 11)  # a square of 10 px, a pixel behind

    config = recipes.make_config(
        "segmentation", recipes.parse_arg("dataset=davis"), num_steps=1, learning_rate=1e-3
    )
    config.data.root, config.data.held_out = str(tmp_path / "davis"), "right,late"
    monkeypatch.setattr(sequence_evaluation, "read_network", lambda workdir: workdir)
    monkeypatch.setattr(sequence_evaluation, "Predictor", lambda network: Bright())
    sequence_evaluation.evaluate_sequences(config, tmp_path)
    written = json.loads((tmp_path / "eval" / "sequences.json").read_text())
    assert written["sequences"]["late"]["J"]["mean"] == pytest.approx(9 / 11)
    assert written["summary"]["J"]["mean"] == pytest.approx((1 + 9 / 11) / 2)
    assert "late" in capsys.readouterr().out


def test_other_datasets_have_no_such_measure(tmp_path):
    config = recipes.make_config(
        "segmentation", recipes.parse_arg(""), num_steps=1, learning_rate=1e-3
    )
    assert sequence_evaluation.evaluate_sequences(config, tmp_path) is None


@pytest.mark.skipif(not os.path.isdir(REAL), reason="V2V_REAL_DATA has no DAVIS 2016")
def test_davis_as_it_is():
    """Its own mask with an alpha channel (bear/00077) is one like the others."""
    train, test = Davis(REAL, "train"), Davis(REAL, "test")
    assert (len(train.videos), len(test.videos)) == (30, 20)
    assert train.videos[0].name == "bear"
    masks = train.native_masks(0)
    assert masks.shape == (82, 180, 320) and set(np.unique(masks)) == {0, 1}
    share = masks.mean((1, 2))
    assert abs(share[77] - share[76]) < 0.01
