"""A training run on disk and in memory: configuration, experiment, optimiser, checkpoints, log."""
