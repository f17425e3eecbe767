"""`andon gate history` and `compare`: how the verdicts of a tier have been, and what two commits differ in."""

import sys

import click


@click.command("history")
@click.argument("tier", required=False)
@click.option("--check", metavar="NAME", help="Show this check alone, or those whose names begin so.")
def history_command(tier: str | None, check: str | None) -> None:
    """Show how each check of a tier has been: its first and last value, and the way between.

    Verdicts are kept in reports/history.jsonl, a line each, with their commits.

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
    """Show what the verdicts of two commits differ in, and which measured files changed between them.

    Exit codes: 0 compared, 2 usage, 3 not measured at one of them, or in a shallow clone.

    \b
    Examples:
      andon gate compare HEAD~1..HEAD
    """
    from andon.gates import commits as git
    from andon.gates.report import history

    first, dots, last = commits.partition("..")
    if not (first and dots and last):
        raise click.UsageError(f"{commits!r} names no two commits; write A..B, such as HEAD~1..HEAD")
    text, whole = history.compare(history.read(), git.resolve(first), git.resolve(last))
    click.echo(text, nl=False)
    sys.exit(0 if whole else 3)
