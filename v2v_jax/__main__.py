"""`python -m v2v_jax COMMAND …`, the same as `v2v COMMAND …`."""

from v2v_jax.cli import commands

if __name__ == "__main__":
    commands.main()
