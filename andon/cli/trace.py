"""`andon trace`: deliver a run's recorded spans to an OTLP endpoint such as Jaeger."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

if TYPE_CHECKING:
    from andon.tracing.read import Recording
    from andon.tracing.send import Delivery

BAR_AFTER_SECONDS = 2.0
LISTED = 5


@click.group()
def command() -> None:
    """Send a recorded run to an OTLP endpoint such as Jaeger."""


@command.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--otlp", "url", required=True, help="OTLP/HTTP endpoint, such as http://localhost:4318 for Jaeger.")
@click.option("--again", is_flag=True, help="Send everything, also what was accepted before.")
@click.pass_context
def replay(context: click.Context, run: Path, url: str, again: bool) -> None:
    """Send the spans of RUN (a run's folder, or a trace.jsonl) and say what was accepted.

    What was accepted is noted beside the trace, so an interrupted replay goes on where it stopped.

    \b
    Examples:
      andon trace replay reports/runs/demo --otlp http://localhost:4318
      andon trace replay reports/runs/demo --otlp http://localhost:4318 --again
    """
    from andon.tracing import read, send

    path = run / "trace.jsonl" if run.is_dir() else run
    recording = read.read_spans(path)
    with bar(len(recording.spans) if again else send.undelivered(path, url)) as advance:
        delivery = send.replay(path, url, again=again, progress=advance)
    click.echo("\n".join(summary(recording, delivery, url)))
    if delivery.rejected:
        context.exit(1)


@contextmanager
def bar(total: int) -> Generator[Callable[[int], None], None, None]:
    """A progress bar over `total` spans that shows itself only once the work has taken BAR_AFTER_SECONDS."""
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn  # slow to import

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, transient=True)
    task = progress.add_task("spans", total=total)
    begin = time.monotonic()

    def advance(spans: int) -> None:
        progress.advance(task, spans)
        if time.monotonic() - begin > BAR_AFTER_SECONDS:
            progress.start()

    try:
        yield advance
    finally:
        if progress.live.is_started:
            progress.stop()


def summary(recording: "Recording", delivery: "Delivery", url: str) -> Iterator[str]:
    """What was accepted, what the trace lacks, and where to look at it."""
    if delivery.accepted or delivery.rejected:
        yield f"{url} accepted {delivery.accepted} of {delivery.accepted + delivery.rejected} spans"
    else:
        yield f"nothing new: {url} has all {len(recording.spans)} spans; --again sends them again"
    if delivery.rejected:
        yield f"rejected {delivery.rejected}: {delivery.reason or 'the endpoint did not say why'}"
    if recording.torn_bytes:
        yield f"left out a torn last line of {recording.torn_bytes} bytes: the run was killed while writing it"
    yield from rootless(recording)
    ids = list(dict.fromkeys(span.trace_id for span in recording.spans))
    yield f"{len(ids)} traces, in Jaeger's view:"
    view = f"http://{urlsplit(url).hostname}:16686/trace"
    shown = ids if len(ids) <= 2 * LISTED else [*ids[:LISTED], "", *ids[-LISTED:]]
    for trace_id in shown:
        yield f"  {view}/{trace_id}" if trace_id else f"  ... {len(ids) - 2 * LISTED} more"


def rootless(recording: "Recording") -> Iterator[str]:
    """A sentence on spans whose window was still open when the file ended."""
    ids = {span.span_id for span in recording.spans}
    orphans = [span for span in recording.spans if span.parent_id and span.parent_id not in ids]
    if orphans:
        steps = [span.attributes["train.step"] for span in orphans if "train.step" in span.attributes]
        where = f" (steps {min(steps)} to {max(steps)})" if steps else ""
        yield f"{len(orphans)} spans{where} have no window: the run ended, or is still, inside it"
