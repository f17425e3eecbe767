"""What red cells of the zoo are held to be: tables of `docs/measured/zoo.md` under `## Zoo: PACKAGE VERSION`.

A row is one cause: the checks that it turns red, and the animals, or patterns of their names, in which it does.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

FILE = Path("docs/measured/zoo.md")
NEW = "bug, no report known"
LABELS = (
    NEW,
    "bug",
    "missing feature",
    "by design",
)  # "tolerance" and "false alarm" are ours to mend, and are not here
HEADING = re.compile(r"^## Zoo: (\S+) (\S+)$")
COLUMNS = 5


class Verdict(NamedTuple):
    """A row of a table."""

    package: str
    checks: tuple[str, ...]
    names: tuple[str, ...]  # or patterns
    measured: str
    label: str
    why: str

    def covers(self, package: str, check: str, name: str) -> bool:
        """Whether a red cell is this row's."""
        return package == self.package and check in self.checks and any(fnmatch(name, each) for each in self.names)


def verdicts(text: str) -> list[Verdict]:
    """All rows of a text's tables.

    Raises:
        ValueError: a row has another number of columns, or a label that is none.
    """
    found, package = [], ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = HEADING.match(line)
            package = heading[1] if heading else ""
        if not package or not line.startswith("| ") or line.startswith(("| checks |", "| ---")):
            continue
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) != COLUMNS:
            raise ValueError(f"{FILE}: a row of {package} has {len(cells)} columns, not {COLUMNS}: {line[:80]}")
        checks, names, measured, label, why = cells
        if label not in LABELS:
            raise ValueError(f"{FILE}: {checks}: no such label: {label!r}; known are {', '.join(LABELS)}")
        found.append(Verdict(package, tuple(checks.split(", ")), tuple(names.split(", ")), measured, label, why))
    return found


def verdict(known: Iterable[Verdict], package: str, check: str, name: str) -> Verdict | None:
    """The row of a red cell; None where nobody has judged it."""
    return next((each for each in known if each.covers(package, check, name)), None)
