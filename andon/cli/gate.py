"""`andon gate`: run a tier's measures, judge the evidence, explain each check, show the history."""

import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from andon.cli.gate_advice import claims_command, explain_command
from andon.cli.gate_history import compare_command, history_command
from andon.cli.gate_selftest import selftest_command
from andon.cli.verdicts import config_option, finish, paint, verdict_options
from andon.console import console

if TYPE_CHECKING:
    from rich.text import Text

    from andon.gates.config import Measure
    from andon.gates.run import Step
    from andon.gates.verdict import Verdict
    from andon.tracing.pipeline import Result

RESULTS: "dict[int, Result]" = {0: "success", 124: "timeout", 127: "error"}  # of exit codes; any other one is a failure


@click.group()
def command() -> None:
    """Run a tier, judge its evidence, explain what is red, show the history.

    A measure is a command that writes evidence to reports/evidence; judging compares evidence with thresholds.
    Exit codes: 0 pass, 1 red, 2 usage, 3 could not measure.

    \b
    Examples:
      andon gate list
      andon gate run tier1
      andon gate judge tier2 --format markdown
      andon gate explain lint
      andon gate history
    """


@command.command("run")
@click.argument("tier")
@verdict_options
@click.option("--otlp", metavar="URL", help="Send the run's spans to this endpoint, such as http://localhost:4318.")
def run_command(
    tier: str, config: Path | None, form: str, output: Path | None, otlp: str | None, *, quiet: bool
) -> None:
    """Run all measures of TIER, with a line for each, then judge their evidence.

    The run is recorded as a trace in reports/evidence/trace.jsonl, with a span for each measure.

    \b
    Examples:
      andon gate run tier1
      andon gate run tier2 --format json
      andon gate run tier3 --format sarif --output reports/tier3.sarif
    """
    from andon import gates

    path = config or gates.find_config()
    rules = gates.load_gates(path)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as a background job ignores Ctrl-C
            signal.signal(number, exit_once)
    progress = Progress(show=not quiet and (form == "text" or output is not None))
    with progress:
        gates.run(tier, rules, watch=progress.watch)
    verdict = gates.judge(tier, rules)
    trace(verdict, progress.tasks, otlp)
    finish(verdict, path, form, output, quiet=quiet)


@command.command("judge")
@click.argument("tier")
@verdict_options
def judge_command(tier: str, config: Path | None, form: str, output: Path | None, *, quiet: bool) -> None:
    """Judge TIER by the existing evidence, without running anything.

    \b
    Examples:
      andon gate judge tier2
      andon gate judge demo --format json
      andon gate judge tier3 --format html --output reports/tier3.html
    """
    from andon import gates

    path = config or gates.find_config()
    finish(gates.judge(tier, gates.load_gates(path)), path, form, output, quiet=quiet)


@command.command("list")
@click.argument("only", required=False, metavar="[TIER]")
@config_option
def list_command(only: str | None, config: Path | None) -> None:
    """Show the measures and thresholds of each tier, or of one.

    \b
    Examples:
      andon gate list
      andon gate list tier2
    """
    from andon.gates import load_gates

    gates = load_gates(config)
    for tier in [gates.tier(only)] if only else gates.tiers:
        budget = f", {tier.budget_seconds:g} s" if tier.budget_seconds else ""
        included = f", with all of {tier.includes}" if tier.includes else ""
        click.echo(f"{tier.name}: {tier.summary}{included}{budget}")
        for measure in [each for each in gates.measures if each.tier == tier.name]:
            click.echo(_measure_line(measure))
        for threshold in [each for each in gates.thresholds if each.tier == tier.name]:
            click.echo(f"  {threshold.metric} {threshold.operator} {threshold.value:g}: {threshold.why}")


def _measure_line(measure: "Measure") -> str:
    seconds = f"{measure.budget_seconds:g} s" if measure.budget_seconds else ""
    instead = f" (instead of {', '.join(measure.supersedes)})" if measure.supersedes else ""
    return f"  {measure.name:<12} {measure.lane:<8} {seconds:>6}  {measure.command}{instead}"


for subcommand in (claims_command, explain_command, history_command, compare_command, selftest_command):
    command.add_command(subcommand)


def trace(verdict: "Verdict", tasks: list[tuple[str, int, int, int]], otlp: str | None) -> None:
    """Write what ran as spans, and send them where asked for."""
    from andon.gates.commits import head
    from andon.gates.evidence import FOLDER
    from andon.tracing import TraceError, pipeline, replay

    if not tasks:
        return
    commit = head()
    path = FOLDER / "trace.jsonl"
    spans = [pipeline.Task(name, RESULTS.get(code, "failure"), start, end, code) for name, start, end, code in tasks]
    result: Result = RESULTS.get(verdict.exit_code, "failure" if verdict.exit_code == 1 else "error")
    revision = {"vcs.ref.head.revision": commit} if commit else {}
    pipeline.write_pipeline(path, verdict.tier, result, spans, revision)
    if otlp:
        try:
            replay(path, otlp)
        except TraceError as error:  # the verdict does not depend on it
            click.echo(f"andon: {error}", err=True)


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
        self.tasks: list[tuple[str, int, int, int]] = []  # name, start and end in nanoseconds of the epoch, exit code
        self.lock = threading.Lock()  # lanes report from threads of their own
        self.live = Live(console=self.console, get_renderable=self.running, transient=True)

    def __enter__(self) -> None:
        if self.show and self.console.is_terminal:
            self.live.start()

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def watch(self, step: "Step") -> None:
        """Note that a step has started, or print that it has ended."""
        with self.lock:
            if step.seconds is None or step.exit_code is None:
                self.started[step.measure.name] = time.monotonic()
                return
            del self.started[step.measure.name]
            end = time.time_ns()
            self.tasks.append((step.measure.name, end - int(step.seconds * 1e9), end, step.exit_code))
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
