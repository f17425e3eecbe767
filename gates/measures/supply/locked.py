"""What is installed against the lock: pip's requirements with versions and hashes (PEP 503 names)."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from importlib.metadata import Distribution
from pathlib import Path

from andon.gates.config import GateError
from andon.gates.measures.supply.packages import plain_name

LOCK = Path("requirements-dev.txt")
PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;]+).*?(?=^\S|\Z)", re.MULTILINE | re.DOTALL)


def read_pins(path: Path = LOCK) -> dict[str, set[str]]:
    """The versions that a lock holds with at least one hash, by name; several where systems differ.

    Raises:
        GateError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GateError(f"{path}: cannot be read ({error}); `nox -s lock` writes it") from error
    pins: dict[str, set[str]] = defaultdict(set)
    for pin in PIN.finditer(text):
        if "--hash=sha256:" in pin[0]:
            pins[plain_name(pin["name"])].add(pin["version"])
    return pins


def unpinned(found: Mapping[str, Distribution], pins: Mapping[str, set[str]], unhashed: Iterable[str]) -> Iterator[str]:
    """A line for each installed package at a version that the lock does not hold, but for those named `unhashed`."""
    for name, each in sorted(found.items()):
        versions = pins.get(name, set())
        if each.version not in versions and not any(fnmatch(name, pattern) for pattern in unhashed):
            held = f"holds {' and '.join(sorted(versions))}" if versions else "does not hold it"
            yield f"{name} {each.version} is installed, and {LOCK} {held}"
