"""What `andon dev mutation` asks: which mutants have an answer that holds, and what tests say of the others."""

import contextlib
import functools
import hashlib
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from andon.workshop import asking

if TYPE_CHECKING:
    from andon.gates.measures.mutation.keys import Covering

WARM = ("numpy", "pydantic", "pytest", "hypothesis", "safetensors.torch", "tokenizers", "torch", "torch.optim")
WARM += ("torch._dynamo", "torch.utils.checkpoint")
KEEP_SECONDS = 20.0  # of work that an interruption may cost


class PlanError(ValueError):
    """Tests that cannot be asked; the message says which and what to do."""


class Job(NamedTuple):
    """One mutant to plant, and the tests to ask."""

    mutant: Any
    tests: tuple[str, ...]


@dataclass
class Work:
    """`results` holds every answer that still holds; the jobs are asked in turn."""

    results: Any
    fresh: list[Job] = field(default_factory=list)
    again: list[Job] = field(default_factory=list)


class Answers(NamedTuple):
    """What came of a run."""

    results: Any
    fresh: int  # mutants asked that had no answer
    again: int  # mutants asked that had one
    disagreeing: int  # of those, with another answer now


def measure(
    plan: Any,
    kept: Any,
    *,
    every: bool = False,
    part: tuple[int, int] = (0, 1),
    workers: int = 2,
    deadline: float | None = None,
    note: Callable[[int, int], None] = lambda done, total: None,
    keep: Callable[[Any], None] | None = None,
) -> Answers:
    """Ask the tests about what has no answer in `kept`, and with a deadline about as much of the rest as there is time.

    `keep` gets the results so far now and then: what has no answer there yet is asked by a run without `every`.

    Raises:
        PlanError: a test is red without any mutant.
    """
    work = prepared(plan, kept, workers, every=every, part=part, sampled=deadline is not None)
    jobs = [*work.fresh, *work.again]
    rows: dict[tuple[str, str], list[Any]] = {}
    done = fresh = disagreeing = 0
    kept_at = time.monotonic()
    for job, row in answers(jobs, plan.limit_seconds, workers, deadline):
        at = job.mutant.file, job.mutant.function
        held = next((old for old in work.results[at[0]].functions[at[1]].rows if old.id == row.id), None)
        fresh += held is None
        disagreeing += held is not None and held.state != row.state
        rows.setdefault(at, []).append(row)
        done += 1
        note(done, len(jobs))
        if keep and time.monotonic() - kept_at >= KEEP_SECONDS:
            keep(with_rows(work.results, rows))
            kept_at = time.monotonic()
    return Answers(with_rows(work.results, rows), fresh, done - fresh, disagreeing)


def prepared(
    plan: Any, kept: dict[str, Any], workers: int, *, every: bool, part: tuple[int, int], sampled: bool
) -> Work:
    """Sort all mutants into those whose answer holds and those to ask about."""
    from andon.gates.measures.mutation import generate, results

    covered = coverings(plan, kept, workers)
    work = Work({})
    for module in plan.modules:
        text, old = Path(module.file).read_text(encoding="utf-8"), kept.get(module.file, results.File())
        file = results.File(*covered[module.file], {})
        for name, source in generate.functions(text).items():
            file.functions[name] = current(plan, module, source, file, old, name)
        wanted = [
            name
            for name, function in file.functions.items()
            if every or function.mutants != len(function.rows) or (sampled and chosen_now(module.file, name))
        ]
        made = generate.mutants(module.file, text, module.count(plan), wanted)
        for name in wanted:
            function = file.functions[name]
            rows = {} if every else {row.id: row for row in function.rows}
            jobs = [Job(mutant, function.tests) for mutant in made.get(name, [])]
            work.fresh += [job for job in jobs if job.mutant.id not in rows and mine(job.mutant.id, part)]
            work.again += [job for job in jobs if job.mutant.id in rows and sampled]
            file.functions[name] = holding(function, jobs, rows)
        work.results[module.file] = file
    work.again = shuffled(work.again)
    return work


def holding(function: Any, jobs: Sequence[Job], rows: Mapping[str, Any]) -> Any:
    """The function with as many mutants as there are jobs, and of these the answers that are there."""
    held = tuple(rows[job.mutant.id] for job in jobs if job.mutant.id in rows)
    return replace(function, rows=held, mutants=len(jobs))


def current(plan: Any, module: Any, source: str, file: Any, before: Any, name: str) -> Any:
    """The function with the answers that hold: none once it changed, only the kills once other tests are there."""
    from andon.gates.measures.mutation import keys, results
    from andon.gates.measures.mutation.generate import version

    count, version, old = module.count(plan), version(), before.functions.get(name)
    rows = old.rows if old and old.key == keys.key(source, old.tests, count, plan, version) else ()
    killed = tuple(row for row in rows if row.state == results.KILLED)
    if rows and (file.digest == before.digest or rows == killed):
        return old
    killers = [row.by for row in old.rows] if old else []
    tests = tuple(keys.asked(file.covered, name, source, plan, killers))
    return results.Function(keys.key(source, tests, count, plan, version), tests, killed)


def coverings(plan: Any, kept: Any, workers: int) -> "dict[str, tuple[str, tuple[Covering, ...]]]":
    """By file the digest of it and its tests, and what each test covers: run again where that changed."""
    from andon.gates.measures.mutation import keys
    from andon.verify.faults.jobs import run_jobs

    digests = {module.file: keys.tests_digest(module, plan) for module in plan.modules}
    found = {name: (digest, kept[name].covered) for name, digest in digests.items() if name in kept}
    found = {name: pair for name, pair in found.items() if pair[0] == kept[name].digest}
    jobs = [(None, (each.file, each.tests, plan.marks)) for each in plan.modules if each.file not in found]
    for outcome in run_jobs(jobs, asking.covering, workers=workers, limit=600.0, warm=WARM):
        name = jobs[outcome.place][1][0]
        if outcome.error:
            raise PlanError(f"the tests of {name} cannot be asked: {outcome.error}; run them with pytest first")
        found[name] = digests[name], tuple(keys.Covering(*each) for each in outcome.value)
    return found


def answers(jobs: Sequence[Job], limit: float, workers: int, deadline: float | None) -> Iterator[tuple[Job, Any]]:
    """Each job with its row, until the deadline."""
    from andon.gates.measures.mutation.results import Row
    from andon.verify.faults import jobs as processes

    row = Row
    untested = [job for job in jobs if not job.tests]
    for job in untested:
        yield job, row(job.mutant.id, job.mutant.operator, job.mutant.line, "untested", "", job.mutant.diff)
    tested = [job for job in jobs if job.tests]
    injected = [(fault(job.mutant), job.tests) for job in tested]
    with contextlib.closing(
        processes.run_jobs(injected, asking.killer, workers=workers, limit=limit, warm=WARM)
    ) as outcomes:
        for outcome in outcomes:
            job = tested[outcome.place]
            yield job, row(job.mutant.id, job.mutant.operator, job.mutant.line, *verdict(job, outcome))
            if deadline and time.monotonic() > deadline:
                return


def verdict(job: Job, outcome: Any) -> tuple[str, str, str]:
    """State, by what, and the diff of a mutant that lives: a test that hangs has noticed nothing, a crash is loud."""
    if outcome.end == "timed out":
        return "late", outcome.error, job.mutant.diff
    if outcome.end == "died":
        return "killed", outcome.error, ""
    if outcome.error:
        return "error", outcome.error, job.mutant.diff
    return ("killed", outcome.value, "") if outcome.value else ("survived", "", job.mutant.diff)


def fault(mutant: Any) -> Any:
    """A mutant as the planting engine takes it: the file's whole text, before and after."""
    from andon.verify.faults.inject import Fault

    before = Path(mutant.file).read_text(encoding="utf-8")
    module = mutant.file.removesuffix(".py").replace("/", ".")
    made = Fault
    return made(mutant.id, mutant.operator, "pattern", "", "", module, before, mutant.text)


def with_rows(results: Any, rows: dict[tuple[str, str], list[Any]]) -> Any:
    """The results with new answers in place of old ones."""
    whole = {name: replace(file, functions=dict(file.functions)) for name, file in results.items()}
    for (file, name), new in rows.items():
        function = whole[file].functions[name]
        merged = {row.id: row for row in (*function.rows, *new)}
        whole[file].functions[name] = replace(function, rows=tuple(sorted(merged.values(), key=lambda row: row.id)))
    return whole


def mine(name: str, part: tuple[int, int]) -> bool:
    """Whether a mutant belongs to one of several shards."""
    return int(name[:8], 16) % part[1] == part[0]


def shuffled(jobs: Iterable[Job]) -> list[Job]:
    """In an order that the commit decides."""
    return sorted(jobs, key=lambda job: hashlib.sha256(f"{commit()}{job.mutant.id}".encode()).digest())


def chosen_now(file: str, name: str) -> bool:
    """Whether this commit's sample looks into this function: one of eight."""
    return hashlib.sha256(f"{commit()}{file}{name}".encode()).digest()[0] % 8 == 0


@functools.cache
def commit() -> str:
    """The commit checked out; empty outside of a repository."""
    asked = subprocess.run(["git", "rev-parse", "HEAD"], check=False, capture_output=True, text=True)
    return asked.stdout.strip()
