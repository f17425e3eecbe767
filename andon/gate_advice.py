"""`andon gate explain`: what a red check means, and a worked way out."""

from pathlib import Path

import click

from andon.rooms import room
from andon.verdicts import config_option


@click.command("explain")
@click.argument("check")
@config_option
def explain_command(check: str, config: Path | None) -> None:
    """Say what it means when CHECK is red, how it stands now, and the steps out of it.

    \b
    Examples:
      andon gate explain lint
      andon gate explain budget
    """
    gates = room("gates")
    rules = gates.load_gates(config)
    judged = [each for tier in rules.tiers for each in gates.judge(tier.name, rules).checks]
    click.echo(room("gates.advice").explain(check, rules, judged), nl=False)
