"""A run of gates as one trace: a span for the pipeline and one below it for each task, as OTLP JSON lines.

Names follow OpenTelemetry's semantic conventions for CI/CD (1.44): `cicd.pipeline.*` on the pipeline's span,
`cicd.pipeline.task.*` on each task's, the commit as `vcs.ref.head.revision`. It is written once all has ended, so that
nothing is measured along with it, and needs no SDK: the gates run where OpenTelemetry is not installed.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from andon.tracing.lines import LineFile, trim_torn_line

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
INTERNAL, SERVER, ERROR = 1, 2, 2  # OTLP's span kinds, and the status of a failed span

Result = Literal["success", "failure", "error", "timeout", "cancellation", "skip"]


class Task(NamedTuple):
    """One command of a pipeline: its name, what came of it, when it ran (nanoseconds since the epoch)."""

    name: str
    result: Result
    start: int
    end: int
    exit_code: int


def write_pipeline(
    path: Path, name: str, result: Result, tasks: Sequence[Task], attributes: Mapping[str, str | int]
) -> str:
    """Append a pipeline's trace to `path` and return its id. `attributes` go on the pipeline's span.

    Raises OSError where `path` cannot be written.
    """
    trace, root = secrets.token_hex(16), secrets.token_hex(8)
    start, end = min(task.start for task in tasks), max(task.end for task in tasks)
    shared = {"cicd.pipeline.name": name, "cicd.pipeline.run.id": trace}
    pipeline = {"cicd.pipeline.action.name": "RUN", "cicd.pipeline.result": result, **shared, **attributes}
    spans = [_span(trace, root, "", f"RUN {name}", SERVER, (start, end), result, pipeline)]
    for task in tasks:
        own = {
            "cicd.pipeline.task.name": task.name,
            "cicd.pipeline.task.run.id": f"{trace}-{task.name}",
            "cicd.pipeline.task.run.result": task.result,
            "process.exit.code": task.exit_code,
            **shared,
        }
        when = (task.start, task.end)
        spans.append(_span(trace, secrets.token_hex(8), root, task.name, INTERNAL, when, task.result, own))
    resource = {"attributes": _attributes({"service.name": "andon gates"})}
    scope = {"scope": {"name": "andon.tracing.pipeline"}, "spans": spans, "schemaUrl": SCHEMA}
    line = {"resourceSpans": [{"resource": resource, "scopeSpans": [scope], "schemaUrl": SCHEMA}]}
    path.parent.mkdir(parents=True, exist_ok=True)
    trim_torn_line(path)
    file = LineFile(path)
    file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
    file.close()
    if file.problem:
        raise file.problem
    return trace


def _span(
    trace: str,
    own: str,
    parent: str,
    name: str,
    kind: int,
    when: tuple[int, int],
    result: Result,
    attributes: Mapping[str, str | int],
) -> dict[str, Any]:
    failed = result != "success"
    return {
        "traceId": trace,
        "spanId": own,
        **({"parentSpanId": parent} if parent else {}),
        "name": name,
        "kind": kind,
        "startTimeUnixNano": str(when[0]),
        "endTimeUnixNano": str(when[1]),
        "attributes": _attributes({**attributes, **({"error.type": result} if failed else {})}),
        "status": {"code": ERROR} if failed else {},
    }


def _attributes(values: Mapping[str, str | int]) -> list[dict[str, Any]]:
    """OTLP's JSON: integers are strings there."""
    return [
        {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
        for key, value in values.items()
    ]
