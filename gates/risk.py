"""The risk table: how much of a file its tests must reach, by what a mistake in it costs."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from .config import GateError, Table
from .evidence import Metric

DEFAULT = Path("configs/risk.toml")
ORDINARY = "ordinary"
Percent = Annotated[float, Field(ge=0, le=100)]


class Level(Table):
    """Floors in percent, and what a mistake costs."""

    name: str
    lines: Percent
    branches: Percent
    why: str


class RiskyFile(Table):
    """A file of a level that is not the ordinary one, and why."""

    path: str
    level: str
    why: str


class Risks(Table):
    """The whole table."""

    levels: list[Level]
    files: list[RiskyFile]

    def level_of(self, path: str) -> Level:
        """A file's level; that named "ordinary" where the table does not name the file."""
        name = next((file.level for file in self.files if file.path == path), ORDINARY)
        return next(level for level in self.levels if level.name == name)


def read_risks(path: Path = DEFAULT) -> Risks:
    """Read a risk table.

    Raises:
        GateError: it cannot be read, breaks a rule, or names a level or a file that is none.
    """
    try:
        risks = Risks.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise GateError(f"{path}: cannot be read ({error.strerror}); name a risk table with --risk") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GateError(f"{path}: is no TOML ({error}); mend the line it names") from error
    except ValidationError as error:
        details = error.errors(include_url=False)
        lines = [f"{path}: {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in details]
        raise GateError("\n".join(lines)) from error
    known = [level.name for level in risks.levels]
    if ORDINARY not in known:
        raise GateError(f"{path}: levels: none is named {ORDINARY!r}; files that are not named are of it")
    for file in risks.files:
        if file.level not in known:
            raise GateError(f"{path}: files: level={file.level!r} is none of {', '.join(known)}")
        if not Path(file.path).is_file():
            raise GateError(f"{path}: files: path={file.path!r} is no file; correct it, or take the row out")
    return risks


def short_metrics(coverage: Mapping[str, Metric], risks: Risks) -> dict[str, Metric]:
    """How many files are below their floors, and by how many points each; a named file without a figure is short."""
    paths = {name.removeprefix("lines ") for name in coverage if name.startswith("lines ")}
    lacking = {}
    for path in sorted(paths | {file.path for file in risks.files}):
        level, short = risks.level_of(path), 0.0
        for kind, floor in (("lines", level.lines), ("branches", level.branches)):
            value = coverage.get(f"{kind} {path}", Metric(0.0)).value
            short = max(short, floor - value if value is not None else 0.0)
        if short > 0:
            lacking[f"short {path}"] = Metric(short, f"points below {level.name}")
    return {"short": Metric(len(lacking), "files"), **lacking}
