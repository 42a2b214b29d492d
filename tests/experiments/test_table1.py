"""Tables of methods: what is computed of the results, which jobs run when, and runs by seed."""

import argparse
import json
import statistics

import pytest

from experiments import result_tables, table1
from experiments.result_tables import TABLES, check_order
from tests.tiny import TINY, tiny_config
from v2v_jax.errors import ConfigError
from v2v_jax.run.schedule import Schedule

ACCURACIES = {
    "2D-V2V": (0.50, 0.52, 0.54),
    "V2V-0": (0.60, 0.62, 0.61),
    "Conv3b-up": (0.70, 0.71, 0.72),
    "V2V": (0.71, 0.70, 0.73),
}


def make_settings(**values):
    default = dict(task="segmentation", dataset="scenes", steps=100, init_from="")
    return table1.Settings(**default | dict(options=(), pretraining=()) | values)


def write_result(folder, row, seed, accuracy, diverged=None):
    metrics = {"accuracy": accuracy, "baseline_accuracy": 0.3, "accuracy/sky": 0.9}
    result = {
        "seed": seed,
        "metrics": {} if diverged else metrics,
        "curve": [[50, accuracy - 0.1], [100, accuracy]],
        "loss": [[100, 0.25]],
        "diverged": diverged,
        "compilations": 1,
        "device": "test device",
        "jax": "1.2.3",
    }
    path = folder / TABLES["segmentation"].row(row).slug / f"seed{seed}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result))


@pytest.fixture
def results(tmp_path):
    """Four rows with three seeds; two rows are not there yet."""
    for row, accuracies in ACCURACIES.items():
        for seed, accuracy in enumerate(accuracies):
            write_result(tmp_path, row, seed, accuracy)
    return tmp_path


def test_means_spreads_and_order(results):
    result_tables.write_tables(results, make_settings())
    summary = json.loads((results / "table.json").read_text())
    for row, accuracies in ACCURACIES.items():
        found = summary["rows"][row]
        assert found["mean"] == pytest.approx(statistics.fmean(accuracies))
        assert found["spread"] == pytest.approx(statistics.stdev(accuracies))
    assert summary["rows"]["Conv4b-up"]["mean"] is None
    order = {(o["worse"], o["better"]): o for o in summary["order"]}
    assert order["2D-V2V", "V2V-0"]["ours"] == pytest.approx(9.0)
    assert order["2D-V2V", "V2V-0"]["paper"] == pytest.approx(11.0)
    assert order["Conv3b-up", "V2V"]["holds"] is True
    assert [round(v, 6) for v in order["Conv3b-up", "V2V"]["seeds"].values()] == [1, -1, 1]
    assert order["Conv4b-up", "V2V"]["holds"] is None
    text = (results / "table.md").read_text()
    assert "| 2D-V2V | from scratch | 55.7 | 52.00 | 2.00 | 50.00, 52.00, 54.00 | 30.00 |" in text
    assert "| Conv4b-up | fine-tuned | 72.7 | – | – | – | – |" in text
    assert "- Conv3b-up below V2V: holds, +0.3333 (paper: +6.3), in 2 of 3 seeds." in text
    assert "- Conv4b-up below V2V: not both there yet." in text
    assert "| 2D-V2V | 42.00 | 52.00 | 0.2500 |" in text and "test device, jax 1.2.3" in text


def test_order_that_differs_and_a_run_that_diverged(results):
    write_result(results, "V2V", 0, 0.71, diverged=40)
    write_result(results, "V2V", 1, 0.61)
    write_result(results, "V2V", 2, 0.60)
    result_tables.write_tables(results, make_settings())
    summary = json.loads((results / "table.json").read_text())
    assert summary["rows"]["V2V"]["diverged"] == {"0": 40}
    assert summary["rows"]["V2V"]["mean"] == pytest.approx(0.605)
    text = (results / "table.md").read_text()
    assert "- V2V-0 below V2V: DIFFERS, -1 (paper: +9.3), in 0 of 2 seeds." in text


def test_order_of_an_error_that_is_to_be_small():
    run = lambda value: {0: {"metrics": {"ade": value}}}
    found = check_order(TABLES["color"], "2D-V2V", "V2V", {"2D-V2V": run(0.2), "V2V": run(0.15)})
    assert found["holds"] and found["ours"] == pytest.approx(0.05)
    assert found["paper"] == pytest.approx(0.012)


def test_configurations_of_the_rows(tmp_path):
    settings = make_settings(steps=40, options=("model.width=0.05", "optimizer.learning_rate=3e-4"))
    for row in TABLES["segmentation"].rows:
        config = table1.row_config(settings, row, tmp_path)
        assert (config.model.name, config.model.width) == (row.model, 0.05)
        schedule = Schedule.of(config)
        assert (schedule.num_steps, schedule.warmup_steps, schedule.eval_every) == (40, 4, 10)
        assert config.optimizer.learning_rate == 3e-4 and config.feed == "device"
        assert config.get("init_from", "") == (str(tmp_path / "c3d") if row.pretrained else "")
    with pytest.raises(ConfigError, match="--set=model.wide=1 cannot be used"):
        table1.row_config(make_settings(options=("model.wide=1",)), row, tmp_path)


def test_a_folder_keeps_its_settings(tmp_path):
    table1.check_settings(make_settings(), tmp_path)
    table1.check_settings(make_settings(), tmp_path)
    with pytest.raises(ConfigError, match="holds runs with steps 100, not 200"):
        table1.check_settings(make_settings(steps=200), tmp_path)


class Process:
    """Ends when it is told to."""

    def __init__(self):
        self.returncode = None

    def poll(self):
        return self.returncode


class FakeJobs(table1.Jobs):
    """Starts nothing, but keeps what would run."""

    def _spawn(self, name):
        (self._workdir / "c3d").mkdir(exist_ok=True)
        (self._workdir / "c3d" / "log.txt").write_text("Error: no such file\n")
        return Process()


def make_jobs(folder, jobs=2, gpus="", **settings):
    args = argparse.Namespace(jobs=jobs, seeds=3, gpus=gpus)
    return FakeJobs(args, make_settings(**settings), folder, [])


def test_fine_tuned_rows_wait_for_c3d_and_finished_rows_are_left_out(results):
    write_result(results, "Conv4b-up", 0, 0.7)
    (results / "2d-v2v" / "seed1.json").unlink()
    jobs = make_jobs(results)
    jobs._start()
    assert list(jobs._running) == ["C3D", "2D-V2V"]
    jobs._running["2D-V2V"].returncode = 0
    jobs._collect()
    jobs._start()
    assert list(jobs._running) == ["C3D"]
    jobs._running["C3D"].returncode = 0
    jobs._collect()
    jobs._start()
    assert list(jobs._running) == ["Conv4b-up", "Conv5b-up"] and not jobs.failed


def test_without_c3d_its_rows_fail_and_the_others_run(tmp_path, capsys):
    jobs = make_jobs(tmp_path, jobs=1)
    jobs._start()
    jobs._running["C3D"].returncode = 1
    jobs._collect()
    assert "C3D failed: Error: no such file" in capsys.readouterr().out
    started = []
    while jobs._running or jobs._waiting:
        jobs._start()
        started += list(jobs._running)
        for process in jobs._running.values():
            process.returncode = 0
        jobs._collect()
    assert started == ["2D-V2V", "V2V-0"]
    assert sorted(jobs.failed) == ["C3D", "Conv3b-up", "Conv4b-up", "Conv5b-up", "V2V"]


def test_jobs_take_turns_on_the_gpus(tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    jobs = make_jobs(tmp_path, jobs=3, gpus="0,2")
    found = {name: jobs._environment(name) for name in ("C3D", "2D-V2V", "V2V-0")}
    gpus = [environment["CUDA_VISIBLE_DEVICES"] for environment in found.values()]
    assert gpus == ["0", "2", "0"]
    assert float(found["C3D"]["XLA_PYTHON_CLIENT_MEM_FRACTION"]) == pytest.approx(0.46)
    ended = Process()
    ended.returncode = 0
    jobs._running["C3D"] = ended
    jobs._collect()
    assert jobs._environment("V2V")["CUDA_VISIBLE_DEVICES"] in ("0", "2")
    assert jobs._environment("Conv3b-up")["CUDA_VISIBLE_DEVICES"] in ("0", "2")
    assert sorted(jobs._gpu_of.values()) == ["0", "0", "2", "2"]
    assert "CUDA_VISIBLE_DEVICES" not in make_jobs(tmp_path)._environment("C3D")


def test_given_weights_need_no_c3d(tmp_path):
    jobs = make_jobs(tmp_path, jobs=9, init_from="weights.pickle")
    jobs._start()
    assert list(jobs._running) == [row.name for row in TABLES["segmentation"].rows]


# ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("pretrained", [False, True])
def test_runs_by_seed_equal_training_and_compile_once(tmp_path, compilation_cache, pretrained):
    from experiments.seeded_runs import SeededRuns
    from v2v_jax.evaluation.evaluator import evaluate
    from v2v_jax.training.loop import train_and_evaluate

    config = tiny_config("seg", "model=conv3b_up", feed="device")
    if pretrained:
        train_and_evaluate(
            tiny_config("seg", "model=conv3b_up", feed="device", seed=5), tmp_path / "start"
        )
        config.init_from = str(tmp_path / "start")
    runs = SeededRuns(config)
    results = [runs.run(seed, tmp_path / f"seed{seed}") for seed in (0, 1)]
    assert runs.compilations == 1
    assert results[0]["loss"] != results[1]["loss"]
    for seed, result in enumerate(results):
        other = config.copy_and_resolve_references()
        other.seed = seed
        expected = train_and_evaluate(other, tmp_path / f"train{seed}")
        assert result["curve"][-1][1] == expected["accuracy"]
        assert [step for step, _ in result["curve"]] == [3, 6]
    assert [path.name for path in (tmp_path / "seed1" / "checkpoints").glob("[0-9]*")] == ["6"]
    other.num_pictures = 0
    assert evaluate(other, tmp_path / "seed1")["accuracy"] == results[1]["metrics"]["accuracy"]


@pytest.mark.slow
def test_program_from_the_beginning_and_again(tmp_path, compilation_cache, capsys):
    options = [f"--set={key}={value}" for key, value in TINY.items() if key != "num_steps"]
    arguments = ["--task=color", f"--workdir={tmp_path}", "--seeds=1", "--steps=4", "--jobs=2"]
    assert table1.main([*arguments, *options]) == 0
    printed = capsys.readouterr().out
    assert "2d-v2v seed0: ade" in printed and "| V2V | from scratch | 0.1375 | 0." in printed
    before = (tmp_path / "v2v" / "seed0.json").stat().st_mtime_ns
    assert table1.main([*arguments, *options]) == 0
    assert (tmp_path / "v2v" / "seed0.json").stat().st_mtime_ns == before
    assert "started" not in capsys.readouterr().out
    assert table1.main([*arguments[:-2], "--steps=5", *options]) == 1
    assert "holds runs with steps 4, not 5" in capsys.readouterr().err
