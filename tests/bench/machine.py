"""What the figures were measured on."""

import os
import platform
from datetime import UTC, datetime
from typing import Any

import psutil

from andon.core.machine import cpu_model


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, system, Python and today's date."""
    return {
        "processor": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }
