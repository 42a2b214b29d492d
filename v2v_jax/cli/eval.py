"""Evaluates a run's best checkpoint over the test split.

    v2v eval --config=seg --workdir=runs/seg [--report]
    v2v eval --compare runs/a runs/b

Prints the metrics beside those of the trivial answer, and writes them with pictures to
WORKDIR/eval. Of a dataset with an official measure of whole sequences (DAVIS) that is printed, too,
and written to WORKDIR/eval/sequences.json.

--compare puts two runs beside each other that were evaluated before: it prints their metrics, and
writes a page with their learning curves and what differs in their configurations.
"""

from __future__ import annotations

import argparse
import functools

from v2v_jax.cli import config_options, processes
from v2v_jax.cli.command_line import Parser, TakeRest, path


def add_options(parser: Parser) -> None:
    """See the module."""
    config_options.add_options(parser)
    parser.add_argument(
        "--report",
        action="store_true",
        help="also writes eval/report.html, one page with all of it",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        type=path,
        metavar="RUN",
        help="two runs' folders, without --config and --workdir; writes a page into the second one",
    )
    parser.take_rest = functools.partial(_take_rest, parser.take_rest)
    processes.add_options(parser)


def _take_rest(
    with_config: TakeRest, options: argparse.Namespace, rest: list[str], parser: Parser
) -> None:
    """The rest belongs to the configuration, which --compare does without."""
    if options.compare is None:
        with_config(options, rest, parser)
    elif rest:
        raise parser.unexpected(rest[0])
    elif options.config or options.workdir or options.report:
        parser.error("--compare takes two runs alone, without --config, --workdir and --report")


def run(options: argparse.Namespace) -> None:
    """Evaluates, see `v2v_jax.evaluation.evaluator.evaluate`; or compares."""
    if options.compare:
        from v2v_jax.evaluation.comparison import compare

        compare(*options.compare)
        return
    from v2v_jax.evaluation.evaluator import evaluate
    from v2v_jax.inference.sequence_evaluation import evaluate_sequences
    from v2v_jax.system import compilation_cache

    processes.join(options)
    compilation_cache.enable()
    evaluate(options.config, options.workdir, report=options.report)
    evaluate_sequences(options.config, options.workdir)
