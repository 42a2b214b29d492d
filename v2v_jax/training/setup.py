"""What training needs before its first step, and what runs with other seeds can share of it."""

from __future__ import annotations

import dataclasses
import functools
import pathlib

from ml_collections import ConfigDict

from v2v_jax import datasets
from v2v_jax.evaluation.evaluator import Evaluator
from v2v_jax.input.base_feed import Feed
from v2v_jax.input.class_balance import class_counts, clip_probabilities
from v2v_jax.input.clips import ClipSampler, clip_table
from v2v_jax.input.feeds import make_feed
from v2v_jax.run.experiment import Experiment, TrainState, make_experiment
from v2v_jax.run.schedule import Schedule
from v2v_jax.system.console import progress
from v2v_jax.training import accumulation
from v2v_jax.training.step import TrainStep, make_train_step


class Setup:
    """A configuration's data and programs: read once, compiled once, whatever the seed.

    A seed is data: it decides the start of the parameters, the clips and what is random in a step,
    not the program. Nothing is read before it is asked for.
    """

    def __init__(self, config: ConfigDict):
        """Raises UserError for a configuration that cannot be trained."""
        self.experiment = make_experiment(config, "train")
        self.schedule = Schedule.of(config)
        mesh = self.experiment.mesh  # what follows fails before anything is read
        accumulation.parts_of_batch(config.batch_size, mesh, config.accumulate, config.recompute)

    def for_seed(self, seed: int) -> Experiment:
        """The experiment with this seed in its configuration."""
        if seed == self.experiment.config.seed:
            return self.experiment
        config = self.experiment.config.copy_and_resolve_references()
        with config.unlocked():
            config.seed = seed
        return dataclasses.replace(self.experiment, config=config)

    def init_state(self, seed: int) -> TrainState:
        """The state at step 0."""
        return self.experiment.init_state(seed)  # the one experiment keeps its compiled program

    @property
    def split(self) -> str:
        """What checkpoints are chosen on; a configuration from before that split has: test."""
        return "validation" if datasets.has_validation(self.experiment.config.data) else "test"

    @functools.cached_property
    def feed(self) -> Feed:
        """The training data."""
        experiment = self.experiment
        return make_feed(
            experiment.config.feed,
            experiment.dataset,
            experiment.task.fields,
            experiment.training_clips,
            experiment.mesh,
            progress,
            grows=self.schedule.grow_steps > 0,
        )

    @functools.cached_property
    def train_step(self) -> TrainStep:
        """The jitted step."""
        return make_train_step(self.experiment, self.feed)

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """Evaluates on `split`, which is read while training begins."""
        training = self.experiment
        experiment = make_experiment(training.config, self.split, training.mesh, training.dataset)
        return Evaluator(experiment, waits=False)


def make_sampler(experiment: Experiment, workdir: pathlib.Path | None = None) -> ClipSampler:
    """The training clips of an experiment, a function of (config.seed, step).

    Args:
      workdir: with `config.class_balance`, where the counts of labels are kept, which take a look
        at all of them; None: nowhere.
    """
    config, clips = experiment.config, experiment.training_clips
    lengths = [video.num_frames for video in experiment.dataset.videos]
    probabilities = None
    if balance := config.get("class_balance", 0.0):
        counts = class_counts(experiment.dataset, experiment.task.fields, workdir, progress)
        table = clip_table(lengths, clips.clip_length, config.stride)
        probabilities = clip_probabilities(counts, *table, clips.clip_length, balance)
    return ClipSampler(
        lengths,
        clips,
        batch_size=config.batch_size,
        stride=config.stride,
        seed=config.seed,
        mirror=config.mirror,
        grow_steps=Schedule.of(config).grow_steps,
        probabilities=probabilities,
    )
