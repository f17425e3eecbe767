"""`andon gate`: run a tier's measures, judge the evidence, say what each check means and how it has been."""

import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from andon.gate_advice import explain_command
from andon.gate_history import compare_command, history_command
from andon.gate_selftest import selftest_command
from andon.rooms import room
from andon.verdicts import config_option, console, finish, paint, verdict_options

if TYPE_CHECKING:
    from rich.text import Text


@click.group()
def command() -> None:
    """Run a tier, judge its evidence, explain what is red, show how it has been.

    A measure is a command that leaves evidence in reports/evidence; judging compares evidence with thresholds.
    Exit codes: 0 pass, 1 red, 2 usage, 3 could not measure.

    \b
    Examples:
      andon gate list
      andon gate run tier1
      andon gate judge tier2 --format markdown
      andon gate explain lint
      andon gate history
    """


for subcommand in (explain_command, history_command, compare_command, selftest_command):
    command.add_command(subcommand)


@command.command("run")
@click.argument("tier")
@verdict_options
def run_command(tier: str, config: Path | None, form: str, output: Path | None, *, quiet: bool) -> None:
    """Run all measures of TIER, a line each with its time, then judge what they left.

    \b
    Examples:
      andon gate run tier1
      andon gate run tier2 --format json
      andon gate run tier3 --format sarif --output reports/tier3.sarif
    """
    gates = room("gates")
    path = config or gates.find_config()
    rules = gates.load_gates(path)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as a background job ignores Ctrl-C
            signal.signal(number, exit_once)
    progress = Progress(show=not quiet and (form == "text" or output is not None))
    with progress:
        gates.run(tier, rules, watch=progress.watch)
    finish(gates.judge(tier, rules), path, form, output, quiet=quiet)


@command.command("judge")
@click.argument("tier")
@verdict_options
def judge_command(tier: str, config: Path | None, form: str, output: Path | None, *, quiet: bool) -> None:
    """Judge TIER by the evidence that lies there; runs nothing.

    \b
    Examples:
      andon gate judge tier2
      andon gate judge demo --format json
    """
    gates = room("gates")
    path = config or gates.find_config()
    finish(gates.judge(tier, gates.load_gates(path)), path, form, output, quiet=quiet)


@command.command("list")
@click.argument("only", required=False, metavar="[TIER]")
@config_option
def list_command(only: str | None, config: Path | None) -> None:
    """Show what each tier, or one of them, runs and what it must reach.

    \b
    Examples:
      andon gate list
      andon gate list tier2
    """
    gates = room("gates").load_gates(config)
    for tier in [gates.tier(only)] if only else gates.tiers:
        budget = f", {tier.budget_seconds:g} s" if tier.budget_seconds else ""
        included = f", with all of {tier.includes}" if tier.includes else ""
        click.echo(f"{tier.name}: {tier.summary}{included}{budget}")
        for measure in [each for each in gates.measures if each.tier == tier.name]:
            seconds = f"{measure.budget_seconds:g} s" if measure.budget_seconds else ""
            instead = f" (instead of {', '.join(measure.supersedes)})" if measure.supersedes else ""
            click.echo(f"  {measure.name:<12} {measure.lane:<8} {seconds:>6}  {measure.command}{instead}")
        for threshold in [each for each in gates.thresholds if each.tier == tier.name]:
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
