"""The workflow, the hooks and the noxfile name the same things."""

import ast
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from andon.cli.main import cli
from andon.gates.config import load_gates

pytestmark = pytest.mark.tier2

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "gates.yml"


def read(path: Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def sessions() -> set[str]:
    """The sessions of the noxfile."""
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {each.name for each in functions if any("session" in ast.unparse(d) for d in each.decorator_list)}


def commands(job: dict[str, Any]) -> list[str]:
    """What a job runs."""
    return [step["run"] for step in job["steps"] if "run" in step]


def test_the_workflow_runs_sessions_that_exist() -> None:
    """Behavior: every `nox -s` of every job, matrices filled in, is a session."""
    jobs = read(WORKFLOW)["jobs"]
    lines = [line for job in jobs.values() for line in commands(job)]
    named = {name for line in lines for name in re.findall(r"nox -s (\w+)", line)}
    named |= set(jobs["nightly"]["strategy"]["matrix"]["session"])
    assert {"tier2", "tier3", "mutation", "ci", "jaeger"} <= named
    assert named <= sessions()


def test_each_event_has_its_tier() -> None:
    """Behavior: tier 2 on a push, tier 3 and all shards of the mutants on a pull request, everything at night."""
    content = read(WORKFLOW)
    events, jobs = content[True], content["jobs"]  # YAML 1.1 reads `on` as a truth
    assert {"push", "pull_request", "schedule", "workflow_dispatch"} == set(events)
    conditions = {name: job["if"] for name, job in jobs.items()}
    assert "github.event_name == 'push'" == conditions["tier2"]
    assert "github.event_name == 'pull_request'" == conditions["tier3"] == conditions["mutation"]
    shards = jobs["mutation"]["strategy"]["matrix"]["shard"]
    assert f"nox -s mutation -- --shard ${{{{ matrix.shard }}}}/{len(shards)}" in commands(jobs["mutation"])
    assert list(range(1, len(shards) + 1)) == shards
    assert "mutation" == jobs["mutation-score"]["needs"]
    assert all(job["timeout-minutes"] for job in jobs.values())
    assert {"contents": "read"} == content["permissions"]


def test_jaeger_is_the_one_of_compose() -> None:
    """Behavior: the service container and compose.yaml run the same image."""
    service = read(WORKFLOW)["jobs"]["jaeger"]["services"]["jaeger"]
    assert read(ROOT / "compose.yaml")["services"]["jaeger"]["image"] == service["image"]
    assert read(WORKFLOW)["jobs"]["jaeger"]["env"]["JAEGER_URL"].endswith(":16686")


def test_hooks_run_tiers_that_exist() -> None:
    """Behavior: our own hook and those for others are `andon gate` lines with options that it has."""
    own = [hook for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    offered = read(ROOT / ".pre-commit-hooks.yaml")
    assert ["andon-tier1"] == [hook["id"] for hook in own]
    assert {"andon-tier1", "andon-judge"} == {hook["id"] for hook in offered}
    for hook in [*own, *offered]:
        assert {"id", "name", "entry", "language"} <= set(hook)
        program, verb, *words = hook["entry"].split()
        assert ("andon", "gate") == (Path(program).name, verb)
        group = cli.get_command(click.Context(cli), "gate")
        assert isinstance(group, click.Group)
        command = group.commands[words.pop(0)]
        context = command.make_context(command.name, words)
        load_gates().tier(context.params["tier"])
