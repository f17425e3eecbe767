"""Nanoseconds since the epoch that never run backwards, what a step took of the machine, and random ids."""

import os
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None

MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
POOL = 512


class Clock:
    """The epoch's time on the machine's steady clock: a pair of readings gives what lies between the two."""

    def __init__(self) -> None:
        self.offset = 0
        self.pair()

    def pair(self) -> None:
        """Read both clocks, so that a correction of the machine's time is followed."""
        before = time.perf_counter_ns()
        wall = time.time_ns()
        self.offset = wall - (before + time.perf_counter_ns()) // 2

    def now(self) -> int:
        """Nanoseconds since the epoch."""
        return time.perf_counter_ns() + self.offset


class Usage(NamedTuple):
    """What the process has used: seconds of all its threads on processors, page faults that read a disk, bytes."""

    cpu_seconds: float
    major_faults: int
    peak_bytes: int


def usage() -> Usage:
    """So far."""
    if resource is None:
        return Usage(time.process_time(), 0, 0)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(used.ru_utime + used.ru_stime, used.ru_majflt, used.ru_maxrss * MAXRSS_BYTES)


def random_ids(size: int) -> Callable[[], str]:
    """A function that draws hexadecimal ids of `size` bytes from the system, many at a time.

    Not from `random`, whose seeded state belongs to the training.
    """
    pool: list[str] = []

    def draw() -> str:
        while True:
            try:
                return pool.pop()  # by one thread alone
            except IndexError:
                drawn = os.urandom(size * POOL).hex()
                pool.extend(drawn[at : at + 2 * size] for at in range(0, len(drawn), 2 * size))

    return draw
