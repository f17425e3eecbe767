"""What a run records of itself as spans, and where it sends them."""

import hashlib
import json
import shlex
import sys
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from andon import __version__
from andon.runs.screen import Say
from andon.text import without_secrets

if TYPE_CHECKING:
    from andon.core.config import Config
    from andon.core.training.loop import Span, StepRecord
    from andon.gates import Verdict
    from andon.runs.setup import RunSetup
    from andon.tracing.analysis.findings import Finding
    from andon.tracing.endpoint import Endpoint
    from andon.tracing.record import Trace

LOOK_SECONDS = 0.4  # for Jaeger's page, at a run's end


class Tracer(NamedTuple):
    """The span factory of a run, the ids of its last step's span for the log, and a place for findings."""

    span: "Span"
    step_ids: Callable[[], dict[str, str]] = dict
    finding: Callable[..., None] = lambda kind, **numbers: None
    findings: "deque[Finding] | tuple[()]" = ()  # in the run's steps, that have not been said

    def say_findings(self, say: Say) -> None:
        """A line for each finding since the last call."""
        while self.findings:
            say(self.findings.popleft().text)

    def note_verdict(self, verdict: "Verdict") -> None:
        """A finding for each bound of the cord that is broken."""
        for check in verdict.checks:
            if check.state == "red" and check.value is not None and check.threshold is not None:
                self.finding(check.name, value=check.value, threshold=check.threshold)


def log_step(
    record: "StepRecord", write: Callable[[str], object], tracer: Tracer, say: Say, *, profiled: bool = False
) -> None:
    """Log a step with the ids of its span; one that was skipped is said and found, one that was profiled is marked."""
    mark = {"profiled": True} if profiled else {}
    write(json.dumps({"kind": "step"} | asdict(record) | mark | tracer.step_ids()) + "\n")
    if record.skipped:
        tracer.finding("train.skipped", step=record.step)
        say(f"step {record.step}: skipped: loss {record.loss}, gradient norm {record.grad_norm}")
    tracer.say_findings(say)


def command_line() -> str:
    """What was called, without the password of an address."""
    return without_secrets(shlex.join(["andon", *sys.argv[1:]]))


def endpoint_of(otlp: str | None, *, traced: bool) -> "Endpoint | None":
    """Where a run's spans go, besides its folder: as said, or as OpenTelemetry's variables say.

    Raises TraceError where that cannot be used.
    """
    from andon.tracing.endpoint import endpoint, named_by_environment

    return endpoint(otlp) if traced and (otlp is not None or named_by_environment()) else None


def describe(setup: "RunSetup", config: "Config", device: str) -> dict[str, Any]:
    """What a run's first span says: what is trained, on what, by which code."""
    from andon.core.config import dump_config
    from andon.gates.commits import head
    from andon.tracing.loop import surroundings

    commit = head()
    return {
        "train.steps": setup.dataset.steps(config),
        "train.config.sha256": hashlib.sha256(dump_config(config).encode()).hexdigest(),
        **({"vcs.ref.head.revision": commit} if commit else {}),
        "train.model": f"llama, {config.model.num_hidden_layers} layers of {config.model.hidden_size}",
        "train.model.parameters": sum(parameter.numel() for parameter in setup.state.model.parameters()),
        "train.adapter": setup.verb.removeprefix("finetune ") if setup.base else "none",
        "train.dtype": config.training.dtype,
        **surroundings(),
        "train.device": device,
    }


@contextmanager
def open_tracer(
    folder: Path, attributes: dict[str, Any], to: "Endpoint | None", say: Say, *, traced: bool
) -> Generator[Tracer]:
    """Yield what writes `trace.jsonl`, and sends it to an endpoint if there is one; without effect if not `traced`."""
    from andon.core.training.loop import no_span

    if not traced:
        yield Tracer(no_span)
        return
    from andon.tracing import record

    path = folder / "trace.jsonl"
    with record.open_trace(path, folder.name, attributes, otlp=to, service_version=__version__) as trace:
        tracer = Tracer(
            trace.span,
            lambda: dict(zip(("trace_id", "span_id"), trace.last_step, strict=True)),
            trace.finding,
            trace.findings,
        )
        yield tracer
    tracer.say_findings(say)
    if trace.verdict:
        say(f"where the time went: {trace.verdict.sentence()}")
    for note in trace.notes:
        say(without_secrets(note))
    if to and trace.delivered:
        _say_links(trace, to, folder.name, say)


def _say_links(trace: "Trace", to: "Endpoint", run_id: str, say: Say) -> None:
    from andon.tracing import jaeger

    if page := jaeger.view(to, LOOK_SECONDS):
        say(f"{trace.delivered} spans, in Jaeger's view:")
        for link in jaeger.links(page, trace.trace_ids, run_id):
            say(f"  {link}")
