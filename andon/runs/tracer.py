"""The span factory of a run."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon.runs.screen import Say
from andon.text import without_secrets

if TYPE_CHECKING:
    from andon.core.training.loop import Span


@contextmanager
def open_tracer(
    folder: Path, attributes: dict[str, Any], otlp: str | None, say: Say, *, traced: bool
) -> "Generator[Span]":
    """Yield a span factory that writes `trace.jsonl`; one without effect if not `traced` or without OpenTelemetry."""
    from andon.core.training.loop import no_span

    if not traced:
        yield no_span
        return
    try:
        from andon.tracing import record
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        say("tracing off: pip install 'andon[trace]'")
        yield no_span
        return
    with record.open_trace(folder / "trace.jsonl", folder.name, attributes, otlp=otlp) as trace:
        yield trace.span
    for note in trace.notes:
        say(without_secrets(note))
