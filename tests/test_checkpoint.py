"""Checkpoints: which are kept, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import tiny_config
from v2v_jax import evaluate as evaluation
from v2v_jax.checkpoint import Checkpoints
from v2v_jax.errors import CheckpointError

ABOUT = {
    "task": "segmentation",
    "num_outputs": 8,
    "label_names": ["sky"],
    "model": {"name": "v2v", "width": 1.0},
    "preprocessing": {"crop_size": [112, 112]},
    "version": "1",
}


def make_state(value: float):
    return {
        "step": jnp.int32(value),
        "params": {"kernel": jnp.linspace(0, value, 600).reshape(20, 30), "bias": jnp.ones(3)},
    }


def opened(folder, about=ABOUT, better="max") -> Checkpoints:
    return Checkpoints(folder, about, headline="score", better=better)


def save(folder, scores, better="max"):
    with opened(folder, better=better) as checkpoints:
        for step, score in enumerate(scores, 1):
            checkpoints.save(make_state(step), step, {"score": score})


@pytest.mark.parametrize("better, best", [("max", 2), ("min", 3)])
def test_latest_and_best_are_kept(tmp_path, better, best):
    save(tmp_path, [0.5, 0.9, 0.1, 0.3, 0.4], better)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {str(best), "5"}
    with opened(tmp_path, better=better) as checkpoints:  # from disk
        assert (checkpoints.best_step(), checkpoints.latest_step()) == (best, 5)


@pytest.mark.parametrize("better", ["max", "min"])
def test_a_score_that_is_not_a_number_is_not_the_best(tmp_path, better):
    save(tmp_path, [float("nan"), 0.5, float("nan")], better)
    with opened(tmp_path, better=better) as checkpoints:
        assert (checkpoints.best_step(), checkpoints.latest_step()) == (2, 3)


def test_restore_gives_equal_arrays(tmp_path):
    save(tmp_path, [0.1])
    with opened(tmp_path) as checkpoints:
        restored = checkpoints.restore(1, make_state(0))
        assert checkpoints.read_about(1).items() >= ABOUT.items()
    jax.tree.map(np.testing.assert_array_equal, restored, make_state(1))
    assert jax.tree.map(lambda x: x.dtype, restored) == jax.tree.map(
        lambda x: x.dtype, make_state(1)
    )


@pytest.mark.parametrize(
    "key, value, named",
    [
        ("num_outputs", 2, ("num_outputs is 8", "2")),
        ("task", "flow", ("'segmentation'", "'flow'")),
        ("model", {"name": "v2v", "width": 0.5}, ("'width': 1.0", "'width': 0.5")),
        ("preprocessing", {"crop_size": [64, 64]}, ("[112, 112]", "[64, 64]")),
    ],
)
def test_another_experiment_is_refused(tmp_path, key, value, named):
    save(tmp_path, [0.1])
    with opened(tmp_path, ABOUT | {key: value}) as checkpoints:
        with pytest.raises(CheckpointError) as error:
            checkpoints.restore(1, make_state(0))
    for text in (*named, key, str(tmp_path / "checkpoints" / "1")):
        assert text in str(error.value)


def test_flipped_bit_is_noticed(tmp_path):
    """In any data file that is large enough to hold the weights."""
    save(tmp_path, [0.1])
    data = [p for p in (tmp_path / "checkpoints" / "1" / "state").rglob("*") if p.is_file()]
    file = max(data, key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with opened(tmp_path) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.restore(1, make_state(0))
    assert "damaged" in str(error.value) and str(tmp_path) in str(error.value)


def test_folder_without_content_is_named(tmp_path):
    save(tmp_path, [0.1])
    (tmp_path / "checkpoints" / "7").mkdir()
    with opened(tmp_path) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.restore(checkpoints.latest_step(), make_state(0))
    assert str(tmp_path / "checkpoints" / "7") in str(error.value)
    assert "delete that folder" in str(error.value)


def test_half_written_checkpoint_is_not_counted(tmp_path):
    """orbax writes under a temporary name, which a killed run leaves behind."""
    save(tmp_path, [0.2, 0.1])
    folder = tmp_path / "checkpoints"
    (folder / "2").rename(folder / "2.orbax-checkpoint-tmp")
    with opened(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == checkpoints.best_step() == 1


@pytest.mark.parametrize("left", [None, "checkpoints", "checkpoints/3.orbax-checkpoint-tmp"])
def test_evaluation_without_checkpoint(tmp_path, left):
    if left:
        (tmp_path / left).mkdir(parents=True)
    with pytest.raises(CheckpointError, match="No .*checkpoint in .*train first") as error:
        evaluation.evaluate(tiny_config(), tmp_path)
    assert str(tmp_path) in str(error.value)
    assert not (tmp_path / "eval").exists()


def test_folder_that_cannot_be_created(tmp_path):
    file = tmp_path / "run"
    file.write_text("")
    with pytest.raises(CheckpointError, match="Cannot create the folder .*another --workdir"):
        opened(file)
