"""The workflow, the hooks and the noxfile name the same things."""

import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from andon.cli.main import cli
from andon.gates.config import load_gates
from tests.conftest import TIERS
from tests.sessions import is_known, sessions

pytestmark = pytest.mark.tier2

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "gates.yml"


def read(path: Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def commands(job: dict[str, Any]) -> list[str]:
    """What a job runs."""
    return [step["run"] for step in job["steps"] if "run" in step]


def lines_run() -> list[list[str]]:
    """The words behind each `nox -s` of the workflow, its matrices filled in."""
    jobs = read(WORKFLOW)["jobs"]
    lines = [line for job in jobs.values() for line in commands(job)]
    found = [words for line in lines for words in re.findall(r"nox -s (\w.*)", line)]
    return [each.split() for each in [*found, *jobs["nightly"]["strategy"]["matrix"]["session"]]]


def test_the_workflow_runs_sessions_that_exist() -> None:
    """Behavior: every `nox -s` of every job, matrices filled in, is a session, and every measure is one."""
    found = lines_run()
    assert {"tier2", "tier3", "mutation", "ci", "jaeger", "browser"} <= {words[0] for words in found}
    assert [] == [words for words in found if not is_known(words[0], *words[2:])]


INCLUDED = {"tier1": "tier2", "long": "ci"}  # the session of the workflow that runs a mark which has none of its own


def test_every_mark_is_run() -> None:
    """Behavior: each mark of a test has its session, its row in CONTRIBUTING, and a job of the workflow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    marks = [line.partition(":")[0] for line in project["tool"]["pytest"]["markers"]]
    assert set(marks) == set(TIERS)
    guide, run = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), {words[0] for words in lines_run()}
    for mark in marks:
        session = "tests" if mark == "long" else mark
        assert session in sessions(), mark
        assert re.search(rf"^\| `{mark}` \| `nox -s {session}` \|", guide, re.MULTILINE), mark
        assert INCLUDED.get(mark, mark) in run, mark


def test_the_oldest_and_the_newest_python_run() -> None:
    """Behavior: of the Pythons that the package promises, each push and each pull request tests the ends."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    promised = [version for line in project["classifiers"] for version in re.findall(r"Python :: (3\.\d+)$", line)]
    assert f">={promised[0]}" == project["requires-python"]
    jobs = read(WORKFLOW)["jobs"]
    for name in ("tier2", "tier3"):
        assert [promised[0], promised[-1]] == jobs[name]["strategy"]["matrix"]["python"]


def test_the_workflow_trusts_nothing_that_can_change() -> None:
    """Behavior: actions are pinned by commit, no expression stands in a command, and no checkout keeps credentials."""
    used = re.findall(r"uses: (\S+)(.*)", WORKFLOW.read_text(encoding="utf-8"))
    pinned = [re.fullmatch(r"[\w/.-]+@[0-9a-f]{40} # v[\d.]+", f"{action}{comment}") for action, comment in used]
    assert used
    assert all(pinned), used
    steps = [step for job in read(WORKFLOW)["jobs"].values() for step in job["steps"]]
    assert [] == [step["run"] for step in steps if "${{" in step.get("run", "")]
    checkouts = [step["with"] for step in steps if step.get("uses", "").startswith("actions/checkout@")]
    assert {False} == {options["persist-credentials"] for options in checkouts}


def test_each_event_has_its_tier() -> None:
    """Behavior: tier 2 on a push, tier 3 and all shards of the mutants on a pull request, everything at night."""
    content = read(WORKFLOW)
    events, jobs = content[True], content["jobs"]  # YAML 1.1 reads `on` as a truth
    assert {"push", "pull_request", "schedule", "workflow_dispatch"} == set(events)
    conditions = {name: job["if"] for name, job in jobs.items()}
    assert "github.event_name == 'push'" == conditions["tier2"]
    assert "github.event_name == 'pull_request'" == conditions["tier3"] == conditions["mutation"]
    shards = jobs["mutation"]["strategy"]["matrix"]["shard"]
    assert f'nox -s mutation -- --shard "$SHARD/{len(shards)}"' in commands(jobs["mutation"])
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
