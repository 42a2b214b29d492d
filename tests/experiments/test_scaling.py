"""The scripts that measure scaling, saving and long runs, and what they say."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import checkpoints
from experiments import (
    all_reduce,
    long_run,
    scaling,
    scaling_processes,
    scaling_report,
    scaling_step,
)
from v2v_jax.training import accumulation

SMALL = ["--arg=model=conv3b_up,size=small", "--crop=32", "--rounds=2"]


def test_default_sizes():
    assert [scaling.default_sizes(n) for n in (1, 2, 3, 8)] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 4, 8],
    ]


def program(devices, seconds, way="as_is", clips=10, first=0):
    """A program that was measured."""
    made = scaling.Program(devices, clips, way, experiment=None, first=first)
    made.seconds = seconds
    return made


def test_efficiency():
    """As many clips a device: twice the clips in the same time is all of it."""
    measured = [program(1, [0.5, 0.5]), program(2, [0.5, 0.5]), program(4, [0.9, 1.0, 1.1])]
    rows = scaling_report.rows([*measured, program(4, [0.5], way="buckets")], "as_is")
    assert [row["clips_per_second"] for row in rows] == [20, 40, 40, 80]
    assert [row["efficiency"] for row in rows] == [1, 1, 0.5, 1]
    assert [row["speedup"] for row in rows] == [1, 2, 2, 4]


def test_speed_up_is_to_the_mean_of_devices_alone():
    """20 and 30 clips/s alone: 40 by both, who wait for one another, are 1.6 times 25."""
    measured = [program(1, [0.5]), program(1, [1 / 3], first=1), program(2, [0.5])]
    rows = scaling_report.rows(measured, "as_is")
    assert [(row["devices"], row["first"]) for row in rows] == [(1, 0), (1, 1), (2, 0)]
    assert [row["speedup"] for row in rows] == pytest.approx([0.8, 1.2, 1.6])
    assert [row["efficiency"] for row in rows] == pytest.approx([0.8, 1.2, 0.8])


def test_every_device_is_measured_alone():
    args = scaling.parse([*SMALL, "--devices=1"])
    (alone,) = scaling.planned(args)
    assert (alone.devices, alone.first, alone.way) == (1, 0, "as_is")
    assert list(alone.experiment.mesh.devices.flat) == jax.devices()[:1]


def test_measurements_start_without_zeros():
    """conv_pre's kernel, which training starts as zeros; what is not zeros stays as it is."""
    experiment = scaling_step.make("model=conv3b_up,size=small", 1, 32, jax.devices()[:1])
    with jax.set_mesh(experiment.mesh):
        expected, found = experiment.init_state(), scaling_step.initial_state(experiment)
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected.params):
        other = dict(jax.tree_util.tree_leaves_with_path(found.params))[path]
        if path[-1].key == "kernel" and not leaf.any():
            assert "conv_pre" in str(path) and 0.005 < other.std() < 0.02
        else:
            np.testing.assert_array_equal(leaf, other)


def test_efficiency_is_among_as_many_clips_a_device():
    measured = [program(1, [1.0]), program(2, [1.0]), program(1, [2.0], clips=40)]
    rows = scaling_report.rows([*measured, program(2, [4.0], clips=40)], "as_is")
    assert [(row["clips_per_device"], row["efficiency"]) for row in rows] == [
        (10, 1), (10, 1), (40, 1), (40, 0.5),
    ]  # fmt: skip


def test_difference_of_losses():
    assert scaling_report.greatest_difference([1.0, 2.0], [1.0, 2.5]) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="zip"):
        scaling_report.greatest_difference([1.0], [1.0, 2.0])


def test_table_of_profiles():
    """Medians over the devices, the most computing and the least all-reduce."""
    times = [{"span": 10.0 + n, "all-reduce": 3.0 - n, "computing": 5.0 + n} for n in range(3)]
    report = scaling_report.Report(None, "x", {"device": "GPU", "jax": "1"})
    report.result["profiles"] = [
        {"devices": 3, "reduce": "as_is", "milliseconds": dict(zip("abc", times, strict=True))},
        {"devices": 1, "reduce": "as_is", "milliseconds": {}},
    ]
    table = scaling_report.markdown(report.result)
    assert "| 3 | as_is | 11.00 | 2.00 | 6.00 | 7.00 | 1.00 |" in table
    report.result["profiles"] = report.result["profiles"][1:]
    assert "no kernels of GPUs" in scaling_report.markdown(report.result)


def test_what_fails_is_noted_and_the_rest_goes_on(tmp_path, capsys):
    """An option that XLA does not know is such a failure; the file is there after every part."""
    path = tmp_path / "scaling.json"
    report = scaling_report.Report(str(path), "experiments.scaling", {})
    lowered = jax.jit(jnp.negative).lower(1.0)
    assert report.attempt("one", scaling.compile_after, [], lowered)
    assert json.loads(path.read_text())["failures"] == []
    assert not report.attempt("two", scaling.compile_after, [], lowered, {"xla_gpu_nonsense": True})
    (failure,) = json.loads(path.read_text())["failures"]
    assert failure["what"] == "two" and "xla_gpu_nonsense" in failure["error"]
    assert "FAILED two: " in capsys.readouterr().out


@pytest.mark.parametrize("way", all_reduce.WAYS)
def test_options_of_ways_are_known(way):
    compiled = scaling.compile_after(
        [], jax.jit(jnp.negative).lower(1.0), all_reduce.WAYS[way].options
    )
    assert compiled(1.0) == -1


def test_ways_can_be_joined():
    """The first says what is sent; options are all theirs, later ones before earlier ones."""
    joined = all_reduce.find_way("bfloat16_sums+buckets+each")
    assert joined.add_up is accumulation.add_up_gradient_in_bfloat16
    assert joined.options == {
        "xla_gpu_enable_latency_hiding_scheduler": True,
        "xla_gpu_all_reduce_combine_threshold_bytes": 1,
    }
    assert all_reduce.find_way("none").options == {}
    assert scaling.parse(["--reduce=as_is,as_is+early", "--devices=1"]).reduce[1] == "as_is+early"
    with pytest.raises(SystemExit):
        scaling.parse(["--reduce=as_is+nonsense", "--devices=1"])


def test_as_is_is_what_the_step_does():
    way = all_reduce.WAYS["as_is"]
    assert way.add_up is accumulation.add_up and not way.options


@pytest.mark.parametrize("way", sorted({*all_reduce.WAYS} - {"none", "scalars", "written"}))
def test_ways_add_up(way):
    """Eight devices' gradients; what is not a large gradient stays exact."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal((8, *shape)).astype(np.float32)
    gradient = {"large": draw(3, 151, 149), "small": draw(5, 7)}
    sums = gradient, (draw(), draw()), {"confusion": draw(4, 4)}
    found = jax.vmap(all_reduce.WAYS[way].add_up, axis_name="data")(sums)
    assert jax.tree.structure(found) == jax.tree.structure(sums)
    for path, value in jax.tree_util.tree_leaves_with_path(found):
        each = dict(jax.tree_util.tree_leaves_with_path(sums))[path]
        expected = each.astype(np.float64).sum(0)
        assert value.dtype == np.float32
        rounded = "bfloat16" in way and "large" in str(path)
        # bfloat16 has 8 bits: each term and each of the sums is off by half of the last at most.
        tolerance = (np.abs(each).sum(0).max() * 9 * 2**-9) if rounded else 1e-5
        np.testing.assert_allclose(value[0], expected, atol=tolerance, rtol=0)
        np.testing.assert_array_equal(value[0], value[7])
        if rounded:
            assert np.abs(value[0] - expected).max() > 1e-4  # or it was not rounded at all


def test_memory_of_programs_is_noted(capsys):
    made = program(2, [])
    made.step = jax.jit(jnp.negative).lower(jnp.zeros(10)).compile()
    made.batch = {"video": jnp.zeros(6, jnp.uint8)}
    report = scaling_report.Report(None, "experiments.scaling", {})
    scaling.check_memory([made], scaling.InitialState({"params": jnp.zeros(5)}), report)
    assert report.result["memory"]["kept"] == 5 * 4 + 6 // 2
    assert "needed" in capsys.readouterr().out


@pytest.mark.slow
def test_scaling_of_one_device(tmp_path, capsys, compilation_cache):
    path = tmp_path / "scaling.json"
    options = ["--clips_per_device=1,2", "--steps=2", "--losses=2", "--profile=as_is"]
    scaling.main([*SMALL, *options, "--devices=1", f"--json={path}"])
    result = json.loads(path.read_text())
    assert result["failures"] == []
    assert [(row["batch_size"], row["efficiency"]) for row in result["rows"]] == [(1, 1), (2, 1)]
    ((series),) = result["losses"]["series"]
    assert series["devices"] == 1 and len(series["losses"]) == 2
    row = result["rows"][0]
    assert f"| {row['clips_per_second']:.1f} | 1.000 | 100.0% |" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------
# Real processes


@pytest.mark.parametrize(
    ("numbers", "sets"),
    [([2, 4, 8], [[8], [4, 2]]), ([2], [[2]]), ([1, 2, 4, 8], [[8], [4, 2, 1]])],
)
def test_sets_of_processes_that_run_at_the_same_time(numbers, sets):
    assert scaling_processes.at_the_same_time(numbers) == sets


def test_each_process_sees_its_own_devices(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert scaling_processes.visible_devices(3, 2) == "3,4"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert scaling_processes.visible_devices(1, 2) == "5,6"


@pytest.mark.parametrize(("program", "codes"), [("exit(3)", "3"), ("while True: pass", "None")])
def test_processes_that_fail_or_hang(program, codes):
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        try:
            with pytest.raises(RuntimeError, match=codes):
                scaling_processes.wait([process], 0.5 if codes == "None" else 60)
        finally:
            process.kill()


def comparison(tmp_path, clips):
    """What is said of two processes beside one of two devices."""
    path = tmp_path / "scaling.json"
    report = scaling_report.Report(
        str(path), "x", {"arg": "", "crop": 0, "losses": 2, "reduce": ["as_is"]}
    )
    report.result["rows"] = scaling_report.rows([program(1, [0.5]), program(2, [0.5])], "as_is")
    series = [{"devices": n, "reduce": "as_is", "losses": [2.0, 1.0]} for n in (1, 2)]
    report.result["losses"] = {"clips_per_device": 10, "series": series}
    report.write()
    args = scaling_processes.parse(
        [f"--compare={path}", "--losses=2", f"--clips_per_device={clips}", "--processes=2"]
    )
    report = scaling_report.Report(None, "x", {})
    report.result["rows"].append(scaling_processes.row(2, 2, 10, 1000.0, [2.0, 1.01]))
    scaling_processes.read_one_process(args, report)
    return scaling_processes.markdown(report.result)


def test_processes_beside_one_process(tmp_path):
    table = comparison(tmp_path, clips=10)
    assert "| 2 | 1 | 20 | 500.0 | 40.0 | 2.00 | 100.0% | 0.0e+00 |" in table
    assert "| 2 | 2 | 20 | 1000.0 | 20.0 | 1.00 | 50.0% | 1.0e-02 |" in table


def test_other_options_are_not_compared(tmp_path):
    with pytest.raises(ValueError, match="not of 20 clips"):
        comparison(tmp_path, clips=20)


@pytest.mark.slow
def test_two_processes(tmp_path, compilation_cache):
    """Two real processes and one of two devices: equal losses."""
    path = tmp_path / "processes.json"
    options = ["--clips_per_device=1", "--steps=2", "--losses=3", f"--json={path}"]
    scaling_processes.main([*SMALL, *options, "--processes=2"])
    result = json.loads(path.read_text())
    assert result["failures"] == []
    losses = {(r["devices"], r["processes"]): r["losses"] for r in result["rows"]}
    assert {*losses} == {(1, 1), (2, 1), (2, 2)}
    assert losses[2, 2] == pytest.approx(losses[2, 1], rel=1e-5)
    assert losses[2, 2] != pytest.approx(losses[1, 1], rel=1e-9)


@pytest.mark.slow
def test_cost_of_saving(tmp_path, capsys, compilation_cache):
    result = checkpoints.main([*SMALL, "--clips=1", f"--workdir={tmp_path}"])
    assert result["megabytes"] > 0.1 and result["every"] == 600
    assert result["slower"] == pytest.approx(result["cost_s"] / (0.6 * result["step_ms"]))
    assert "one every 600 steps of" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


class Clockwork:
    """Blocks of steps of 0.1 s; a checkpoint holds them up for 0.5 s and takes 6 s beside them."""

    def train(self, steps):
        return 0.1 * steps

    def train_and_save(self, steps):
        waiting = 1.8 if steps == 1 else max(0, 6 - 0.1 * steps)  # alone it is quicker
        return 0.1 * steps + 0.5, 0.2, waiting


def test_a_checkpoints_cost_is_that_of_a_block_in_which_it_ends():
    measured = checkpoints.measure(Clockwork(), rounds=3)
    assert measured["steps_a_block"] == 4 * 26 and measured["blocks_too_short"] == 0
    assert measured["step_ms"] == pytest.approx(100) and measured["cost_s"] == pytest.approx(0.5)
    assert measured["on_disk_s"] == pytest.approx(2) and measured["save_ms"] == pytest.approx(200)


# ------------------------------------------------------------------------------------------------
# The long run's verdict


def judged(**changes):
    """What `long_run` makes of a run of 1,000 steps in which `changes` grow by their value each."""
    args = long_run.parse(["--workdir=x", "--steps=1000"])
    start = {"memory": 10**8, "files": 9, "compilations": 4}
    samples = [
        {"step": step, **{name: int(v + changes.get(name, 0) * step) for name, v in start.items()}}
        for step in range(20, 1001, 20)
    ]
    return long_run.summarize(args, samples, 60.0)


def test_steady_run_is_steady():
    assert long_run.is_steady(judged())
    assert long_run.is_steady(judged(memory=1000))  # 1 % in the whole run


@pytest.mark.parametrize("growth", [{"memory": 4000}, {"files": 0.01}, {"compilations": 0.005}])
def test_growth_is_noticed(growth):
    result = judged(**growth)
    assert not long_run.is_steady(result)
    assert "1000 of 1000 steps" in long_run.sentence(result)


def test_a_run_that_was_stopped_is_not_steady():
    result = judged()
    assert not long_run.is_steady(result | {"steps": 900})
