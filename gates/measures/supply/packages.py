"""The packages that requirements bring into this environment."""

import re
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any


def installed(requirements: Iterable[str]) -> tuple[dict[str, Distribution], list[str]]:
    """What requirements bring here, by name, with all that these bring in turn; and what of it is not installed."""
    from packaging.requirements import Requirement  # late: comes with the development tools

    found: dict[str, Distribution] = {}
    missing: set[str] = set()
    left = [each for each in map(Requirement, requirements) if applies(each.marker, ())]
    done: set[tuple[str, frozenset[str]]] = set()
    while left:
        wanted = left.pop()
        name, extras = plain_name(wanted.name), frozenset(wanted.extras)
        if (name, extras) in done:
            continue
        done.add((name, extras))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            missing.add(name)
            continue
        inner = map(Requirement, found[name].requires or [])
        left += [each for each in inner if applies(each.marker, extras)]
    return found, sorted(missing)


def applies(marker: Any, extras: Iterable[str]) -> bool:
    """Whether a requirement with this marker is wanted here, by a package with these extras."""
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def plain_name(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
