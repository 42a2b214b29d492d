"""Trains V2V by a recipe; the same command again resumes the run.

    v2v train --config=seg --workdir=runs/seg
    v2v train --config=seg:dataset=davis --config.data.root=data/davis --workdir=runs/davis
    v2v train --config=seg:demo --workdir=runs/demo
    v2v train --config=seg:demo --print_config

SIGTERM and Ctrl-C end it once its state is saved.
"""

from __future__ import annotations

import argparse

from v2v_jax.cli import config_options, processes
from v2v_jax.cli.command_line import Parser


def add_options(parser: Parser) -> None:
    """See the module."""
    config_options.add_options(parser, may_print=True)
    processes.add_options(parser)


def run(options: argparse.Namespace) -> None:
    """Trains until the recipe's last step; see `v2v_jax.training.loop.train_and_evaluate`."""
    if options.print_config:
        print(config_options.listing(options.config))
        return
    from v2v_jax.system import compilation_cache
    from v2v_jax.training.loop import train_and_evaluate

    processes.join(options)
    compilation_cache.enable()
    train_and_evaluate(options.config, options.workdir)
