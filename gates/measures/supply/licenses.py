"""Licenses against an allow list, in the words of the packages' own metadata."""

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from andon.gates.config import Table, read_table
from andon.gates.measures.supply.packages import plain_name

DEFAULT = Path("configs/supply.toml")


class Package(Table):
    """A package whose metadata does not say its license."""

    name: str
    license: str
    why: str


class Supply(Table):
    """The licenses that are allowed, and the packages, as patterns, that the lock holds by no hash."""

    allowed: list[str]
    unhashed: list[str]
    packages: list[Package]


def read_supply(path: Path = DEFAULT) -> Supply:
    """Read the allow list.

    Raises:
        GateError: it cannot be read or breaks a rule.
    """
    return read_table(path, Supply, "it lists the licenses that are allowed")


def license_of(metadata: Any) -> str:
    """A license as metadata says it: the expression, else the classifiers, else the first line of the free text."""
    classifiers = [each for each in metadata.get_all("Classifier") or [] if each.startswith("License ::")]
    named = [each.rpartition("::")[2].strip() for each in classifiers]
    text = (metadata.get("License") or "").strip().partition("\n")[0].strip()
    return metadata.get("License-Expression") or " AND ".join(named) or text


def is_allowed(expression: str, allowed: Iterable[str]) -> bool:
    """Whether an expression is allowed: each part of AND, one part of OR; with brackets every license in it."""
    known = {each.casefold() for each in allowed}
    if expression.casefold() in known:
        return True
    if "(" in expression:
        return all(each.strip("() ").casefold() in known for each in re.split(r"\s+(?:AND|OR)\s+", expression))
    parts = re.split(r"\s+AND\s+", expression)
    return all(any(each.strip().casefold() in known for each in part.split(" OR ")) for part in parts)


def refused(found: Mapping[str, Distribution], supply: Supply) -> Iterator[str]:
    """A line for each package whose license is not allowed, or not known."""
    known = {plain_name(package.name): package.license for package in supply.packages}
    for name, each in sorted(found.items()):
        found_license = known.get(name) or license_of(each.metadata)
        if not is_allowed(found_license, supply.allowed):
            yield f"{name} {each.version}: license {found_license or 'unknown'!r} is not allowed by {DEFAULT}"
