"""A tier's wall and CPU time, and the CPU time that others took from it meanwhile.

"Others" are all processes on the cores we may use that are neither this process nor its descendants, plus what the
hypervisor stole and what the control group's quota throttled. Only others excuse a tier that ran past its budget.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

# Version 2 and version 1 of control groups; the figure is summed over cores, in micro- or nanoseconds.
THROTTLED = (
    (Path("/sys/fs/cgroup/cpu.stat"), "throttled_usec", 1e-6),
    (Path("/sys/fs/cgroup/cpu/cpu.stat"), "throttled_time", 1e-9),
)
EXCUSE = 0.10


@dataclass(frozen=True)
class Reading:
    """Seconds on clocks that only run forward; what counts is the difference of two readings.

    `ours`: CPU of this process, its ended and its living descendants. `busy`: CPU of all processes on our cores.
    `lost`: stolen and throttled.
    """

    wall: float
    ours: float
    busy: float
    lost: float


@dataclass(frozen=True)
class Usage:
    """What a tier took: seconds of wall and CPU, and the share of cores x wall that others took."""

    wall_seconds: float
    cpu_seconds: float
    others_share: float

    @property
    def is_excused(self) -> bool:
        """Whether others took so much that the wall time says nothing about the tier."""
        return self.others_share > EXCUSE


def read_clock() -> Reading:
    """Read all clocks now."""
    cpus = psutil.cpu_times(percpu=True)
    cpus = [cpus[core] for core in _cores() if core < len(cpus)]
    fields = ("user", "nice", "system", "irq", "softirq")
    busy = sum(getattr(cpu, field, 0.0) for cpu in cpus for field in fields)
    stolen = sum(getattr(cpu, "steal", 0.0) for cpu in cpus)
    return Reading(time.monotonic(), _own_cpu(), busy, stolen + _throttled())


def usage(start: Reading, end: Reading, cores: int | None = None) -> Usage:
    """What passed between two readings; `cores` as `os.sched_getaffinity` counts them unless given."""
    wall, ours = end.wall - start.wall, end.ours - start.ours
    others = max(0.0, end.busy - start.busy - ours) + end.lost - start.lost
    return Usage(wall, ours, others / max((cores or len(_cores())) * wall, 1e-9))


def _cores() -> list[int]:
    """The cores we may run on; all of them where the platform does not say."""
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


def _own_cpu() -> float:
    """CPU of this process and its ended children (os.times counts theirs too), and of descendants still running."""
    times = os.times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in psutil.Process().children(recursive=True):
        try:
            total += sum(child.cpu_times()[:4])  # user, system, and those of its own ended children
        except psutil.Error:  # it ended meanwhile: counted above once its parent has waited for it
            continue
    return total


def _throttled() -> float:
    for path, key, unit in THROTTLED:
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                name, _, value = line.partition(" ")
                if name == key:
                    return float(value) * unit
    return 0.0
