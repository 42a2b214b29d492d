"""metrics.jsonl: what stays of it when a run goes on."""

import json

import pytest

from v2v_jax.run.metrics_log import MetricsLog


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write(folder, first_step, last_step, evaluate=(), **kwargs):
    with MetricsLog(folder, first_step, **kwargs) as log:
        for step in range(first_step + 1, last_step + 1):
            log.write(step, "train", {"loss": 1 / step})
            if step in evaluate:
                log.write(step, "eval", {"accuracy": 0.5})


def test_lines_of_later_steps_are_dropped(tmp_path):
    write(tmp_path, 0, 5, evaluate=(2, 4))
    write(tmp_path, 3, 4)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 2, 3, 4]


@pytest.mark.parametrize("evaluated", [True, False])
def test_an_evaluation_that_is_done_again_has_one_row(tmp_path, evaluated):
    """Stopped in an evaluation, resumed, killed after its row, resumed: three rows it had once."""
    write(tmp_path, 0, 3, evaluate=(2, 3))
    write(tmp_path, 3, 3, evaluated=evaluated)
    rows = [line["step"] for line in lines(tmp_path) if "eval/accuracy" in line]
    assert rows == ([2, 3] if evaluated else [2])
    assert [line["step"] for line in lines(tmp_path) if "train/loss" in line] == [1, 2, 3]


@pytest.mark.parametrize(
    "text",
    ["[]", '"step"', "3", "null", '{"step": []}', '{"step": "1"}', "{", "[" * 20_000, "\0\xff"],
)
def test_lines_that_are_none_of_its_own_are_dropped(tmp_path, text):
    write(tmp_path, 0, 1)
    with (tmp_path / "metrics.jsonl").open("a", encoding="latin-1") as file:
        file.write(text + "\n")
    write(tmp_path, 1, 2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_what_is_no_number_is_null_and_other_processes_write_nothing(tmp_path):
    write(tmp_path, 0, 0)
    with MetricsLog(tmp_path, 0) as log:
        log.write(1, "train", {"loss": float("nan")})
        log.write_event(1, "spike", {"clips": ["a"]})
        log.sync()
    assert lines(tmp_path) == [{"step": 1, "train/loss": None}, {"step": 1, "spike/clips": ["a"]}]
    with MetricsLog(tmp_path / "other", 0, active=False) as log:
        log.write(1, "train", {"loss": 1.0})
        log.sync()
    assert not (tmp_path / "other").exists()
