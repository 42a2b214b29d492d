"""Evaluates a run: python eval.py --config=configs/seg.py --workdir=runs/seg [--report]."""

from v2v_jax.cli import command_line

SWITCHES = {"report": "also writes eval/report.html, one page with all of it"}


def main(config, workdir, report):
    from v2v_jax.evaluation.evaluator import (
        evaluate,  # here: rendering's worker processes need no JAX
    )

    evaluate(config, workdir, report=report)


if __name__ == "__main__":
    command_line.run(main, SWITCHES)
