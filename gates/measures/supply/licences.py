"""Licences against an allow list, in the words of the packages' own metadata."""

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from andon.gates.config import Table, read_table
from andon.gates.measures.supply.packages import plain_name

DEFAULT = Path("configs/supply.toml")


class Package(Table):
    """A package whose metadata does not say its licence."""

    name: str
    licence: str
    why: str


class Supply(Table):
    """The licences that are allowed, and the packages, as patterns, that the lock holds by no hash."""

    allowed: list[str]
    unhashed: list[str]
    packages: list[Package]


def read_supply(path: Path = DEFAULT) -> Supply:
    """Read the allow list.

    Raises:
        GateError: it cannot be read or breaks a rule.
    """
    return read_table(path, Supply, "it lists the licences that are allowed")


def licence_of(metadata: Any) -> str:
    """A licence as metadata says it: the expression, else the classifiers, else the first line of the free text."""
    classifiers = [each for each in metadata.get_all("Classifier") or [] if each.startswith("License ::")]
    named = [each.rpartition("::")[2].strip() for each in classifiers]
    text = (metadata.get("License") or "").strip().partition("\n")[0].strip()
    return metadata.get("License-Expression") or " AND ".join(named) or text


def is_allowed(licence: str, allowed: Iterable[str]) -> bool:
    """Whether an expression is allowed: each part of AND, one part of OR; with brackets every licence in it."""
    known = {each.casefold() for each in allowed}
    if licence.casefold() in known:
        return True
    if "(" in licence:
        return all(each.strip("() ").casefold() in known for each in re.split(r"\s+(?:AND|OR)\s+", licence))
    parts = re.split(r"\s+AND\s+", licence)
    return all(any(each.strip().casefold() in known for each in part.split(" OR ")) for part in parts)


def refused(found: Mapping[str, Distribution], supply: Supply) -> Iterator[str]:
    """A line for each package whose licence is not allowed, or not known."""
    said = {plain_name(package.name): package.licence for package in supply.packages}
    for name, each in sorted(found.items()):
        licence = said.get(name) or licence_of(each.metadata)
        if not is_allowed(licence, supply.allowed):
            yield f"{name} {each.version}: licence {licence or 'unknown'!r} is not allowed by {DEFAULT}"
