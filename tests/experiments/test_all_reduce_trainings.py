"""What is said of trainings whose gradients were sent in different ways."""

import json

import pytest

from experiments import all_reduce_trainings


def line(way, seed, accuracy, group="all-reduce in "):
    return {
        "group": group + way,
        "seed": seed,
        "held_out_metrics": {"accuracy": accuracy, "miou": accuracy / 2},
    }


def test_difference_and_its_error():
    """Means 0.8 and 0.82; deviations 0.1 and 0.02 of three and two seeds."""
    lines = [line("float32", s, v) for s, v in enumerate((0.7, 0.8, 0.9))]
    lines += [
        line("bfloat16", s, v) for s, v in enumerate((0.82 - 0.02 / 2**0.5, 0.82 + 0.02 / 2**0.5))
    ]
    lines += [line("", 0, 0.1, group="seg"), {"group": "all-reduce in float32", "skipped": True}]
    found = all_reduce_trainings.compare(lines)["accuracy"]
    assert found["mean"] == pytest.approx({"float32": 0.8, "bfloat16": 0.82})
    assert found["spread"] == pytest.approx({"float32": 0.1, "bfloat16": 0.02})
    assert found["difference"] == pytest.approx(0.02)
    assert found["standard_error"] == pytest.approx((0.01 / 3 + 0.0004 / 2) ** 0.5)


def test_what_is_there_while_they_run(tmp_path, capsys):
    lines = [line("float32", 0, 0.5), line("float32", 1, 0.6), line("bfloat16", 1, 0.7)]
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    found = all_reduce_trainings.main([f"--workdir={tmp_path}", f"--json={tmp_path / 'x.json'}"])
    assert found["miou"]["standard_error"] is None
    assert found["miou"]["difference"] == pytest.approx(0.35 - 0.275)
    table = capsys.readouterr().out
    assert "| accuracy | seed 0 | seed 1 | mean | spread |" in table
    assert "| bfloat16 |  | 0.7000 | 0.7000 |  |" in table
    assert json.loads((tmp_path / "x.json").read_text()) == found
    path.write_text(json.dumps(lines[0]) + "\n")
    assert all_reduce_trainings.main([f"--workdir={tmp_path}"])["accuracy"]["difference"] is None
