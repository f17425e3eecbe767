"""The risk table: how much of a file its tests must reach, by what a mistake in it costs.

Four kinds of floors: all tests' lines and branches, those of a file's level; lines that properties alone reach, lines
that gradient checks alone reach, and mutants killed, which the file's own row names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from andon.gates.config import GateError, Table, read_table
from andon.gates.evidence import Metric

DEFAULT = Path("configs/risk.toml")
ORDINARY = "ordinary"
Floors = Literal["tests", "properties", "gradients", "mutation"]
Percent = Annotated[float, Field(ge=0, le=100)]


class Level(Table):
    """Floors in percent, and what a mistake costs."""

    name: str
    lines: Percent
    branches: Percent
    why: str


class RiskyFile(Table):
    """A file of a level that is not the ordinary one, why, and the floors, in percent, that are its own."""

    path: str
    level: str
    why: str
    properties: Percent = 0
    gradients: Percent = 0
    mutation: Percent = 0


class Risks(Table):
    """The whole table."""

    levels: list[Level]
    files: list[RiskyFile]

    def level_of(self, path: str) -> Level:
        """A file's level; that named "ordinary" where the table does not name the file."""
        name = next((file.level for file in self.files if file.path == path), ORDINARY)
        return next(level for level in self.levels if level.name == name)

    def floors_of(self, path: str, floors: Floors) -> dict[str, float]:
        """What a file must reach, by the measured figure's name."""
        if floors == "tests":
            level = self.level_of(path)
            return {"lines": level.lines, "branches": level.branches}
        own = {file.path: file.model_dump() for file in self.files}.get(path, {})
        return {"score_by_file" if floors == "mutation" else "lines": own.get(floors, 0.0)}


def read_risks(path: Path = DEFAULT) -> Risks:
    """Read a risk table.

    Raises:
        GateError: it cannot be read, breaks a rule, or names a level or a file that is none.
    """
    risks = read_table(path, Risks, "name a risk table with --risk")
    known = [level.name for level in risks.levels]
    if ORDINARY not in known:
        raise GateError(f"{path}: levels: none is named {ORDINARY!r}; files that are not named are of it")
    for file in risks.files:
        if file.level not in known:
            raise GateError(f"{path}: files: level={file.level!r} is none of {', '.join(known)}")
        if not Path(file.path).is_file():
            raise GateError(f"{path}: files: path={file.path!r} is no file; correct it, or take the row out")
    return risks


def short_metrics(measured: Mapping[str, Metric], risks: Risks, floors: Floors = "tests") -> dict[str, Metric]:
    """How many files are below their floors, and by how many points each; a named file without a figure is short."""
    paths = {name.partition(" ")[2] for name in measured if " " in name}
    lacking = {}
    for path in sorted(paths | {file.path for file in risks.files}):
        short = 0.0
        for figure, floor in risks.floors_of(path, floors).items():
            value = measured.get(f"{figure} {path}", Metric(0.0)).value
            short = max(short, floor - value if value is not None else 0.0)
        if short > 0:
            lacking[f"short {path}"] = Metric(short, f"points below {risks.level_of(path).name}")
    return {"short": Metric(len(lacking), "files"), **lacking}
