"""The machine that a run is on, as its records name it."""

import platform
import re
from pathlib import Path


def cpu_model() -> str:
    """The CPU's model name; `platform.processor()` is empty, or the architecture alone, on many Linux systems."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()
