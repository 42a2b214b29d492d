"""The benchmarks run and write what they promise; nothing here looks at a time."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import layers, network, predict, serving, serving_work
from v2v_jax.models import V2V

pytestmark = pytest.mark.slow  # full-size layers on a CPU


def test_network(tmp_path, capsys):
    path = tmp_path / "figures.json"
    options = ["--rounds=1", "--seconds=0.1", f"--json={path}"]
    has_pytorch = importlib.util.find_spec("torch") is not None
    if not has_pytorch:
        options.append("--no_pytorch")
    network.main([*options, "--batch", "1", "--jobs", "forward"])
    written = json.loads(path.read_text())
    assert written["environment"]["dtype"] == "float32"
    names = [row["implementation"] for row in written["rows"]]
    assert names[0] == "v2v_jax"
    assert ("PyTorch eager" in names) == has_pytorch
    assert all(row["milliseconds"] > 0 for row in written["rows"])
    assert "| forward | 1 | v2v_jax |" in capsys.readouterr().out


def test_predict(tmp_path, capsys):
    path = tmp_path / "figures.json"
    options = ["--random=0.05", "--frames=20", "--size=48x64", "--repeats=1"]
    predict.main([*options, f"--output={path}"])
    written = json.loads(path.read_text())
    assert written["video"] == "20 frames of 48x64" and written["whole_of_slowest"] > 0
    assert set(written["fps"]) == {"decode", "network", "encode", "whole"}
    assert "| network |" in capsys.readouterr().out


def test_serving(tmp_path, capsys):
    path = tmp_path / "figures.json"
    options = ["--width=0.05", "--videos=2", "--frames=9", "--size=48x64", "--threads=2"]
    options += ["--at_once=2", "--mp4_frames=9", "--repeats=1", f"--folder={tmp_path}"]
    assert serving.main([*options, f"--output={path}"]) == 0
    written = json.loads(path.read_text())
    parts = [row["part"] for row in written["flow"]]
    assert parts == ["decode", *["network", "write", "whole"] * 2, "whole", "before"]
    assert [row["frames"] for row in written["flow"]] == [18] * 7 + [9] * 2
    assert [row["frames"] for row in written["mp4"]] == [9, 9, *[9, 9, 18] * 3]
    assert all(row["fps"] > 0 for rows in (written["flow"], written["mp4"]) for row in rows)
    assert "of the slower of decode and write alone" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["figures.json"]


def test_serving_by_processes(tmp_path, capsys):
    path = tmp_path / "figures.json"
    options = ["--width=0.05", "--videos=3", "--frames=9", "--size=48x64", "--threads=4"]
    options += ["--at_once=2", "--mp4_frames=9", "--repeats=1", f"--folder={tmp_path}", "--profile"]
    options += ["--parts", "flow_processes", "mp4_processes", "--processes", "1", "2"]
    assert serving.main([*options, f"--output={path}"]) == 0
    written = json.loads(path.read_text())
    flow, mp4 = written["flow_processes"], written["mp4_processes"]
    assert [row["part"] for row in flow] == [*serving_work.FLOW * 2, "whole"]
    assert [row["part"] for row in mp4] == [*serving_work.MP4 * 2]
    assert [row["processes"] for row in flow] == [*[1] * 4, *[2] * 4, 1]
    assert [row["frames"] for row in flow] == [*[27] * 8, 9]
    assert {row["frames"] for row in mp4} == {18}
    assert all(row["fps"] > 0 for row in (*flow, *mp4))
    assert all(row["samples"]["samples"] > 0 for row in (*flow, *mp4))
    printed = capsys.readouterr().out
    assert "--processes=2, whole: " in printed and "the sampler had Python's lock" in printed
    assert [p.name for p in tmp_path.iterdir()] == ["figures.json"]


@pytest.mark.parametrize("standardized", [False, True])
def test_pytorch_network_is_the_same_network(standardized):
    torch = pytest.importorskip("torch")
    from benchmarks.pytorch_v2v import PyTorchV2V

    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 8, 32, 32, 3)).astype(np.float32)
    model, theirs = V2V(8, standardized=standardized), PyTorchV2V(8, standardized)
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    assert sum(p.numel() for p in theirs.parameters()) == sum(
        map(jnp.size, jax.tree.leaves(params))
    )
    params["conv_pre"]["kernel"] += 0.02 * rng.standard_normal((3, 3, 3, 64, 8))  # starts at zero
    with torch.no_grad():
        for name, layer in params.items():
            # (T,H,W,in,out) → (out,in,T,H,W), transposed convolutions (in,out,T,H,W).
            order = (3, 4, 0, 1, 2) if name.startswith("deconv") else (4, 3, 0, 1, 2)
            kernel = np.asarray(layer["kernel"], np.float32).transpose(order)
            own = dict(getattr(theirs, name).named_parameters())
            weight = own.get("weight", own.get("parametrizations.weight.original"))
            weight.copy_(torch.from_numpy(kernel.copy()))
            own["bias"].copy_(torch.from_numpy(np.array(layer["bias"])))
            if "gain" in layer:
                gain = 1 + 0.1 * rng.standard_normal(layer["gain"].shape).astype(np.float32)
                layer["gain"] = jnp.asarray(gain)
                theirs_gain = own["parametrizations.weight.0.gain"]
                theirs_gain.copy_(torch.from_numpy(gain).reshape(theirs_gain.shape))
        expected = theirs(torch.from_numpy(x.transpose(0, 4, 1, 2, 3).copy())).numpy()
    y = np.asarray(jax.jit(model.apply)({"params": params}, x)).transpose(0, 4, 1, 2, 3)
    assert np.linalg.norm(y - expected) < 1e-4 * np.linalg.norm(expected)


def test_layers(tmp_path, capsys):
    path = tmp_path / "figures.json"
    layers.main(["--layers", "conv5a", "--forms", "per_tap", f"--json={path}"])
    records = json.loads(path.read_text())
    jobs = [r["job"] for r in records if r["layer"] == "conv5a"]
    assert jobs == ["forward", "input gradient", "weight gradient"]
    assert all(r["as built"] > 0 and r["floor"] > 0 for r in records if "job" in r)
    assert "| conv5a | forward |" in capsys.readouterr().out
