"""`andon gate history` and `compare`: a tier's verdicts over time, and the differences between two commits."""

import sys

import click


@click.command("history")
@click.argument("tier", required=False)
@click.option("--check", metavar="NAME", help="Show only checks whose names begin with this.")
def history_command(tier: str | None, check: str | None) -> None:
    """Show each check of a tier over time: its first and last value, and a sparkline between.

    Verdicts are kept with their commits in reports/history.jsonl, one per line.

    \b
    Examples:
      andon gate history
      andon gate history tier2 --check coverage
    """
    from andon.gates.report import history

    entries = [entry for entry in history.read() if tier in (None, entry["tier"])]
    for entry in entries:
        entry["checks"] = {name: each for name, each in entry["checks"].items() if name.startswith(check or "")}
    click.echo(history.render_trends(entries), nl=False)


@click.command("compare")
@click.argument("commits", metavar="A..B")
def compare_command(commits: str) -> None:
    """Show how the verdicts of two commits differ, and which measured files changed between them.

    Exit codes: 0 compared, 2 usage, 3 not measured at one of them, or in a shallow clone.

    \b
    Examples:
      andon gate compare HEAD~1..HEAD
    """
    from andon.gates import commits as git
    from andon.gates.report import history

    first, dots, last = commits.partition("..")
    if not (first and dots and last):
        raise click.UsageError(f"{commits!r} does not name two commits; write A..B, such as HEAD~1..HEAD")
    text, whole = history.compare(history.read(), git.resolve(first), git.resolve(last))
    click.echo(text, nl=False)
    sys.exit(0 if whole else 3)
