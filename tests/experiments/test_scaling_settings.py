"""Scaling under settings of a process: what the processes are told, and what is said of them."""

import json
import re

import jax
import jax.numpy as jnp
import pytest

from experiments import scaling, scaling_settings
from experiments.scaling_settings import SETTINGS


def test_multicast_is_never_switched_on():
    """Whatever the parent's environment says; and no setting names it."""
    for setting in SETTINGS.values():
        own = scaling_settings.environment({"NCCL_NVLS_ENABLE": "1"}, setting)
        assert own["NCCL_NVLS_ENABLE"] == "0"
    assert not re.search("nvls|multicast|symmetric|collective_kernels", str(SETTINGS).lower())


def test_flags_are_added_to_those_there_are():
    parent = {"XLA_FLAGS": "--a=1", "HOME": "x"}
    own = scaling_settings.environment(parent, {"XLA_FLAGS": "--b=2", "NCCL_PROTO": "Simple"})
    assert own["XLA_FLAGS"] == "--a=1 --b=2" and own["NCCL_PROTO"] == "Simple"
    assert own["HOME"] == "x" and parent["XLA_FLAGS"] == "--a=1"
    assert scaling_settings.environment({}, {})["XLA_FLAGS"] == ""


@pytest.mark.parametrize("name", [n for n, setting in SETTINGS.items() if "XLA_FLAGS" in setting])
def test_flags_are_known(name):
    """XLA ends a process that has an unknown one; as an option of a program it can be asked for."""
    for flag in SETTINGS[name]["XLA_FLAGS"].split():
        option, value = flag.removeprefix("--").split("=")
        options = {option: {"true": True, "false": False}.get(value, value)}
        compiled = scaling.compile_after([], jax.jit(jnp.negative).lower(1.0), options)
        assert compiled(1.0) == -1


def test_unknown_settings_are_refused(capsys):
    with pytest.raises(SystemExit):
        scaling_settings.parse(["--settings=default,nvls"])
    assert "nvls: choose from default, " in capsys.readouterr().err


def result(milliseconds):
    """Of one process: one device in 20 ms, two in `milliseconds`."""
    rows = [
        {"devices": n, "reduce": "as_is", "milliseconds": ms, "clips_per_second": n * 1e3 / ms,
         "speedup": n * 20 / ms}
        for n, ms in ((1, 20.0), (2, milliseconds))
    ]  # fmt: skip
    return {"rows": rows, "options": {"device": "GPU", "jax": "1"}}


def test_table(monkeypatch, tmp_path, capsys):
    """One that failed, one that failed after it had measured, one that did not."""
    ends = {
        "default": (result(25.0), ""),
        "simple": (result(20.0), "took over 9 s: bye"),
        "tree": (None, "ended with 1"),
    }
    monkeypatch.setattr(
        scaling_settings,
        "run",
        lambda name, group, logs, args: (ends[name][0] and ends[name][0] | {"cards": group},
                                         ends[name][1]),
    )  # fmt: skip
    path = tmp_path / "settings.json"
    scaling_settings.main([f"--settings={','.join(ends)}", "--gpus=0+1,2+3", f"--json={path}"])
    table = capsys.readouterr().out
    assert re.search(
        r"\| default \| \d\+\d \| 20.00 \| 2 \| as_is \| 25.00 \| 80 \| 1.600 \|", table
    )
    assert re.search(r"\| simple \| \d\+\d \| 20.00 \| 2 \| as_is \| 20.00 \| 100 \| 2.000", table)
    assert "FAILED simple: RuntimeError: took over 9 s: bye" in table
    assert "FAILED tree: RuntimeError: ended with 1" in table
    written = json.loads(path.read_text())
    assert {*written["settings"]} == {"default", "simple"} and len(written["failures"]) == 2


def test_nothing_is_begun_after_the_end(monkeypatch, capsys):
    monkeypatch.setattr(scaling_settings, "run", None)
    found = scaling_settings.main(["--seconds=0"])
    assert found["settings"] == {} and found["failures"] == []


def test_a_process_that_fails(tmp_path):
    """Its last line says why; a number of devices that is not there is such a failure."""
    args = scaling_settings.parse(["--settings=default", "--crop=-1", "--clips_per_device=0"])
    args.reduce = "nonsense"
    found, failure = scaling_settings.run("default", "0", tmp_path, args)
    assert found is None and failure.startswith("ended with 2: ") and "nonsense" in failure


@pytest.mark.slow
def test_two_devices(tmp_path, monkeypatch, compilation_cache):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    found = scaling_settings.main(
        ["--arg=model=conv3b_up,size=small", "--crop=32", "--rounds=2", "--clips_per_device=1",
         "--steps=2", "--losses=2", "--reduce=as_is", "--settings=registered",
         f"--json={tmp_path / 'found.json'}"]
    )  # fmt: skip
    assert found["failures"] == []
    rows = found["settings"]["registered"]["rows"]
    assert [(row["devices"], row["batch_size"]) for row in rows] == [(1, 1), (1, 1), (2, 2)]
