"""`andon gate`: run a tier's measures, judge the evidence, list what each tier holds."""

import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from andon.rooms import room

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

COLOURS = {"pass": "green", "PASS": "green", "red": "red", "RED": "red", "not measured": "yellow", "NOT": "yellow"}

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=Path("configs/gates.toml"),
    show_default=True,
    help="The file of tiers, measures and thresholds.",
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print the answer and what does not pass, no more.")
json_option = click.option("--json", "form", flag_value="json", help="Print the verdict as JSON.")
markdown_option = click.option("--markdown", "form", flag_value="markdown", help="Print the verdict as Markdown.")


@click.group()
def command() -> None:
    """Run a tier, judge its evidence, list what it holds.

    A measure is a command that leaves evidence in reports/evidence; judging compares evidence with thresholds.
    Exit codes: 0 pass, 1 red, 2 usage, 3 could not measure.

    \b
    Examples:
      andon gate list
      andon gate run tier1
      andon gate run tier2 --quiet
      andon gate judge tier1 --markdown
    """


@command.command("run")
@click.argument("tier")
@config_option
@quiet_option
@json_option
@markdown_option
def run_command(tier: str, config: Path, form: str | None, *, quiet: bool) -> None:
    """Run all measures of TIER, a line each with its time, then judge what they left.

    \b
    Examples:
      andon gate run tier1
      andon gate run tier2 --json
    """
    gates = room("gates")
    rules = gates.load_gates(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as a background job ignores Ctrl-C
            signal.signal(number, exit_once)
    progress = Progress(show=not quiet and not form)
    with progress:
        gates.run(tier, rules, watch=progress.watch)
    finish(gates.judge(tier, rules), form, quiet=quiet)


@command.command("judge")
@click.argument("tier")
@config_option
@quiet_option
@json_option
@markdown_option
def judge_command(tier: str, config: Path, form: str | None, *, quiet: bool) -> None:
    """Judge TIER by the evidence that lies there; runs nothing.

    \b
    Examples:
      andon gate judge tier2
      andon gate judge demo --json
    """
    gates = room("gates")
    finish(gates.judge(tier, gates.load_gates(config)), form, quiet=quiet)


@command.command("list")
@config_option
def list_command(config: Path) -> None:
    """Show what each tier runs and what it must reach.

    \b
    Examples:
      andon gate list
      andon gate list --config configs/gates.toml
    """
    gates = room("gates").load_gates(config)
    for tier in gates.tiers:
        budget = f", {tier.budget_seconds:g} s" if tier.budget_seconds else ""
        included = f", with all of {tier.includes}" if tier.includes else ""
        click.echo(f"{tier.name}: {tier.summary}{included}{budget}")
        for measure in gates.measures:
            if measure.tier == tier.name:
                instead = f" (instead of {', '.join(measure.supersedes)})" if measure.supersedes else ""
                click.echo(f"  {measure.name:<10} {measure.command}{instead}")
        for threshold in gates.thresholds:
            if threshold.tier == tier.name:
                click.echo(f"  {threshold.metric} {threshold.operator} {threshold.value:g}: {threshold.why}")


def exit_once(number: int, frame: object) -> None:
    """Exit as by this signal, deaf to the next: one that arrives while the measures are being ended would spare some.

    They come in pairs where a whole process group is told and a parent passes on what it got. A handler that does
    nothing, not SIG_IGN: Python reports a signal that it has noted and finds ignored as an error ("race condition").
    """
    del frame
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: None)
    sys.exit(128 + number)


def finish(verdict: Any, form: str | None, *, quiet: bool) -> None:
    """Print a verdict in the form asked for and exit with its code."""
    gates = room("gates")
    if form:
        click.echo(gates.render_json(verdict) if form == "json" else gates.render_markdown(verdict), nl=False)
    else:
        paint(console(), gates.render_text(verdict, quiet=quiet))
    sys.exit(verdict.exit_code)


def console() -> "Console":
    """A terminal's or a file's; rich honours NO_COLOR and leaves plain text in a file."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def paint(target: "Console", text: str) -> None:
    """Print lines of a verdict, each in the colour of the state that it names."""
    for line in text.splitlines():
        words = line.split()[:2]
        colours = [COLOURS[word] for word in words if word in COLOURS and line[:1] != "\t"]
        target.print(line, style=colours[0] if colours else None)


class Progress:
    """A line for each measure as it ends; on a terminal, below them what still runs and for how long."""

    def __init__(self, *, show: bool) -> None:
        from rich.live import Live

        self.console, self.show = console(), show
        self.started: dict[str, float] = {}
        self.lock = threading.Lock()  # lanes report from threads of their own
        self.live = Live(console=self.console, get_renderable=self.running, transient=True)

    def __enter__(self) -> None:
        if self.show and self.console.is_terminal:
            self.live.start()

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def watch(self, step: Any) -> None:
        """Note that a step has started, or print that it has ended."""
        with self.lock:
            if step.seconds is None:
                self.started[step.measure.name] = time.monotonic()
                return
            del self.started[step.measure.name]
            if self.show:
                state = "RED" if step.exit_code else "pass"
                paint(
                    self.console,
                    f"  {state:<4}  {step.measure.name:<10}  {step.seconds:7.1f} s  {step.measure.command}",
                )

    def running(self) -> "Text":
        """What runs now."""
        from rich.text import Text

        with self.lock:
            now = time.monotonic()
            return Text("\n".join(f"  ....  {name:<10}  {now - at:7.1f} s" for name, at in self.started.items()))
