"""Shared by all verbs that judge: their options, and a verdict printed or written in the chosen format."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from andon.console import console

if TYPE_CHECKING:
    from rich.console import Console

    from andon.gates.verdict import Verdict

COLORS = {"pass": "green", "PASS": "green", "red": "red", "RED": "red", "not measured": "yellow", "NOT": "yellow"}
FORMATS = ("text", "markdown", "json", "sarif", "html")

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="The file of tiers, measures and thresholds; by default andon.toml, else configs/gates.toml.",
)
OPTIONS = (
    config_option,
    click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True),
    click.option(
        "--output", type=click.Path(path_type=Path), metavar="FILE", help="Also write the verdict to this file."
    ),
    click.option("-q", "--quiet", is_flag=True, help="Print only the answer and the checks that do not pass."),
)


def verdict_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options above."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


def finish(verdict: "Verdict", config: Path, form: str, output: Path | None, *, quiet: bool) -> NoReturn:
    """Record a verdict, show it in the chosen format and exit with its code; with a file, print it as text as well."""
    from andon.gates import render_text
    from andon.gates.report.history import append

    append(verdict)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(rendered(verdict, config, form), encoding="utf-8")
    if output or form == "text":
        paint(console(), render_text(verdict, quiet=quiet))
    else:
        click.echo(rendered(verdict, config, form), nl=False)
    sys.exit(verdict.exit_code)


def rendered(verdict: "Verdict", config: Path, form: str) -> str:
    """A verdict in one of FORMATS."""
    from andon import gates

    if form == "sarif":
        return gates.render_sarif(verdict, config)
    if form == "html":
        from andon.cli.gate_page import render_page

        return render_page(verdict)
    forms = {"text": gates.render_text, "markdown": gates.render_markdown, "json": gates.render_json}
    return forms[form](verdict)


def paint(target: "Console", text: str) -> None:
    """Print lines of a verdict, each in the color of the state that it names."""
    for line in text.splitlines():
        words = line.split()[:2]
        colors = [COLORS[word] for word in words if word in COLORS and line[:1] != "\t"]
        target.print(line, style=colors[0] if colors else None)
