"""Compiles the real training step for TPUs, on a machine that has none; see __main__."""

from v2v_jax.errors import UserError


class StepProblem(UserError):
    """The compiled step is not what it should be."""
