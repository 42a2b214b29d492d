"""Early stopping: when a run ends, what it says, and that restarts change nothing of it."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import SMALLEST, read_metrics, tiny_config
from v2v_jax.evaluation.evaluator import Evaluator
from v2v_jax.run.which_checkpoint import find_checkpoint
from v2v_jax.training import training_run
from v2v_jax.training.early_stopping import EarlyStopping
from v2v_jax.training.loop import train_and_evaluate

pytestmark = pytest.mark.usefixtures("compilation_cache")
values = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, math.nan]), max_size=12)


def last_one(scores, patience, better):
    """The number of the evaluation after which a run ends, from 1; None: it goes on to its end."""
    sign = 1 if better == "max" else -1
    for count in range(1, len(scores) + 1):
        known = [sign * score for score in scores[:count] if not math.isnan(score)]
        first_best = None
        if known:
            first_best = [sign * score for score in scores[:count]].index(max(known))
        since = count if first_best is None else count - 1 - first_best
        if patience and since >= patience:
            return count
    return None


@settings(max_examples=200, deadline=None)
@given(values, st.integers(0, 5), st.sampled_from(["max", "min"]), st.data())
def test_it_ends_where_the_definition_says_however_often_it_is_restarted(
    scores, patience, better, data
):
    stopping, ended = EarlyStopping(patience, better), None
    for count, score in enumerate(scores, 1):
        stopping.add(score)
        if stopping.is_over:
            ended = count
            break
        if data.draw(st.booleans()):  # what a checkpoint keeps, as JSON
            stopping = EarlyStopping(patience, better, json.loads(json.dumps(stopping.progress())))
    assert ended == last_one(scores, patience, better)


SCORES = {1: 0.3, 2: 0.5, 3: 0.5, 4: 0.45, 5: 0.9, 6: 0.2}
OPTIONS = dict(num_steps=6, eval_every=1)


@pytest.fixture
def scripted(monkeypatch):
    """Evaluations give `SCORES` of their step; fixture["kill_at"] ends a run before that step."""
    state = {"step": 0, "kill_at": None}
    add = training_run.Monitor.add

    def noting(monitor, step, metrics):
        if step == state["kill_at"]:
            state["kill_at"] = None
            raise KeyboardInterrupt
        state["step"] = step
        add(monitor, step, metrics)

    def evaluated(self, params, check=lambda: None):
        return {"accuracy": SCORES[state["step"]], "baseline_accuracy": 0.25}

    monkeypatch.setattr(training_run.Monitor, "add", noting)
    monkeypatch.setattr(Evaluator, "__call__", evaluated)
    monkeypatch.setattr(Evaluator, "pictures", lambda *_: {})
    return state


def run_and_read(config, workdir, capsys):
    """The accuracy that a run returns, and what it prints."""
    capsys.readouterr()
    values = train_and_evaluate(config, workdir)
    return values["accuracy"], " ".join(capsys.readouterr().out.split())


def test_a_run_ends_early_and_says_so_also_when_it_was_killed_on_the_way(
    tmp_path, scripted, capsys
):
    """Two evaluations after the best: the same value again is no better."""
    config = tiny_config("seg", SMALLEST, patience=2, **OPTIONS)
    scripted["kill_at"] = 4
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(config, tmp_path)
    value, said = run_and_read(config, tmp_path, capsys)
    assert value == 0.45 and "Resuming after step 3 of 6" in said
    assert "Stopped early, after step 4 of 6: 2 evaluations in a row brought no better" in said
    assert "brought no better validation accuracy. The best checkpoint" in said
    # Of two that are as good the later one counts as the best, as everywhere.
    assert "best checkpoint is step 3's; v2v eval" in said and find_checkpoint(tmp_path).step == 3
    assert list(read_metrics(tmp_path, "eval/accuracy")) == [1, 2, 3, 4]


@pytest.mark.slow
def test_kills_change_nothing_and_more_patience_goes_on(tmp_path, scripted, capsys):
    config = tiny_config("seg", SMALLEST, patience=2, **OPTIONS)
    train_and_evaluate(config, tmp_path / "whole")
    for kill_at in (2, 4):
        scripted["kill_at"] = kill_at
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(config, tmp_path / "parts")
    _, said = run_and_read(config, tmp_path / "parts", capsys)
    assert "Stopped early, after step 4 of 6" in said
    for name in ("train/loss", "eval/accuracy"):
        assert read_metrics(tmp_path / "parts", name) == read_metrics(tmp_path / "whole", name)
    kept = lambda folder: {p.name for p in (tmp_path / folder / "checkpoints").iterdir()}
    assert kept("parts") == kept("whole") >= {"3", "4"}
    # The same command once more: it is over. With more patience it goes on.
    value, said = run_and_read(config, tmp_path / "parts", capsys)
    assert value == 0.45 and "Stopped early, after step 4 of 6" in said
    config.patience = 3
    value, said = run_and_read(config, tmp_path / "parts", capsys)
    assert value == 0.2 and "Stopped early" not in said
    assert find_checkpoint(tmp_path / "parts").step == 5
