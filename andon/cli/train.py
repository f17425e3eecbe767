"""`andon train`: train a LLaMA, or resume a run."""

from pathlib import Path
from typing import Any

import click

from andon.runs.folder import require_resumable
from andon.runs.launch import run_and_exit, run_options, split_options


@click.command(
    epilog="""\b
Examples:
  andon train configs/tiny.toml
  andon train configs/tiny.toml --data 'notes/**/*.txt' --epochs 2 --out reports/runs/notes
  andon train configs/tiny.toml --set model.hidden_size=192 --set schedule.type=linear
  andon train --resume reports/runs/notes
  andon train configs/tiny.toml --profile 200 --out reports/runs/profiled
  andon train configs/tiny.toml --otlp http://localhost:4318
  andon train configs/tiny.toml --set cord.loss_above=9 --set cord.watch_weights=true
"""
)
@click.argument("config", type=click.Path(path_type=Path), required=False)
@run_options
def command(config: Path | None, **given: Any) -> None:
    """Train a LLaMA from the TOML file CONFIG; log, trace and checkpoint it in a folder of its own.

    Without --data it trains on the sources of the Python standard library. With --require it starts
    only behind a green gate. Exit codes: 0 trained, 2 bad input, 4 stopped by the bounds of [cord], with a checkpoint,
    5 too many steps in a row were not finite, 128+n stopped by signal n, with a checkpoint; 1 and 3 not started, as the
    required gate is red or not measured.
    """
    from andon.core.config import load_config

    options, changes = split_options(given)
    if options.resume:
        require_resumable(options.resume)
    source = config or (options.resume and options.resume / "config.json")
    if not source:
        raise click.UsageError("name a CONFIG such as configs/tiny.toml, or a run with --resume")
    run_and_exit(load_config(source, changes), source.stem, options)
