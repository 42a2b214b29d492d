"""Predicts videos: python predict.py --checkpoint=runs/seg --video=in.mp4 --output=out.mp4."""

from v2v_jax.cli import commands

if __name__ == "__main__":
    commands.run("predict", prog="python predict.py")
