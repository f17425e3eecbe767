"""What `andon dev mutation` runs: which mutants have a result that still holds, and which tests kill the others."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from andon.gates import commits
from andon.gates.measures.mutation import keys
from andon.gates.measures.mutation.keys import Covering
from andon.gates.measures.mutation.plan import Module, Plan
from andon.gates.measures.mutation.results import KILLED, File, Function, Results, Row
from andon.workshop import run_tests

if TYPE_CHECKING:
    from andon.gates.measures.mutation.generate import Mutant
    from andon.verify.faults.inject import Fault
    from andon.verify.faults.jobs import Outcome

WARM = ("numpy", "pydantic", "pytest", "hypothesis", "safetensors.torch", "tokenizers", "torch", "torch.optim")
WARM += ("torch._dynamo", "torch.utils.checkpoint")
KEEP_SECONDS = 20.0  # of work that an interruption may cost


class PlanError(ValueError):
    """Tests that cannot run; the message says which and what to do."""


class Job(NamedTuple):
    """One mutant to inject, and the tests to run."""

    mutant: "Mutant"
    module: str  # "core:loss", under which its result is kept
    tests: tuple[str, ...]


@dataclass
class Work:
    """`results` holds every result that still holds; the jobs run in turn."""

    results: Results
    fresh: list[Job] = field(default_factory=list)
    again: list[Job] = field(default_factory=list)


class Answers(NamedTuple):
    """What came of a run."""

    results: Results
    fresh: int  # mutants that had no result
    again: int  # mutants that had one and ran again
    disagreeing: int  # of those, with another result now


def measure(
    plan: Plan,
    kept: Results,
    *,
    every: bool = False,
    part: tuple[int, int] = (0, 1),
    workers: int = 2,
    deadline: float | None = None,
    note: Callable[[int, int], None] = lambda done, total: None,
    keep: Callable[[Results], None] | None = None,
) -> Answers:
    """Run the tests on mutants without a result in `kept`; with a deadline, on some of the rest, too.

    `keep` gets the results so far now and then: a run without `every` goes on from there.

    Raises:
        PlanError: a test is red without any mutant.
    """
    work = prepared(plan, kept, workers, every=every, part=part, sampled=deadline is not None)
    jobs = [*work.fresh, *work.again]
    rows: dict[tuple[str, str], list[Row]] = {}
    done = fresh = disagreeing = 0
    kept_at = time.monotonic()
    for job, row in answers(jobs, plan.settings.limit_seconds, workers, deadline):
        at = job.module, job.mutant.function
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


def prepared(plan: Plan, kept: Results, workers: int, *, every: bool, part: tuple[int, int], sampled: bool) -> Work:
    """Sort all mutants into those whose result holds and those to run."""
    from andon.gates.measures.mutation import generate

    covered = coverings(plan, kept, workers)
    work = Work({})
    for module in plan.modules:
        text, old = Path(module.file).read_text(encoding="utf-8"), kept.get(module.name, File())
        file = File(*covered[module.name], {})
        for name, source in generate.functions(text).items():
            file.functions[name] = current(plan, module, source, file, old, name)
        wanted = [
            name
            for name, function in file.functions.items()
            if every or function.mutants != len(function.rows) or (sampled and is_sampled(module.name, name))
        ]
        made = generate.mutants(module.file, text, module.count, wanted)
        for name in wanted:
            function = file.functions[name]
            rows = {} if every else {row.id: row for row in function.rows}
            jobs = [Job(mutant, module.name, function.tests) for mutant in made.get(name, [])]
            work.fresh += [job for job in jobs if job.mutant.id not in rows and is_mine(job.mutant.id, part)]
            work.again += [job for job in jobs if job.mutant.id in rows and sampled]
            file.functions[name] = holding(function, jobs, rows)
        work.results[module.name] = file
    work.again = shuffled(work.again)
    return work


def holding(function: Function, jobs: Sequence[Job], rows: Mapping[str, Row]) -> Function:
    """The function with as many mutants as there are jobs, and the results of these that are there."""
    held = tuple(rows[job.mutant.id] for job in jobs if job.mutant.id in rows)
    return replace(function, rows=held, mutants=len(jobs))


def current(plan: Plan, module: Module, source: str, file: File, before: File, name: str) -> Function:
    """The function with the results that hold: none once it changed, only the kills once other tests are there."""
    from andon.gates.measures.mutation.generate import version

    count, tools, old = module.count, version(), before.functions.get(name)
    rows = old.rows if old and old.key == keys.key(source, old.tests, count, plan, tools) else ()
    killed = tuple(row for row in rows if row.state == KILLED)
    if old and rows and (file.digest == before.digest or rows == killed):
        return old
    killers = [row.by for row in old.rows] if old else []
    tests = tuple(keys.choose_tests(file.covered, name, source, plan, killers))
    return Function(keys.key(source, tests, count, plan, tools), tests, killed)


def coverings(plan: Plan, kept: Results, workers: int) -> dict[str, tuple[str, tuple[Covering, ...]]]:
    """By module the digest of it and its tests, and what each test covers: measured again where that changed."""
    from andon.verify.faults.jobs import run_jobs

    digests = {module.name: keys.tests_digest(module, plan) for module in plan.modules}
    valid = digests.items() & {(name, file.digest) for name, file in kept.items()}
    found = {name: (digest, kept[name].covered) for name, digest in valid}
    missing = [each for each in plan.modules if each.name not in found]
    jobs = [(None, (each.file, each.tests, plan.settings.marks)) for each in missing]
    for outcome in run_jobs(jobs, run_tests.covering, workers=workers, limit=600.0, warm=WARM):
        name = missing[outcome.place].name
        if outcome.value is None:
            raise PlanError(f"the tests of {name} cannot run: {outcome.error}; run them with pytest first")
        found[name] = digests[name], tuple(Covering(*each) for each in outcome.value)
    return found


def answers(jobs: Sequence[Job], limit: float, workers: int, deadline: float | None) -> Iterator[tuple[Job, Row]]:
    """Each job with its row, until the deadline."""
    from andon.verify.faults.jobs import run_jobs

    untested = [job for job in jobs if not job.tests]
    for job in untested:
        yield job, Row(job.mutant.id, job.mutant.operator, job.mutant.line, "untested", "", job.mutant.diff)
    tested = [job for job in jobs if job.tests]
    injected = [(fault(job.mutant), job.tests) for job in tested]
    with contextlib.closing(run_jobs(injected, run_tests.killer, workers=workers, limit=limit, warm=WARM)) as outcomes:
        for outcome in outcomes:
            job = tested[outcome.place]
            yield job, Row(job.mutant.id, job.mutant.operator, job.mutant.line, *verdict(job, outcome))
            if deadline and time.monotonic() > deadline:
                return


def verdict(job: Job, outcome: "Outcome") -> tuple[str, str, str]:
    """State, by what, and the diff of a mutant that is alive: a test that hangs noticed nothing, a crash is a kill."""
    if outcome.end == "timed out":
        return "late", outcome.error, job.mutant.diff
    if outcome.end == "died":
        return KILLED, outcome.error, ""
    if outcome.error:
        return "error", outcome.error, job.mutant.diff
    return (KILLED, outcome.value, "") if outcome.value else ("survived", "", job.mutant.diff)


def fault(mutant: "Mutant") -> "Fault":
    """A mutant as a fault to inject: the file's whole text, before and after."""
    from andon.verify.faults.inject import Fault

    before = Path(mutant.file).read_text(encoding="utf-8")
    module = ".".join(run_tests.import_path(mutant.file).with_suffix("").parts)
    return Fault(mutant.id, mutant.operator, "pattern", "", "", module, before, mutant.text)


def with_rows(results: Results, rows: dict[tuple[str, str], list[Row]]) -> Results:
    """The results with new rows in place of old ones."""
    whole = {name: replace(file, functions=dict(file.functions)) for name, file in results.items()}
    for (module, name), new in rows.items():
        function = whole[module].functions[name]
        merged = {row.id: row for row in (*function.rows, *new)}
        whole[module].functions[name] = replace(function, rows=tuple(sorted(merged.values(), key=lambda row: row.id)))
    return whole


def is_mine(name: str, part: tuple[int, int]) -> bool:
    """Whether a mutant belongs to one of several shards."""
    return int(name[:8], 16) % part[1] == part[0]


def shuffled(jobs: Iterable[Job]) -> list[Job]:
    """In an order that the commit decides."""
    return sorted(jobs, key=lambda job: hashlib.sha256(f"{commit()}{job.mutant.id}".encode()).digest())


def is_sampled(module: str, name: str) -> bool:
    """Whether this commit's sample includes this function: one of eight."""
    return hashlib.sha256(f"{commit()}{module}{name}".encode()).digest()[0] % 8 == 0


@cache
def commit() -> str:
    """The commit checked out; empty outside of a repository, and where git is missing."""
    return commits.head() or ""
