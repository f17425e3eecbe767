"""The risk table: by module what a mistake in it costs, how much of it its tests must reach, and how it is mutated.

Five kinds of minimums: all tests' lines and branches, those of a module's level; lines that the early tiers reach,
lines that properties alone reach, lines that gradient checks alone reach, and mutants killed, which its own row names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from andon.gates.config import GateError, Table, read_table
from andon.gates.evidence import Metric
from andon.gates.names import file_of

DEFAULT = Path("configs/risk.toml")
ORDINARY = "ordinary"
Minimums = Literal["tests", "early", "properties", "gradients", "mutation"]
Percent = Annotated[float, Field(ge=0, le=100)]


class Level(Table):
    """Minimums in percent, and what a mistake costs."""

    name: str
    lines: Percent
    branches: Percent
    why: str


class Row(Table):
    """Modules of a level that is not the ordinary one, why, and the minimums, in percent, that are their own.

    Where there is a minimum of mutants killed, the module is mutated; `tests` run beside those that mirror it.
    """

    modules: Annotated[list[str], Field(min_length=1)]  # "core:loss", or a path
    level: str
    why: str
    early: Percent = 0
    properties: Percent = 0
    gradients: Percent = 0
    mutation: Percent = 0
    per_function: Annotated[int, Field(ge=1)] | None = None
    tests: list[str] = Field(default_factory=list)


class Mutation(Table):
    """How tests run on mutants.

    A function gets at most `per_function`. Tests slower than `test_seconds` are left out; not more than
    `function_seconds` about a function. A mutant whose tests take longer than `limit_seconds` counts as alive.
    """

    per_function: Annotated[int, Field(ge=1)]
    marks: str
    test_seconds: Annotated[float, Field(gt=0)]
    function_seconds: Annotated[float, Field(gt=0)]
    limit_seconds: Annotated[float, Field(gt=0)]


class RiskTable(Table):
    """The whole file."""

    levels: list[Level]
    modules: list[Row] = Field(default_factory=list)
    mutation: Mutation | None = None


@dataclass(frozen=True)
class Module:
    """A module that the table names, with its row."""

    name: str
    file: str
    row: Row


@dataclass(frozen=True)
class Risks:
    """The table as it stands for the files that are there."""

    levels: dict[str, Level]
    modules: dict[str, Module]  # by file
    mutation: Mutation | None = None

    def level_of(self, path: str) -> Level:
        """A file's level; that named "ordinary" where the table does not name the file."""
        return self.levels[self.modules[path].row.level if path in self.modules else ORDINARY]

    def minimums_of(self, path: str, minimums: Minimums) -> dict[str, float]:
        """What a file must reach, by the measured figure's name."""
        if minimums == "tests":
            level = self.level_of(path)
            return {"lines": level.lines, "branches": level.branches}
        own = self.modules[path].row.model_dump() if path in self.modules else {}
        return {"score_by_file" if minimums == "mutation" else "lines": own.get(minimums, 0.0)}

    def left_out(self) -> list[str]:
        """Files of a level without a minimum: they run elsewhere, and are not part of any figure here."""
        return [path for path in self.modules if self.level_of(path).lines == 0 == self.level_of(path).branches]


def read_risks(path: Path = DEFAULT) -> Risks:
    """Read a risk table.

    Raises:
        GateError: it cannot be read, breaks a rule, or names a level or a module that is none, or a module twice.
    """
    table = read_table(path, RiskTable, "name a risk table with --risk")
    levels = {level.name: level for level in table.levels}
    if ORDINARY not in levels:
        raise GateError(f"{path}: levels: none is named {ORDINARY!r}; modules that are not named are of it")
    modules: dict[str, Module] = {}
    for row in table.modules:
        if row.level not in levels:
            raise GateError(f"{path}: modules: level={row.level!r} is none of {', '.join(levels)}")
        for name in row.modules:
            try:
                file = file_of(name)
            except GateError as error:
                raise GateError(f"{path}: modules: {error}") from error
            if file in modules:
                raise GateError(f"{path}: modules: {name} is named twice; leave one of the two rows")
            modules[file] = Module(name, file, row)
    return Risks(levels, modules, table.mutation)


def short_metrics(measured: Mapping[str, Metric], risks: Risks, minimums: Minimums = "tests") -> dict[str, Metric]:
    """How many files are below their minimums, and by how many points each; a named file without a figure is short."""
    files = {module.name: path for path, module in risks.modules.items()}
    values = {}
    for key, metric in measured.items():
        figure, space, place = key.partition(" ")
        if space:
            values[figure, files.get(place, place)] = metric
    lacking = {}
    for path in sorted({path for _, path in values} | set(risks.modules)):
        short = 0.0
        for figure, minimum in risks.minimums_of(path, minimums).items():
            value = values.get((figure, path), Metric(0.0)).value
            short = max(short, minimum - value if value is not None else 0.0)
        if short > 0:
            lacking[f"short {path}"] = Metric(short, f"points below {risks.level_of(path).name}")
    return {"short": Metric(len(lacking), "files"), **lacking}
