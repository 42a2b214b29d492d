"""Evaluates a run: python eval.py --config=configs/seg.py --workdir=runs/seg [--report]."""

from v2v_jax.cli import commands

if __name__ == "__main__":
    commands.run("eval", prog="python eval.py")
