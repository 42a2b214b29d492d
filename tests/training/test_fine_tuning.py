"""--config.init_from: what is filled, what stays, freezing, resuming; errors that are a remedy."""

import json
import re

import jax
import numpy as np
import pytest

from tests.tiny import tiny_config
from v2v_jax.errors import ConfigError, WeightsError
from v2v_jax.models.c3d import TRUNK_LAYERS
from v2v_jax.models.standardization import GAIN, fold, plain_layers
from v2v_jax.pretrained import read_weights
from v2v_jax.pretrained.folders import write_folder
from v2v_jax.pretrained.weights import Weights
from v2v_jax.run.checkpoint import Checkpoints
from v2v_jax.run.experiment import make_experiment
from v2v_jax.run.which_checkpoint import find_checkpoint
from v2v_jax.training import fine_tuning
from v2v_jax.training.loop import train_and_evaluate

HEADLINE = {"headline": "accuracy", "better": "max"}
pytestmark = pytest.mark.usefixtures("compilation_cache")


def arrays(tree):
    return jax.tree.map(np.asarray, tree)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, arrays(a), arrays(b))


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A converted folder: V2V's standardised weights for segmentation, no leaf as it started."""
    experiment = make_experiment(tiny_config(), "train")
    rng = np.random.default_rng(0)
    move = lambda x: np.asarray(x) + np.float32(0.01) * rng.standard_normal(x.shape, np.float32)
    params = jax.tree.map(move, experiment.init_state().params)
    folder = tmp_path_factory.mktemp("weights") / "seg"
    write_folder(Weights(params, experiment.preprocessing, "test", "moved"), folder)
    return folder


def test_a_run_gives_the_parameters_of_its_best_checkpoint(trained, tmp_path):
    run = trained("seg")
    weights = read_weights(run.workdir)
    write_folder(weights, tmp_path / "converted")
    best = re.fullmatch(r"step (\d+) of a run \(segmentation\)", weights.format)[1]
    assert (run.workdir / "checkpoints" / best).is_dir()
    experiment = make_experiment(run.config, "test")
    from v2v_jax.evaluation.evaluator import best_params

    step, params = best_params(experiment, run.workdir)
    assert step == int(best)
    assert_equal(weights.params, params)
    assert_equal(read_weights(run.workdir / "checkpoints" / best).params, params)
    again = read_weights(tmp_path / "converted")
    assert_equal(again.params, params)
    for key in ("color_order", "mean", "std"):
        assert getattr(again.preprocessing, key) == getattr(experiment.preprocessing, key)


@pytest.mark.slow
def test_frozen_layers_stay_and_resuming_needs_no_weights(trained, converted, tmp_path, capsys):
    source = read_weights(converted).params
    config = tiny_config(
        "flow",
        num_steps=2,
        eval_every=2,
        init_from=str(converted),
        optimizer__freeze="conv1a,conv2a, deconv5",
        optimizer__trunk_multiplier=0.1,
    )
    workdir = tmp_path / "run"
    train_and_evaluate(config, workdir)
    output = capsys.readouterr().out
    for pattern in (
        r"conv1a .*filled",
        r"conv_pre .*3×3×3×3×8 .*3×3×3×3×2 .*random \(shapes differ\)",
    ):
        assert re.search(pattern, output), output
    trained_params = read_weights(workdir).params
    for name in source:
        same = np.array_equal(trained_params[name]["kernel"], source[name]["kernel"], False)
        assert same == (name in ("conv1a", "conv2a", "deconv5")), name
        same_bias = np.array_equal(trained_params[name]["bias"], source[name]["bias"], False)
        assert same_bias or name not in ("conv1a", "conv2a", "deconv5")
    about = json.loads((workdir / "config.json").read_text())
    assert about["init_from"] == str(converted)

    converted.rename(tmp_path / "gone")
    try:
        config.num_steps = 3
        train_and_evaluate(config, workdir)
        assert "Resuming after step 2 of 3" in capsys.readouterr().out
        with pytest.raises(WeightsError, match="cannot be read"):
            train_and_evaluate(config, tmp_path / "new")
    finally:
        (tmp_path / "gone").rename(converted)
    assert_equal(read_weights(workdir).params["conv1a"], source["conv1a"])


def test_frozen_layers_have_no_state_and_no_gradient():
    config = tiny_config(optimizer__freeze="trunk")
    experiment = make_experiment(config, "train")
    state = experiment.abstract_state()
    paths = {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state.opt_state)}
    assert any("deconv5" in path for path in paths)
    assert not any(layer in path for path in paths for layer in TRUNK_LAYERS)
    params = {"conv1a": {"kernel": np.ones(3)}, "conv_pre": {"kernel": np.ones(3)}}
    gradient = jax.grad(
        lambda p: sum(leaf.sum() for leaf in jax.tree.leaves(experiment.stop_frozen(p)))
    )(params)
    assert_equal(gradient["conv1a"]["kernel"], np.zeros(3))
    assert_equal(gradient["conv_pre"]["kernel"], np.ones(3))


def start(config):
    experiment = make_experiment(config, "train")
    before = experiment.init_state()
    return before, fine_tuning.initialize(experiment, before)


def test_layers_that_are_not_in_the_file_keep_their_random_start(converted, tmp_path, capsys):
    weights = read_weights(converted)
    kept = {name: weights.params[name] for name in TRUNK_LAYERS if name != "conv4b"}
    kept["fc6"] = {"kernel": np.ones((4, 2), np.float32), "bias": np.ones(2, np.float32)}
    write_folder(Weights(kept, weights.preprocessing, "test", "trunk"), tmp_path / "trunk")
    before, after = start(tiny_config(init_from=str(tmp_path / "trunk")))
    for name in before.params:
        expected = kept.get(name, before.params[name])
        assert_equal(after.params[name], expected)
    assert_equal(after.opt_state, before.opt_state)
    output = capsys.readouterr().out
    assert re.search(r"conv4b .*random \(not in the file\)", output)
    assert re.search(r"fc6 .*4×2 .*left over", output)


def test_another_input_is_folded_or_named(converted):
    params = read_weights(converted).params
    same = {"preprocessing.mean": (90.3, 97.7, 101.4), "preprocessing.color_order": "bgr"}
    config = tiny_config(init_from=str(converted))
    config.update_from_flattened_dict(same | {"preprocessing.std": (1.0, 2.0, 3.0)})
    _, after = start(config)
    kernel = np.asarray(fold(params)["conv1a"]["kernel"])
    expected = kernel[..., ::-1, :] * (np.array([[1], [2], [3]]) / 60)
    np.testing.assert_allclose(after.params["conv1a"]["kernel"], expected, rtol=1e-6)
    assert_equal(after.params["conv1a"]["bias"], params["conv1a"]["bias"])
    config.preprocessing.mean = (90.0, 98.0, 102.0)
    with pytest.raises(ConfigError, match=r"mean \(90.3,97.7,101.4\) .* from BGR, .* set --config"):
        start(config)


def outputs(experiment, params):
    clip = jax.random.normal(jax.random.key(0), (1, 8, 32, 32, 3))
    return np.asarray(jax.jit(experiment.model.apply)({"params": params}, clip))


@pytest.fixture(scope="module")
def plain(converted, tmp_path_factory):
    """The run's weights as a folder of plain ones, as they come from other programs."""
    weights = read_weights(converted)
    folder = tmp_path_factory.mktemp("plain") / "weights"
    params = {n: arrays(layer) for n, layer in fold(weights.params).items()}
    write_folder(Weights(params, weights.preprocessing, "test", "plain"), folder)
    return folder


def test_plain_weights_stay_plain_and_exact(plain, tmp_path, capsys):
    config = tiny_config(init_from=str(plain), optimizer__freeze="conv1a")
    source = read_weights(plain).params
    _, after = start(config)
    assert re.search(r"conv2a .*filled, stays plain", capsys.readouterr().out)
    assert_equal(after.params, source)
    assert plain_layers(after.params) == list(after.params)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(after.opt_state)]
    assert any("deconv3" in path for path in paths) and not any(GAIN in path for path in paths)

    # A checkpoint of it is read back, although new parameters have gains.
    experiment = make_experiment(config, "train")
    assert "gain" in experiment.init_state().params["conv2a"]
    with Checkpoints(tmp_path, experiment.about, **HEADLINE, writable=True) as checkpoints:
        checkpoints.save(after, 1)
        checkpoints.wait()
        state, step = checkpoints.restore_latest(experiment.abstract_state())
    assert step == 1
    assert_equal(state, after)
    assert_equal(find_checkpoint(tmp_path).params(experiment.abstract_state().params), source)


def test_standardised_weights_stay_so_or_are_folded(converted, capsys):
    source = read_weights(converted).params
    config = tiny_config(init_from=str(converted))
    _, after = start(config)
    assert_equal(after.params, source)
    assert "stays plain" not in capsys.readouterr().out
    config.model.standardized = False
    _, folded = start(config)
    assert_equal(folded.params, fold(source))
    experiment = make_experiment(config, "train")
    np.testing.assert_allclose(
        outputs(experiment, folded.params), outputs(experiment, after.params), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("change", [{"model__width": 0.1}, {"model__name": "v2v_2d"}])
def test_weights_of_another_network_are_named(converted, change):
    config = tiny_config(init_from=str(converted), **change)
    experiment = make_experiment(config, "train")
    shapes = experiment.abstract_state()
    with pytest.raises(WeightsError, match=r"No layer .* fits: the kernel of \w+ is [\d×]+ there"):
        fine_tuning.initialize(experiment, shapes)


def test_folders_without_weights_are_named(tmp_path):
    with pytest.raises(WeightsError, match="holds no usable weights.*No checkpoint in"):
        read_weights(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(WeightsError, match="No finished checkpoint"):
        read_weights(tmp_path)


def test_damaged_folders_are_named(converted, tmp_path):
    weights = read_weights(converted)
    folder = tmp_path / "copy"
    write_folder(weights, folder)
    with pytest.raises(WeightsError, match="exists; choose another"):
        write_folder(weights, folder)
    data = bytearray((folder / "weights.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "weights.npz").write_bytes(data)
    with pytest.raises(WeightsError, match="SHA-256 sum is wrong"):
        read_weights(folder)
    (folder / "about.json").write_text("{")
    with pytest.raises(WeightsError, match="about.json is damaged"):
        read_weights(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
