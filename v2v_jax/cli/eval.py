"""Evaluates a run's best checkpoint over the test split.

    v2v eval --config=seg --workdir=runs/seg [--report]

Prints the metrics beside those of the trivial answer, and writes them with pictures to
WORKDIR/eval. Of a dataset with an official measure of whole sequences (DAVIS) that is printed, too,
and written to WORKDIR/eval/sequences.json.
"""

from __future__ import annotations

import argparse

from v2v_jax.cli import config_options, processes
from v2v_jax.cli.command_line import Parser


def add_options(parser: Parser) -> None:
    """See the module."""
    config_options.add_options(parser)
    parser.add_argument(
        "--report",
        action="store_true",
        help="also writes eval/report.html, one page with all of it",
    )
    processes.add_options(parser)


def run(options: argparse.Namespace) -> None:
    """Evaluates; see `v2v_jax.evaluation.evaluator.evaluate`."""
    from v2v_jax.evaluation.evaluator import evaluate
    from v2v_jax.inference.sequence_evaluation import evaluate_sequences
    from v2v_jax.system import compilation_cache

    processes.join(options)
    compilation_cache.enable()
    evaluate(options.config, options.workdir, report=options.report)
    evaluate_sequences(options.config, options.workdir)
