"""Jobs, each in a process of its own with one fault injected, or none.

One server process imports what all jobs share and is forked for each. A job's process loads the fault's module with
`before` replaced by `after`, works, and sends back what it found. Jobs that die or hang are errors of their own line.
"""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, Literal, NamedTuple, TypeVar

from andon.verify.faults.inject import Fault, InjectionError, inject

LIMIT = 90.0  # seconds of one job
ENDING = 5.0  # seconds that its process has to end after its answer: what measures it has then written down what it saw
END = Literal[
    "finished", "raised", "timed out", "died"
]  # how a job ended: died is a crash, or an exit with nothing sent
Argument = TypeVar("Argument")
Value = TypeVar("Value")


class Outcome(NamedTuple, Generic[Value]):
    """What came of one job: `value`, or in one sentence why there is none."""

    place: int  # of the job among all
    value: Value | None
    error: str
    seconds: float
    end: END = "finished"


def run_jobs(
    jobs: Sequence[tuple[Fault | None, Argument]],
    work: Callable[[Fault | None, Argument], Value],
    *,
    workers: int = 2,
    limit: float = LIMIT,
    warm: Iterable[str] = (),
) -> Generator[Outcome[Value]]:
    """`work(fault, argument)` for each job, in a process of its own with the fault injected, `workers` at a time.

    Outcomes come as they are ready. `work` is a function of an importable module; it and its results are pickled on
    their way between these processes. `warm` names modules to import once for all; none of them may import what is
    injected into. A job that takes longer than `limit` seconds is killed.
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
                process = context.Process(target=_run, args=(theirs, fault, work, argument), daemon=True)
                process.start()
                theirs.close()  # or its death would not be noticed
                running[ours] = place, process, time.monotonic()
            soonest = min(begun for _, _, begun in running.values()) + limit
            ready = wait(list(running), timeout=max(0.0, soonest - time.monotonic()))
            overdue = [ours for ours, (_, _, begun) in running.items() if time.monotonic() - begun >= limit]
            for ours in [*ready, *(each for each in overdue if each not in ready)]:
                yield _collected(ours, *running.pop(ours), limit)  # ty: ignore[invalid-argument-type]
    finally:
        for _, process, _ in running.values():
            process.kill()


def _collected(ours: Connection, place: int, process: BaseProcess, begun: float, limit: float) -> Outcome:
    try:
        end: END = "raised" if ours.poll() else "timed out"
        value, error = ours.recv() if ours.poll() else (None, f"killed: longer than {limit:g} s")
    except EOFError:
        process.join(ENDING)
        end, value, error = "died", None, f"its process died: exit code {process.exitcode}"
    finally:
        ours.close()
        process.join(0 if end == "timed out" else ENDING)
        process.kill()
        process.join()
    return Outcome(place, value, error, time.monotonic() - begun, end if error else "finished")


def _run(
    connection: Connection, fault: Fault | None, work: Callable[[Fault | None, Argument], object], argument: Argument
) -> None:
    """In the forked process. What user code prints there is dropped."""
    import torch

    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    torch.set_num_threads(1)
    try:
        if fault:
            inject(fault)
        connection.send((work(fault, argument), ""))
    except InjectionError as error:
        connection.send((None, str(error)))
    except BaseException as error:  # noqa: BLE001 - whatever a fault does is an outcome of its own line
        where = traceback.extract_tb(error.__traceback__)[-1]
        connection.send((None, f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})"))
