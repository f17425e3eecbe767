"""Faults planted one at a time, each into the source of one module as a fresh process imports it; no file is touched.

One server process imports what all runs share and is forked for each job. A job's process loads the fault's module with
`before` replaced by `after`, works, and sends back what it found. Jobs that die or hang are errors of their own line.
"""

import importlib.util
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import CodeType, ModuleType
from typing import Any, Literal, NamedTuple

from andon.source import SourceError, find, replaced

STATUS = Literal["historical", "transposed", "pattern"]
LIMIT = 90.0  # seconds of one job
ENDING = 5.0  # seconds that its process has to end after its answer: what measures it has then written down what it saw
END = Literal["whole", "raised", "late", "died"]  # how a job ended: died is a crash, or an exit with nothing sent


class PlantError(ValueError):
    """A fault that cannot be planted; the message names it, its module and the next step."""


class Fault(NamedTuple):
    """A change of one stretch of source that somebody made, or could have made, without noticing."""

    id: str
    area: str
    status: STATUS  # read in the thread or fix; known from a sibling's place; seen so often that nobody wrote it down
    source: str  # where it was found: project and issue, pull request or commit, several by "; "
    symptom: str  # what a user sees, if anything
    # "andon.core:Attention.forward": a definition of that package, wherever it lies, and `before` and `after` are an
    # expression or statements of it. "transformers.trainer": a module, and both are verbatim text.
    where: str
    before: str  # stands there exactly once
    after: str
    subjects: tuple[str, ...] = ("llama",)  # by which it is asked, in this order
    test: str = ""  # a unit test that finds it, where it lies out of a subject's reach: "tests/core/test_x.py::test_y"


class Outcome(NamedTuple):
    """What came of one job: `value`, or in one sentence why there is none."""

    place: int  # of the job among all
    value: Any
    error: str
    seconds: float
    end: END = "whole"


def patched(fault: Fault, text: str) -> str:
    """A module's source with the fault in it.

    Raises:
        PlantError: `before` stands there not once: the source has moved on.
    """
    module, _, name = fault.where.partition(":")
    try:
        if name:
            return replaced(text, name, fault.before, fault.after)
    except SourceError as error:
        said = str(error)
    else:
        count = text.count(fault.before)
        if count == 1:
            return text.replace(fault.before, fault.after)
        said = f"`before` stands {count} times in {module}, and must stand once"
    raise PlantError(f"{fault.id} no longer applies: {said}; take it anew from the source as it is")


def module_of(fault: Fault) -> str:
    """The importable name of the module that a fault is planted into.

    Raises:
        PlantError: no module, or more than one, defines what the fault names.
    """
    if ":" not in fault.where:
        return fault.where
    try:
        return find(fault.where).module
    except SourceError as error:
        raise PlantError(f"{fault.id}: {error}") from error


def plant(fault: Fault) -> None:
    """From here on this process imports the module with the fault in it; for a process that ends after its job.

    Raises:
        PlantError: the module is imported already, or is none that can be found.
    """
    module = module_of(fault)
    if module in sys.modules:
        raise PlantError(f"{fault.id}: {module} is imported already; plant before whatever imports it")
    sys.meta_path.insert(0, _Planter(fault, module))
    importlib.invalidate_caches()
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # not even its package
        found = None
    if found is None:
        raise PlantError(f"{fault.id}: there is no module {module}; name one that can be imported")


def each(
    jobs: Sequence[tuple[Fault | None, Any]],
    work: Callable[[Fault | None, Any], Any],
    *,
    workers: int = 2,
    limit: float = LIMIT,
    warm: Iterable[str] = (),
) -> Generator[Outcome]:
    """`work(fault, argument)` for each job, in a process of its own with the fault planted, `workers` at a time.

    Outcomes come as they are ready. `work` is a function of an importable module; it and its results are pickled on
    their way between these processes. `warm` names modules to import once for all; none of them may import what is
    planted into. A job that takes longer than `limit` seconds is killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, work.__module__, *warm])
    waiting = list(enumerate(jobs))[::-1]
    running: dict[Connection, tuple[int, BaseProcess, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                place, (fault, argument) = waiting.pop()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_job, args=(theirs, fault, work, argument), daemon=True)
                process.start()
                theirs.close()  # or its death would not be noticed
                running[ours] = place, process, time.monotonic()
            soonest = min(begun for _, _, begun in running.values()) + limit
            ready = wait(list(running), timeout=max(0.0, soonest - time.monotonic()))
            late = [ours for ours, (_, _, begun) in running.items() if time.monotonic() - begun >= limit]
            for ours in [*ready, *(each for each in late if each not in ready)]:
                yield _collected(ours, *running.pop(ours), limit)  # ty: ignore[invalid-argument-type]
    finally:
        for _, process, _ in running.values():
            process.kill()


def _collected(ours: Connection, place: int, process: BaseProcess, begun: float, limit: float) -> Outcome:
    try:
        end: END = "raised" if ours.poll() else "late"
        value, error = ours.recv() if ours.poll() else (None, f"killed: longer than {limit:g} s")
    except EOFError:
        process.join(ENDING)
        end, value, error = "died", None, f"its process died: exit code {process.exitcode}"
    finally:
        ours.close()
        process.join(0 if end == "late" else ENDING)
        process.kill()
        process.join()
    return Outcome(place, value, error, time.monotonic() - begun, end if error else "whole")


def _job(connection: Connection, fault: Fault | None, work: Callable[..., Any], argument: Any) -> None:
    """In the forked process. What a stranger's code prints there is nobody's business."""
    import torch

    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    torch.set_num_threads(1)
    try:
        if fault:
            plant(fault)
        connection.send((work(fault, argument), ""))
    except PlantError as error:
        connection.send((None, str(error)))
    except BaseException as error:  # noqa: BLE001 - whatever a fault does is an outcome of its own line
        where = traceback.extract_tb(error.__traceback__)[-1]
        connection.send((None, f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})"))


class _Planter(MetaPathFinder):
    """Finds one module where everybody else would, and gives it a loader of ours."""

    def __init__(self, fault: Fault, module: str) -> None:
        self.fault, self.module = fault, module

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec with a loader that plants; None for every other module."""
        if fullname != self.module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None:
            return None
        if not isinstance(spec.loader, SourceFileLoader):
            raise PlantError(f"{self.fault.id}: {fullname} has no Python source to plant into")
        spec.loader = _Loader(self.fault, fullname, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Compiles the changed source, past any cached bytecode."""

    def __init__(self, fault: Fault, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self.fault = fault

    def get_code(self, fullname: str) -> CodeType:
        """Code of the module with the fault in it."""
        text = patched(self.fault, self.get_source(fullname) or "")
        return compile(text, self.path, "exec", dont_inherit=True)
