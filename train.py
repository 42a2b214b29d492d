"""Trains V2V: python train.py --config=configs/seg.py --workdir=runs/seg."""

from v2v_jax.cli import commands

if __name__ == "__main__":
    commands.run("train", prog="python train.py")
