"""`andon trace show`: what a recorded run says of its time."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from andon.tracing.analysis.kinds import Kind
    from andon.tracing.analysis.steps import Step
    from andon.tracing.analysis.verdict import Analysis, Verdict


@click.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(run: Path, as_json: bool) -> None:
    """Say where the time of RUN went (a run's folder, or a trace.jsonl), what was found in it, and its kinds of step.

    \b
    Examples:
      andon trace show reports/runs/demo
      andon trace show reports/runs/demo --json
    """
    from andon.tracing.analysis.run import analyze
    from andon.tracing.read import files_of

    for path in files_of(run):
        steps: list[Step] = []
        analysis = analyze(path, lambda window, keep=steps: keep.extend(window))
        kinds = _kinds(steps)
        content = as_object(path, analysis, kinds)
        click.echo(json.dumps(content) if as_json else "\n".join(as_lines(path, analysis, kinds)))


def _kinds(steps: "list[Step]") -> "list[Kind] | None":
    """None where numpy is not installed."""
    from andon.tracing.analysis.kinds import kinds_of

    try:
        return kinds_of(steps)
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        return None


def as_lines(path: Path, analysis: "Analysis", kinds: "list[Kind] | None") -> list[str]:
    """For a reader: the verdict, findings in order, kinds of step."""
    from andon.tracing.analysis.kinds import words

    verdict = analysis.verdict()
    if not verdict:
        return [f"{path}: no step was recorded"]
    said = words(kinds) if kinds is not None else ["kinds of step: not measured without numpy: pip install numpy"]
    findings = [each.text for each in analysis.findings] or ["nothing was found in its steps"]
    head = f"{path}: {verdict.steps:,} steps, {verdict.seconds:,.3g} s"
    return [head, verdict.sentence(), *verdict.notes, *findings, *said]


def as_object(path: Path, analysis: "Analysis", kinds: "list[Kind] | None") -> dict[str, Any]:
    """For a program; None for what was not measured."""
    verdict = analysis.verdict()
    return {
        "trace": str(path),
        "verdict": _verdict(verdict) if verdict else None,
        "findings": [
            {"kind": each.kind, "step": each.step, **each.numbers, "text": each.text} for each in analysis.findings
        ],
        "kinds": None if not kinds else [each._asdict() | {"seconds": each.seconds} for each in kinds],
    }


def _verdict(verdict: "Verdict") -> dict[str, Any]:
    return {
        **verdict.cause._asdict(),
        "source": verdict.source,
        "next": verdict.next_step,
        "others": [each._asdict() for each in verdict.others],
        "steps": verdict.steps,
        "seconds": verdict.seconds,
        "notes": verdict.notes,
    }
