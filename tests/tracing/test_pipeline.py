"""Gates as spans: one trace a run, whose names and times are those of the pipeline and its tasks."""

import resource
from pathlib import Path

import pytest
from opentelemetry.semconv._incubating.attributes import cicd_attributes, vcs_attributes
from opentelemetry.semconv.schemas import Schemas

from andon.tracing.pipeline import SCHEMA, Task, write_pipeline
from andon.tracing.read import read_spans
from andon.tracing.send import replay
from tests.otlp import endpoint

pytestmark = pytest.mark.tier2

TASKS = [Task("lint", "success", 1_000, 2_000, 0), Task("unit", "failure", 1_500, 9_000, 1)]
COMMIT = {"vcs.ref.head.revision": "abc"}


def test_a_pipeline_is_one_trace_with_a_span_a_task(tmp_path: Path) -> None:
    """Behavior: what is read back are the tasks with their times below the pipeline, which spans them all."""
    path = tmp_path / "trace.jsonl"
    trace = write_pipeline(path, "tier1", "failure", TASKS, COMMIT)
    root, lint, unit = read_spans(path).spans
    assert {trace} == {span.trace_id for span in (root, lint, unit)}
    assert ("RUN tier1", "", 1_000, 9_000, True) == (root.name, root.parent_id, root.start, root.end, root.failed)
    assert [root.span_id] * 2 == [lint.parent_id, unit.parent_id]
    assert [(1_000, 2_000, False), (1_500, 9_000, True)] == [
        (each.start, each.end, each.failed) for each in (lint, unit)
    ]
    assert ("failure", "abc") == (root.attributes["cicd.pipeline.result"], root.attributes["vcs.ref.head.revision"])
    assert ("unit", "failure", 1) == tuple(
        unit.attributes[key]
        for key in ("cicd.pipeline.task.name", "cicd.pipeline.task.run.result", "process.exit.code")
    )


def test_names_are_those_of_the_semantic_conventions(tmp_path: Path) -> None:
    """Reference: each attribute and each result is one that the installed conventions list, and so is the schema."""
    path = tmp_path / "trace.jsonl"
    write_pipeline(path, "tier1", "failure", TASKS, COMMIT)
    known = {
        value
        for module in (cicd_attributes, vcs_attributes)
        for value in vars(module).values()
        if isinstance(value, str)
    }
    keys = {key for span in read_spans(path).spans for key in span.attributes}
    assert {"error.type", "process.exit.code"} == {key for key in keys if key not in known}
    results = {value.value for value in cicd_attributes.CicdPipelineTaskRunResultValues}
    assert {"success", "failure"} < results
    assert Schemas.V1_44_0.value == SCHEMA


def test_an_endpoint_takes_it(tmp_path: Path) -> None:
    """Behavior: what is appended is sent by replay like any run's trace, each run once."""
    path = tmp_path / "trace.jsonl"
    write_pipeline(path, "tier1", "failure", TASKS, {})
    with endpoint() as server:
        assert 3 == replay(path, server.url).accepted
        write_pipeline(path, "tier1", "success", TASKS[:1], {})
        assert 2 == replay(path, server.url).accepted
        assert ["RUN tier1", "lint", "unit", "RUN tier1", "lint"] == [span.name for span in server.spans]


def test_a_full_disk_is_an_error_and_leaves_whole_lines(tmp_path: Path) -> None:
    """Behavior: the line that does not fit is undone, what stood there stays, and whoever asked is told."""
    path, usual = tmp_path / "trace.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    write_pipeline(path, "tier1", "success", TASKS, {})
    before = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, usual[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_pipeline(path, "tier1", "success", TASKS, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert before == path.read_bytes()
