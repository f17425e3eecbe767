"""`andon gate explain` and `claims`: what a red check means, and the documentation's claims beside today's evidence."""

import sys
from pathlib import Path

import click

from andon.cli.verdicts import config_option, paint
from andon.console import console


@click.command("explain")
@click.argument("check")
@config_option
def explain_command(check: str, config: Path | None) -> None:
    """Explain what it means when CHECK is red, its current state, and the steps to fix it.

    \b
    Examples:
      andon gate explain lint
      andon gate explain budget
    """
    from andon import gates
    from andon.gates.report.advice import explain

    rules = gates.load_gates(config)
    homes = {measure.tier for measure in rules.measures if measure.name == check}
    homes |= {threshold.tier for threshold in rules.thresholds if threshold.metric == check}
    judged = [each for tier in homes for each in gates.judge(tier, rules).checks]
    click.echo(explain(check, rules, judged), nl=False)


@click.command("claims")
@config_option
def claims_command(config: Path | None) -> None:
    """Show every claim of the documentation, the command that proves it, and its state by today's evidence.

    Exit codes: 0 all hold, 1 one does not, 3 one is not measured or its evidence is stale.

    \b
    Examples:
      andon gate claims
      andon gate claims --config configs/gates.toml
    """
    from andon.gates import load_gates
    from andon.gates.report import claims

    table = claims.read_claims(load_gates(config))
    verdict = claims.judge_claims(table)
    paint(console(), claims.render_claims(table, verdict))
    sys.exit(verdict.exit_code)
