"""Augmentation in the training step: a function of (seed, step), however the batch is split."""

import jax
import numpy as np
import pytest

from tests.tiny import tiny_config
from v2v_jax.errors import ConfigError
from v2v_jax.input.augmentation import Augmentation
from v2v_jax.training.setup import Setup, make_sampler

OPTIONS = {
    "scale": (0.9, 1.3),
    "aspect": 0.1,
    "gain": 0.2,
    "blur": 0.5,
    "noise": 0.05,
    "reverse": 0.5,
    "max_stride": 2,
}


def prepared(options, **overrides):
    """The smallest network that learns depth on augmented clips."""
    augmentation = {f"augmentation__{name}": value for name, value in options.items()}
    frames = {"data__num_frames": 16, "data__num_validation_videos": 1}
    return Setup(tiny_config("depth", "model=conv3b_up", **frames, **augmentation, **overrides))


def losses(setup, seed=0, steps=2):
    """Of the first steps, whose parameters hardly change."""
    experiment, found = setup.for_seed(seed), []
    plans = map(make_sampler(experiment).plan, range(steps))
    with jax.set_mesh(experiment.mesh):
        state = setup.init_state(0)
        for batch in setup.feed.batches(plans):
            state, metrics = setup.train_step(state, setup.feed.store, batch, np.uint32(seed))
            found.append(float(metrics["loss"]))
    return found


@pytest.fixture(scope="module")
def whole():
    return prepared(OPTIONS)


def test_steps_are_a_function_of_seed_and_step(whole):
    first = losses(whole)
    assert losses(whole) == first
    assert losses(whole, seed=1) != first
    assert np.isfinite(first).all()


@pytest.mark.slow
def test_they_do_not_depend_on_how_the_batch_is_split(whole):
    assert losses(prepared(OPTIONS, accumulate=2)) == pytest.approx(losses(whole), rel=1e-5)


def test_feeds_deliver_larger_and_longer_clips(whole):
    experiment, feed = whole.experiment, whole.feed
    assert experiment.training_clips.clip_length == 15  # eight frames, each two after another
    assert experiment.training_clips.crop_size == (38, 38)  # 32 · √1.1 / 0.9
    batch = next(iter(feed.batches([make_sampler(experiment).plan(0)])))
    shapes = jax.eval_shape(feed.prepare, feed.store, batch)
    assert shapes["video"].shape == (4, 15, 38, 38, 3)
    # What the network, checkpoints and evaluation know is the size after it.
    assert experiment.preprocessing.crop_size == (32, 32)
    assert experiment.about["preprocessing"]["crop_size"] == [32, 32]


def test_a_task_that_cannot_follow_is_refused_before_anything_is_read():
    config = tiny_config("flow", augmentation__reverse=0.5)
    with pytest.raises(ConfigError, match="augmentation.reverse is 0.5, but the task reads flow"):
        Setup(config)


def test_configurations_from_before_it_have_none():
    config = tiny_config("seg")
    with config.unlocked():
        del config.augmentation
    assert Setup(config).experiment.augmentation == Augmentation()
