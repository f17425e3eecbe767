"""A recorded run, analyzed."""

from collections.abc import Callable, Sequence
from pathlib import Path

from andon.tracing.analysis.steps import Step, read_windows
from andon.tracing.analysis.verdict import Analysis


def analyze(path: Path, keep: Callable[[Sequence[Step]], object] = lambda steps: None) -> Analysis:
    """A trace's findings and verdict, read once in constant memory; `keep` is called with each window's steps.

    Raises TraceError as `read_spans` does.
    """
    sources: dict[str, str] = {}
    analysis = Analysis({}, sources)
    for start, steps in read_windows(path, sources):
        if start is not None:
            analysis.resumed(start)
        analysis.add(steps)
        keep(steps)
    return analysis
