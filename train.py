"""Trains V2V: python train.py --config=configs/seg.py --workdir=runs/seg."""

from v2v_jax.cli import command_line


def main(config, workdir):
    from v2v_jax.training.loop import (
        train_and_evaluate,  # here: rendering's worker processes need no JAX
    )

    train_and_evaluate(config, workdir)


if __name__ == "__main__":
    command_line.run(main)
