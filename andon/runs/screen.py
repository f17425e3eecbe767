"""The progress of a run: a bar on a terminal, a line every few seconds elsewhere."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from andon.text import clean

if TYPE_CHECKING:
    from andon.core.training.loop import StepRecord

LINE_EVERY_SECONDS = 5.0
Say = Callable[[str], None]


@contextmanager
def progress(done: int, total: int, *, quiet: bool) -> Generator[tuple[Callable[["StepRecord"], None], Say]]:
    """Yield a function to call with each step's record, and one that prints a line above the bar."""
    if quiet:
        yield lambda record: None, lambda text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        yield _line_printer(done, total), lambda text: click.echo(clean(text))
        return
    columns = (
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:,.0f} tokens/s  left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("steps", total=total, completed=done, loss=float("nan"), rate=0.0)
        speed = _smoothed_throughput()
        yield (
            lambda record: bar.update(task, completed=record.step, loss=record.loss, rate=speed(record)),
            lambda text: console.print(clean(text)),
        )


def _line_printer(done: int, total: int) -> Callable[["StepRecord"], None]:
    begun, speed = time.monotonic(), _smoothed_throughput()
    printed = begun - LINE_EVERY_SECONDS

    def show(record: "StepRecord") -> None:
        nonlocal printed
        now, rate = time.monotonic(), speed(record)
        if now - printed >= LINE_EVERY_SECONDS or record.step == total:
            printed = now
            left = (now - begun) / (record.step - done) * (total - record.step)
            click.echo(
                f"step {record.step}/{total}  loss {record.loss:.3f}  {rate:,.0f} tokens/s  "
                f"{int(left // 60)}:{int(left % 60):02d} left"
            )

    return show


def _smoothed_throughput() -> Callable[["StepRecord"], float]:
    """Tokens per second, smoothed over about ten steps."""
    smooth = 0.0

    def speed(record: "StepRecord") -> float:
        nonlocal smooth
        now = record.tokens / max(sum(record.seconds.values()), 1e-9)
        smooth = 0.9 * smooth + 0.1 * now if smooth else now
        return smooth

    return speed
