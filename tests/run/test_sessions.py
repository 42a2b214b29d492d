"""sessions.jsonl: on what a run was trained and for how long, over interruptions."""

import json

import jax
import numpy as np
import pytest

from v2v_jax.run.sessions import Session, read_training
from v2v_jax.system import hardware


def write(folder, *lines):
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    (folder / "sessions.jsonl").write_text(text)
    return read_training(folder)


def begin(step, machine="a"):
    return {"first_step": step, "hardware": machine, "parameters": 7}


def note(step, seconds):
    return {"step": step, "seconds": seconds}


def test_a_run_says_what_it_is_trained_on(trained):
    run = trained("seg")
    first, *notes = map(json.loads, (run.workdir / "sessions.jsonl").read_text().splitlines())
    assert first["first_step"] == 0 and first["hardware"] == hardware.describe()
    assert first["jax"] == jax.__version__
    assert [line["step"] for line in notes] == [20, 40, 60]
    assert sorted(line["seconds"] for line in notes) == [line["seconds"] for line in notes]
    found = read_training(run.workdir)
    assert found.seconds == notes[-1]["seconds"] > 0 and found.parameters == first["parameters"]


def test_an_uninterrupted_run(tmp_path):
    found = write(tmp_path, begin(0), note(10, 5.0), note(20, 9.0))
    assert (found.hardware, found.parameters, found.seconds) == (("a",), 7, 9.0)


@pytest.mark.parametrize(
    "lines, seconds",
    [
        # Killed after step 20, at which it had saved.
        ([begin(0), note(10, 5.0), note(20, 9.0), begin(20), note(30, 4.0)], 13.0),
        # Step 20's checkpoint was not finished: it goes on from step 10, and does 11 to 20 again.
        ([begin(0), note(10, 5.0), note(20, 9.0), begin(10), note(20, 4.5), note(30, 8.0)], 13.0),
        # Killed before it had saved anything.
        ([begin(0), begin(0), note(10, 6.0)], 6.0),
        # The later checkpoints were damaged: what was done twice counts once.
        ([begin(0), note(20, 9.0), begin(20), note(40, 9.0), begin(0), note(10, 4.0)], 4.0),
        # Killed while a session had not saved yet.
        ([begin(0), note(10, 5.0), begin(10)], 5.0),
    ],
)
def test_what_was_done_twice_counts_once(tmp_path, lines, seconds):
    assert write(tmp_path, *lines).seconds == pytest.approx(seconds)


def test_several_machines_are_all_named(tmp_path):
    lines = begin(0, "a"), note(10, 1.0), begin(10, "b"), note(20, 1.0), begin(20, "a")
    assert write(tmp_path, *lines).hardware == ("a", "b")


def test_what_is_no_session_is_passed_over(tmp_path):
    assert read_training(tmp_path) is None
    assert write(tmp_path, "no JSON\n", note(1, 2.0)) is None
    found = write(tmp_path, begin(0), "[1]\n", {"step": "x"}, note(10, 5.0), '{"step": 20, "sec')
    assert found.seconds == 5.0
    assert write(tmp_path, begin(0) | {"parameters": "many"}).parameters is None


def test_a_full_disk_ends_no_training(tmp_path):
    (tmp_path / "sessions.jsonl").mkdir()  # cannot be written to
    session = Session(tmp_path, 0, {"a": np.zeros(3)})
    session.note(1)
    assert list((tmp_path / "sessions.jsonl").iterdir()) == []


def test_only_who_is_active_writes(tmp_path):
    Session(tmp_path, 0, {"a": np.zeros(3)}, active=False).note(1)
    assert list(tmp_path.iterdir()) == []
