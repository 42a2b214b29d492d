"""Evaluates a run: python eval.py --config=configs/seg.py --workdir=runs/seg."""

from v2v_jax import command_line


def main(config, workdir):
    from v2v_jax.evaluate import evaluate  # here: rendering's worker processes need no JAX

    evaluate(config, workdir)


if __name__ == "__main__":
    command_line.run(main)
