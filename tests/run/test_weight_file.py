"""Weights in 8, 16 and 32 bits: how far off they are, that damage is noticed, who reads them."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest

import v2v_jax
from tests.tiny import SMALLEST, tiny_config
from v2v_jax.cli import commands
from v2v_jax.errors import CheckpointError, ConfigError
from v2v_jax.inference.network import from_checkpoint, read_network
from v2v_jax.inference.predictor import Predictor
from v2v_jax.pretrained import read_weights as read_any_weights
from v2v_jax.run import weight_file
from v2v_jax.run.experiment import make_experiment
from v2v_jax.run.weight_file import StoredWeights, read_weights, write_weights
from v2v_jax.training import fine_tuning

pytestmark = pytest.mark.usefixtures("compilation_cache")


def random_params(seed=0):
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((3, 3, 3, 2, 5)) * np.exp(rng.normal(0, 2, 5))  # uneven outputs
    kernel[..., 3] = 0
    layer = {"kernel": kernel.astype(np.float32), "bias": rng.standard_normal(5)}
    return {"conv2a": {name: np.float32(value) for name, value in layer.items()}}


@pytest.mark.parametrize("bits", weight_file.BITS)
def test_how_far_off_they_are(tmp_path, bits):
    weights = StoredWeights(random_params(), {"task": "x"}, 7, bits)
    write_weights(tmp_path / "w", weights)
    found = read_weights(tmp_path / "w")
    assert (found.about, found.step, found.bits) == ({"task": "x"}, 7, bits)
    kernel, bias = (weights.params["conv2a"][name] for name in ("kernel", "bias"))
    read = found.params["conv2a"]
    assert read["kernel"].dtype == read["bias"].dtype == np.float32
    off = np.abs(np.float64(read["kernel"]) - kernel)
    half_a_unit = np.abs(np.float64(kernel)).max((0, 1, 2, 3)) / 254
    largest = {8: half_a_unit * (1 + 1e-5), 16: np.abs(kernel) * 2.0**-11 + 2.0**-25, 32: 0.0}
    assert (off <= largest[bits]).all()
    np.testing.assert_allclose(read["bias"], bias, rtol=2.0**-11 if bits < 32 else 0)
    if bits == 8:  # a byte a weight, and what is said about them
        large = {"conv2a": {"kernel": np.ones((3, 3, 3, 64, 64), np.float32)}}
        rng = np.random.default_rng(0)
        large["conv2a"]["kernel"] *= rng.standard_normal((3, 3, 3, 64, 64), np.float32)
        write_weights(tmp_path / "large", dataclasses.replace(weights, params=large))
        assert (tmp_path / "large").stat().st_size < 1.02 * large["conv2a"]["kernel"].size
    again = tmp_path / "again"
    write_weights(again, weights)
    assert again.read_bytes() == (tmp_path / "w").read_bytes()


def test_quantized_kernels_are_the_nearest_integers():
    kernel = random_params(1)["conv2a"]["kernel"]
    codes, scales = weight_file.quantize(kernel)
    assert codes.dtype == np.int8 and scales.shape == (5,) and scales[3] == 1
    for out in (0, 1, 2, 4):
        wide = np.float64(kernel[..., out])
        assert np.abs(codes[..., out]).max() == 127
        np.testing.assert_allclose(scales[out], np.abs(wide).max() / 127, rtol=1e-6)
        assert np.abs(codes[..., out] - wide / scales[out]).max() <= 0.5 + 1e-4


def test_the_first_layer_has_sixteen_bits_among_eight(tmp_path):
    """It is off by half of the last of float16's eleven bits at most, and has no scales."""
    layer = random_params()["conv2a"]
    weights = StoredWeights({"conv1a": layer, "conv2a": layer}, {}, None, 8)
    write_weights(tmp_path / "w", weights)
    found = read_weights(tmp_path / "w").params
    off = np.abs(np.float64(found["conv1a"]["kernel"]) - layer["kernel"])
    assert (off <= np.abs(layer["kernel"]) * 2.0**-11 + 2.0**-25).all()
    assert np.abs(found["conv2a"]["kernel"] - layer["kernel"]).max() > 10 * off.max()
    with zipfile.ZipFile(tmp_path / "w") as archive:
        assert sorted(n for n in archive.namelist() if "scales" in n) == [
            "scales/conv2a/kernel.npy"
        ]


def test_what_cannot_be_stored(tmp_path):
    params = random_params()
    for value, bits in ((np.nan, 8), (1e5, 16), (np.inf, 32)):
        kernel = params["conv2a"]["kernel"].copy()
        kernel[0, 0, 0, 0, 0] = value
        wrong = {"conv2a": params["conv2a"] | {"kernel": kernel}}
        with pytest.raises(CheckpointError, match="not finite"):
            write_weights(tmp_path / "w", StoredWeights(wrong, {}, None, bits))
    with pytest.raises(ConfigError, match="bits is 4; known: 8, 16, 32"):
        write_weights(tmp_path / "w", StoredWeights(params, {}, None, 4))
    assert not list(tmp_path.iterdir())


def test_damage_is_noticed(tmp_path):
    path = tmp_path / "w"
    write_weights(path, StoredWeights(random_params(), {"task": "x"}, 7, 8))
    intact = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(intact), 40):
        damaged = bytearray(intact)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = read_weights(path)
        except CheckpointError as error:
            assert "again" in str(error)
        else:  # a date or an attribute of the archive, which nobody reads
            for layer, leaves in random_params().items():
                assert found.params[layer]["kernel"].shape == leaves["kernel"].shape
    path.write_bytes(intact[: len(intact) // 2])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_weights(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("about.json", json.dumps({"kind": "weights", "format": 9, "version": "7"}))
    with pytest.raises(CheckpointError, match="format 9, written by version 7"):
        read_weights(path)
    assert weight_file.is_weights(path) and not weight_file.is_weights(__file__)


# ------------------------------------------------------------------------------------------------
# Of a run


@pytest.fixture(scope="module")
def stored(trained, tmp_path_factory):
    """(checkpoint's network, its file in 8 bits, which the command wrote)."""
    path = tmp_path_factory.mktemp("stored") / "seg.v2v"
    workdir = trained("seg").workdir
    arguments = [f"--checkpoint={workdir}", f"--output={path}", "--bits=8"]
    assert commands.execute(["export", *arguments]) == 0
    return from_checkpoint(workdir), path


def test_a_file_predicts_as_the_checkpoint_does(stored):
    network, path = stored
    loaded = v2v_jax.load(path, batch_size=1)
    assert loaded.network.step == network.step and loaded.network.any_size
    assert loaded.label_names == network.task.label_names
    video = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    expected = Predictor(network, batch_size=1).probabilities(video)
    np.testing.assert_allclose(loaded.probabilities(video), expected, atol=0.05)


def test_a_run_starts_from_a_file(stored, trained):
    network, path = stored
    config = tiny_config("seg", SMALLEST, init_from=str(path))
    weights = read_any_weights(path)
    assert weights.format == "8-bit weights (segmentation)"
    experiment = make_experiment(config, "train")
    state = fine_tuning.initialize(experiment, experiment.init_state())
    kernel = np.asarray(state.params["conv2a"]["kernel"])
    np.testing.assert_array_equal(kernel, read_weights(path).params["conv2a"]["kernel"])
    np.testing.assert_allclose(kernel, network.params["conv2a"]["kernel"], atol=0.02)


def test_weights_of_another_network(stored, tmp_path, capsys):
    weights = read_weights(stored[1])
    del weights.params["conv2a"]
    write_weights(tmp_path / "w", dataclasses.replace(weights, bits=16))
    wrong = Predictor(read_network(tmp_path / "w"))
    with pytest.raises(CheckpointError, match="has other layers than its record says"):
        wrong(np.zeros((8, 32, 32, 3), np.uint8))
    write_weights(tmp_path / "v", dataclasses.replace(weights, about={"task": "segmentation"}))
    with pytest.raises(CheckpointError, match="cannot be used by version"):
        read_network(tmp_path / "v")
    arguments = [f"--checkpoint={stored[1]}", f"--output={tmp_path}/x"]
    arguments += ["--bits=8", "--dtype=float32"]
    assert commands.execute(["export", *arguments]) == 1
    assert "with --bits leave it out" in capsys.readouterr().err
