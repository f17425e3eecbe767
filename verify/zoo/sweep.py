"""Runs the checks on every model of a library, each in a process of its own and within a time limit."""

import importlib
import json
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from andon.verify.checks import CHECKS
from andon.verify.errors import SubjectError
from andon.verify.faults.inject import Fault
from andon.verify.faults.jobs import run_jobs
from andon.verify.run.report import FOLLOWS, RED, YELLOW
from andon.verify.run.runner import check
from andon.verify.subject import Subject
from andon.verify.zoo.scripts import script

GREEN, ABSENT, NOT_RUN = "green", "not applicable", "not run"
MARGIN = 0.7  # of the limit, after which no further check is begun: what has been found is kept
LIBRARIES = {"transformers": "causal_models", "peft": "adapter_types", "bitsandbytes": "optimizer_types"}


class Zoo(Protocol):
    """A module that knows the models of one library."""

    PACKAGE: str
    CHECKS: Sequence[str]  # checks or areas to run; all where it is empty

    def names(self) -> list[str]:
        """All models, or adapters, or optimizers."""
        ...

    def subject(self, name: str) -> Subject:
        """One of them, small."""
        ...

    def preamble(self, name: str) -> str:
        """Python that builds it with the library alone."""
        ...


class Job(NamedTuple):
    """One model, adapter or optimizer, for a process of its own."""

    module: str
    name: str
    limit: float
    tier: int


class Cell(NamedTuple):
    """What came of one check."""

    state: str  # GREEN, RED, YELLOW, ABSENT, NOT_RUN
    message: str = ""  # what was measured, what it lacks, or why it was not run
    script: str = ""  # that shows a red or yellow cell without Andon


@dataclass(frozen=True)
class Row:
    """All that is known of one of them: cells by check, or why it could not be built."""

    name: str
    cells: Mapping[str, Cell] = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0

    @property
    def areas(self) -> dict[str, str]:
        """The state of each area: red where anything is, green where something was run and all is well."""
        found: dict[str, list[str]] = {}
        for name, cell in self.cells.items():
            found.setdefault(name.partition(".")[0], []).append(cell.state)
        return {
            area: next(each for each in (RED, YELLOW, NOT_RUN, GREEN, ABSENT) if each in states)
            for area, states in found.items()
        }

    @property
    def red(self) -> dict[str, Cell]:
        """Its red cells."""
        return {name: cell for name, cell in self.cells.items() if cell.state == RED}

    @property
    def found(self) -> dict[str, Cell]:
        """Its red and its yellow cells."""
        return {name: cell for name, cell in self.cells.items() if cell.state in (RED, YELLOW)}


def zoo(library: str) -> Zoo:
    """The module of a library that is known here, or of a dotted name.

    Raises:
        SubjectError: there is none.
    """
    if library not in LIBRARIES and "." not in library:
        raise SubjectError(f"no zoo for {library!r}; there are {', '.join(LIBRARIES)}, and modules of your own: a.b")
    return cast("Zoo", importlib.import_module(_module(library)))


def chosen(library: str, patterns: Iterable[str] = ()) -> list[str]:
    """The names of a zoo that a pattern matches; all, where there is no pattern."""
    wanted = list(patterns)
    return [name for name in zoo(library).names() if not wanted or any(fnmatch(name, each) for each in wanted)]


def sweep(
    library: str, names: Sequence[str], *, limit: float = 60.0, workers: int = 1, tier: int = 2
) -> Generator[Row]:
    """A row for each name, as they become ready."""
    module = _module(library)
    jobs = [(None, Job(module, name, limit, tier)) for name in names]
    warm = [*getattr(zoo(library), "WARM", ()), module]
    for outcome in run_jobs(jobs, run_checks, workers=workers, limit=limit, warm=warm):
        name = names[outcome.place]
        row = outcome.value or Row(name, reason=outcome.error)
        yield replace(row, seconds=outcome.seconds)  # of building it, too


def run_checks(_: Fault | None, job: Job) -> Row:
    """What the checks say of one of them."""
    models = cast("Zoo", importlib.import_module(job.module))
    areas = {check.name.partition(".")[0] for check in CHECKS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own
        subject = models.subject(job.name)
        report = check(subject, only=models.CHECKS or areas, tier=job.tier, budget=MARGIN * job.limit)
    refused = [finding for finding in report.findings if finding.check == "subject"]
    if refused:
        return Row(job.name, reason=refused[0].message, seconds=report.seconds)
    cells = {name: Cell(GREEN) for name in report.passed}
    cells |= {name: Cell(ABSENT, need) for name, need in report.not_applicable.items()}
    cells |= {name: Cell(NOT_RUN, why) for name, why in report.not_run.items()}
    cells |= {finding.check: Cell(NOT_RUN, finding.message) for finding in report.findings if finding.mistake}
    for finding in report.findings:
        if not finding.mistake:
            text = script(finding, models.preamble(job.name), job.module, job.name)
            cells[finding.check] = Cell(finding.light, finding.message, text)
            cells |= {name: Cell(NOT_RUN, f"{FOLLOWS} {finding.check}") for name in finding.follows}
    return Row(job.name, cells, seconds=report.seconds)


def write(file: Path, row: Row) -> None:
    """Add a row to those of a sweep."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(as_json(row)) + "\n")


def read(file: Path) -> list[Row]:
    """The rows of a sweep that was begun; none where there is no file."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [_from_json(json.loads(line)) for line in lines]


def as_json(row: Row) -> dict[str, Any]:
    """A row with all its fields."""
    return asdict(row) | {"cells": {name: cell._asdict() for name, cell in row.cells.items()}}


def release(library: str) -> str:
    """The library and its version, as files and tables name it."""
    package = zoo(library).PACKAGE
    return f"{package}-{version(package)}"


def table(rows: Sequence[Row], say: Callable[[str], str] = str) -> str:
    """A line for each row, a column for each area."""
    areas = list(dict.fromkeys(area for row in rows for area in row.areas))
    width = max((len(row.name) for row in rows), default=4)
    marks = {GREEN: "ok", RED: "RED", YELLOW: "yellow", ABSENT: "-", NOT_RUN: "?"}
    lines = [" ".join([" " * width, *(f"{area[:7]:<7}" for area in areas)]).rstrip()]
    for row in rows:
        cells = [f"{marks[row.areas[area]]:<7}" if area in row.areas else " " * 7 for area in areas]
        rest = f"could not build: {' '.join(row.reason.split())[:90]}" if row.reason else " ".join(cells)
        lines.append(f"{row.name:<{width}} {rest}".rstrip())
    return say("\n".join(lines))


def summary(rows: Sequence[Row]) -> str:
    """How many were built, and what came of the checks."""
    states = [cell.state for row in rows for cell in row.cells.values()]
    counts = ", ".join(f"{states.count(state)} {state}" for state in (GREEN, RED, YELLOW, ABSENT, NOT_RUN))
    built = sum(not row.reason for row in rows)
    return f"{built} of {len(rows)} built; checks: {counts}; {sum(row.seconds for row in rows):.0f} s"


def _module(library: str) -> str:
    return f"{__package__}.{LIBRARIES[library]}" if library in LIBRARIES else library


def _from_json(content: dict[str, Any]) -> Row:
    fields: dict[str, Any] = {**content, "cells": {name: Cell(**cell) for name, cell in content["cells"].items()}}
    return Row(**fields)
