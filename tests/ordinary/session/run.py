"""Runs a half of the corpus, each subject in a process of its own, in the interpreter that has its packages."""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from andon.verify.faults.jobs import run_jobs
from tests.bench.environments import BenchError, installed, worker_variables
from tests.ordinary.session.job import check_subject, listed, modules

LIMIT = 900.0  # seconds of one subject
CRASH = "crash"  # in the place of a check: the process died, or its time was over
REQUIREMENTS = Path("tests/ordinary/packages/requirements.txt")
UNKNOWN = 3.0  # CPU seconds that a subject without a committed measurement is taken to cost
Job = dict[str, Any]
Say = Callable[[str], None]


class Selection(NamedTuple):
    """What of the corpus is run, and how."""

    only: tuple[str, ...] = ()  # checks or areas of checks
    names: tuple[str, ...] = ()  # parts of "area: name"
    seeds: int = 1
    part: str = "1/1"
    sample: float | None = None  # CPU seconds
    commit: str = ""  # decides a sample
    workers: int = 2

    @property
    def is_whole(self) -> bool:
        """Whether all subjects meet all checks."""
        return (self.only, self.names, self.part, self.sample) == ((), (), "1/1", None)


def run(half: str, selection: Selection, costs: Mapping[str, float], say: Say) -> list[Job]:
    """The chosen jobs of a half with what came of each.

    Raises:
        BenchError: the packages cannot be installed or imported, or their interpreter ended without an answer.
    """
    if half == "own":
        return run_here(half, selection, costs, say)
    python = installed(Path(".nox/ordinary"), [["--no-deps", "--requirement", str(REQUIREMENTS)]], say)
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch, "asked.json"), Path(scratch, "answered.json")
        asked.write_text(json.dumps([half, list(selection), dict(costs)]), encoding="utf-8")
        command = [str(python), "-m", "tests.ordinary.session.worker", str(asked), str(answered)]
        done = subprocess.run(command, check=False, env=worker_variables(1))
        if done.returncode or not answered.exists():
            raise BenchError(f"{half}: `{' '.join(command)}` ended with {done.returncode}")
        return json.loads(answered.read_text(encoding="utf-8"))


def run_here(half: str, selection: Selection, costs: Mapping[str, float], say: Say) -> list[Job]:
    """The same, in this interpreter.

    Raises:
        BenchError: an area cannot be imported.
    """
    chosen, results = choose(subjects(half), selection, costs), []
    jobs = [each | {"seed": seed, "only": selection.only} for seed in range(selection.seeds) for each in chosen]
    begun = time.monotonic()
    for outcome in run_jobs([(None, job) for job in jobs], check_subject, workers=selection.workers, limit=LIMIT):
        results.append(jobs[outcome.place] | (outcome.value or crashed(outcome.error)))
        say(f"{len(results)}/{len(jobs)} {describe(results[-1])}; {pace(len(results), len(jobs), begun)}")
    return results


def subjects(half: str) -> list[Job]:
    """All subjects of a half; the processes of later jobs begin with what is imported for it.

    Raises:
        BenchError: an area cannot be imported.
    """
    outcome = next(iter(run_jobs([(None, half)], listed, limit=LIMIT, warm=modules(half))))
    if outcome.value is None:
        raise BenchError(f"the corpus's half {half!r} cannot be listed: {outcome.error}")
    return outcome.value


def crashed(error: str) -> dict[str, Any]:
    """What a job that gave no report counts as: its subject was blamed."""
    finding = {"check": CRASH, "light": "red", "mistake": True, "message": error}
    return {"findings": [finding], "passed": 0, "not_applicable": 0, "not_run": 0, "cpu": 0.0}


def label(job: Job) -> str:
    """A subject's name in tables and options."""
    return f"{job['area']}: {job['name']}"


def choose(found: list[Job], selection: Selection, costs: Mapping[str, float]) -> list[Job]:
    """Those that the selection names, of these its part, of this its sample."""
    kept = [job for job in found if not selection.names or any(text in label(job) for text in selection.names)]
    part, parts = map(int, selection.part.split("/"))
    kept = kept[part - 1 :: parts]
    return kept if selection.sample is None else list(sampled(kept, selection.sample, selection.commit, costs))


def sampled(found: list[Job], seconds: float, commit: str, costs: Mapping[str, float]) -> Iterator[Job]:
    """In an order that the commit decides, those that fit into so many CPU seconds by the committed costs."""
    for job in sorted(found, key=lambda job: hashlib.sha256(f"{commit}{label(job)}".encode()).digest()):
        cost = costs.get(label(job), UNKNOWN)
        if cost <= seconds:
            seconds -= cost
            yield job


def describe(result: Job) -> str:
    """A job and its answer, in a line."""
    checks = dict.fromkeys(f"{each['light']} {each['check']}" for each in result["findings"])
    said = ", ".join(checks) or f"nothing, {result['passed']} passed"
    return f"{label(result)} (seed {result['seed']}): {said} ({result['cpu']:.1f} s CPU)"


def pace(done: int, total: int, begun: float) -> str:
    """How fast it goes, and how long it will still take at that rate."""
    minutes = max(time.monotonic() - begun, 1e-3) / 60
    return f"{done / minutes:.0f} a minute, {(total - done) * minutes / done:.0f} min left"


def print_progress(line: str) -> None:
    """A line to stderr, at once."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - a command
