"""The commands: `v2v COMMAND …` and `python -m v2v_jax COMMAND …`, one module each."""
