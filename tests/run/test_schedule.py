"""Shares of a run become steps; given steps go before; older configurations mean the same."""

import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.tiny import tiny_config
from v2v_jax.run.optimizers import learning_rate, make_optimizer
from v2v_jax.run.recipes import validate
from v2v_jax.run.schedule import Schedule, warmup_steps


def config_of(**changes):
    """configs/seg.py's shares in a run of 1,000 steps."""
    given = {
        "num_steps": 1000,
        "log_every": 0,
        "eval_every": 0,
        "grow_share": 0.5,
        "optimizer.schedule": "cosine",
        "optimizer.warmup_share": 0.1,
    }
    config = tiny_config("seg")
    config.update_from_flattened_dict(given | changes)
    validate(config)
    return config


@pytest.mark.parametrize("steps", [1, 7, 100, 1000, 3000])
def test_a_number_of_steps_alone_scales_the_whole_run(steps):
    config = config_of(num_steps=steps)
    schedule = Schedule.of(config)
    evaluated = [step for step in range(1, steps + 1) if schedule.is_evaluated(step)]
    assert evaluated[-1] == steps and len(evaluated) == min(steps, 10)
    assert schedule.warmup_steps == round(0.1 * steps) * (steps > 1)
    assert schedule.grow_steps == round(0.5 * steps)
    logged = sum(schedule.is_logged(step) for step in range(1, steps + 1))
    assert min(steps, 200) <= logged <= min(steps, 400)
    rates = np.array([learning_rate(config.optimizer, steps)(step) for step in range(steps)])
    assert rates.max() == pytest.approx(config.optimizer.learning_rate, rel=0.3)


def test_steps_go_before_shares():
    given = {"eval_every": 30, "log_every": 4, "grow_steps": 20, "optimizer.warmup_steps": 300}
    schedule = Schedule.of(config_of(num_steps=100, **given))
    assert (schedule.eval_every, schedule.log_every, schedule.grow_steps) == (30, 4, 20)
    assert schedule.warmup_steps == 99  # one step is left at the full rate
    assert [step for step in range(1, 101) if schedule.is_evaluated(step)] == [30, 60, 90, 100]


def test_checkpoints_between_evaluations():
    schedule = Schedule.of(config_of(num_steps=100, save_every=30))
    assert [step for step in range(1, 101) if schedule.is_saved(step)] == [30, 60, 90]
    assert not any(Schedule.of(config_of()).is_saved(step) for step in range(1, 1001))


def test_configurations_from_before_there_were_shares():
    """As they are stored in checkpoints: steps alone, and no warm-up where there are 0 of them."""
    old = config_of(num_steps=100).to_dict()
    for name in ("grow_share", "num_evaluations", "save_every_evaluation"):
        del old[name]
    del old["optimizer"]["warmup_share"]
    old |= dict(eval_every=25, log_every=5, grow_steps=0)
    config = ConfigDict(old)
    validate(config)
    make_optimizer(config.optimizer, config.num_steps)
    assert dataclasses.astuple(Schedule.of(config)) == (100, 0, 0, 5, 25, 0)
    config.optimizer.warmup_steps = 10
    assert warmup_steps(config.optimizer, 100) == 10


def test_it_is_said_in_words():
    text = str(Schedule.of(config_of()))
    assert text == (
        "Evaluated every 100 steps, logged every 5; the rate rises for 100; all videos are seen "
        "after 500"
    )
