"""`andon demo`: train on real text, sample, judge against an n-gram, fine-tune on other text, and write the report."""

import json
import sys
import time
from pathlib import Path

import click

from andon.demo.measure import ORDERS
from andon.demo.parts import PARTS, Demo, run_parts
from andon.report.page import render_report

SOURCES = ("andon", "configs", "core", "verify")


@click.command(
    epilog="""\b
Examples:
  andon demo
  andon demo --part lora
  andon demo configs/tiny.toml --set training.max_steps=100
  andon demo configs/small.toml --against trigram --part train
"""
)
@click.argument("config", type=click.Path(path_type=Path), default=Path("configs/tiny.toml"))
@click.option("--against", type=click.Choice(list(ORDERS)), default="bigram", show_default=True, help="What to beat.")
@click.option("--part", type=click.Choice(list(PARTS)), default="all", show_default=True, help="Run only this part.")
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder, by default reports/runs/<id>.")
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Change a key; may be repeated.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the verdict.")
def command(
    config: Path, against: str, part: str, out: Path | None, overrides: tuple[str, ...], *, quiet: bool
) -> None:
    """Train a small LLaMA on the standard library's sources, then adapters of it on English; judge; write a report.

    A fine-tune alone uses the newest demo's model, and trains one if there is none. Exit codes: 0 it has learned, 1 it
    has not, 3 not measured, and those of `andon train`.
    """
    from andon.core.config import load_config

    begun = time.monotonic()
    from andon import gates
    from andon.gates import evidence
    from andon.gates.report.history import append

    sources = evidence.digests([*SOURCES, str(config)])
    demo = Demo(load_config(config, list(overrides)), gates.load_gates(), sources, begun, quiet)
    folder, verdict = run_parts(demo, part, against, out)
    append(verdict)
    report = render_report(folder, json.loads(gates.render_json(verdict)))
    click.echo(gates.render_text(verdict, quiet=quiet), nl=False)
    click.echo(f"{time.monotonic() - begun:.0f} s in all. The report: {report}")
    click.echo(f"The same run in Jaeger: andon trace replay {folder} --otlp http://localhost:4318")
    sys.exit(verdict.exit_code)
