"""Tiers, measures and thresholds as data: one strict TOML file that any project can write."""

from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from andon.reading import ReadError, read_toml

CONFIGS = (Path("andon.toml"), Path("configs/gates.toml"))  # the first that lies in the working directory is read
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]


class GateError(ValueError):
    """A gate configuration that cannot be used; the message names file, key, rule and next step."""


class Table(BaseModel):
    """One TOML table: no unknown key, no coercion, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


T = TypeVar("T", bound=Table)


class Tier(Table):
    """A set of measures and thresholds, with those of the tier it includes.

    `strict`: what could not be measured is red, and a wall budget that could not be measured exits 3.
    """

    name: Name
    summary: str
    includes: str = ""
    budget_seconds: Annotated[float, Field(gt=0)] | None = None
    strict: bool = True


class Measure(Table):
    """A command that leaves evidence; any exit code but 0 is red.

    Measures of one lane run in turn, lanes side by side. `supersedes` names measures of lower tiers whose work this
    one repeats. `sources` are the files and folders measured; empty: the file's own `sources`. `budget_seconds` is its
    share of its tier's budget: beyond it the measure is named where the tier's own budget is red.
    """

    name: Name
    tier: str
    command: Annotated[str, Field(min_length=1)]
    next: str
    lane: str = "main"
    environment: dict[str, str] = {}
    supersedes: list[str] = []
    sources: list[str] = []
    budget_seconds: Annotated[float, Field(gt=0)] | None = None
    timeout_seconds: Annotated[float, Field(gt=0)] = 900.0


class Threshold(Table):
    """A bound on `<evidence>.<metric>`."""

    metric: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*\..+$")]
    operator: Literal["<", "<=", "==", ">=", ">"]
    value: Annotated[float, Field(allow_inf_nan=False)]
    tier: str
    why: Annotated[str, Field(min_length=1)]


class Gates(Table):
    """The whole file. `faults` and `claims` name the files that `andon gate selftest` and `andon gate claims` read."""

    tiers: list[Tier]
    sources: list[str] = []
    faults: str = ""
    claims: str = ""
    measures: list[Measure] = []
    thresholds: list[Threshold] = []

    @model_validator(mode="after")
    def _names_resolve(self) -> Self:
        tiers = [tier.name for tier in self.tiers]
        measures = [measure.name for measure in self.measures]
        for name in tiers + measures:
            if (tiers + measures).count(name) > 1:
                raise ValueError(f"{name!r} names two things; tiers and measures share reports/evidence/<name>.json")
        for place, tier in enumerate(self.tiers):
            if tier.includes and tier.includes not in tiers[:place]:
                raise ValueError(
                    f"tier {tier.name!r} includes {tier.includes!r}; name a tier that is defined before it"
                )
        for item in [*self.measures, *self.thresholds]:
            if item.tier not in tiers:
                raise ValueError(f"tier={item.tier!r} is not a tier; known are {', '.join(tiers)}")
        for measure in self.measures:
            for other in measure.supersedes:
                if other not in measures:
                    raise ValueError(f"measure {measure.name!r} supersedes {other!r}, which is not a measure")
        return self

    def tier(self, name: str) -> Tier:
        """The tier of that name.

        Raises:
            GateError: there is none.
        """
        for tier in self.tiers:
            if tier.name == name:
                return tier
        raise GateError(f"there is no tier {name!r}; known are {', '.join(tier.name for tier in self.tiers)}")

    def measures_of(self, name: str) -> list[Measure]:
        """What a tier runs, in the file's order, with included tiers and without what is superseded."""
        names = self._included(name)
        chosen = [measure for measure in self.measures if measure.tier in names]
        superseded = {other for measure in chosen for other in measure.supersedes}
        return [measure for measure in chosen if measure.name not in superseded]

    def thresholds_of(self, name: str) -> list[Threshold]:
        """What a tier's metrics must reach, with those of included tiers."""
        names = self._included(name)
        return [threshold for threshold in self.thresholds if threshold.tier in names]

    def sources_of(self, measure: Measure) -> list[str]:
        """The files and folders that a measure measures."""
        return measure.sources or self.sources

    def _included(self, name: str) -> set[str]:
        tier = self.tier(name)
        return {name} | (self._included(tier.includes) if tier.includes else set())


class InjectedFault(Table):
    """A fault for one measure: in `file`, `before` becomes `after`; without `before` the file is new and holds `after`.

    In place of a file `where` may name a definition in a package, "app.models:Model.forward", in whichever module it
    lies; `before` is then an expression or statements, compared by syntax. `shows` must occur in the measure's output
    or in the details of its red thresholds. `environment` may make the measure faster, not change what it measures.
    """

    measure: str
    file: Annotated[str, Field(pattern=r"^[^/]+(/[^/]+)*$")] = ""
    where: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")] = ""
    before: str = ""
    after: str
    shows: Annotated[str, Field(min_length=1)]
    environment: dict[str, str] = {}

    @model_validator(mode="after")
    def _names_one_place(self) -> Self:
        if bool(self.file) == bool(self.where):
            raise ValueError(f"file={self.file!r} and where={self.where!r}: a fault has one of the two")
        if self.where and not self.before:
            raise ValueError(f"where={self.where!r} needs `before`; a new file is named by `file`")
        return self


class InjectedFaults(Table):
    """The file that `Gates.faults` names."""

    faults: list[InjectedFault] = []


class Claim(Table):
    """A sentence of the documentation, the command that proves it, and the bound that its metric must keep."""

    says: Annotated[str, Field(min_length=1)]
    command: Annotated[str, Field(min_length=1)]
    metric: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*\..+$")]
    operator: Literal["<", "<=", "==", ">=", ">"]
    value: Annotated[float, Field(allow_inf_nan=False)]


class Claims(Table):
    """The file that `Gates.claims` names."""

    claims: list[Claim] = []


def find_config() -> Path:
    """The gates file of the project in the working directory: `andon.toml`, else `configs/gates.toml`."""
    return next((path for path in CONFIGS if path.exists()), CONFIGS[0])


def load_gates(path: Path | None = None) -> Gates:
    """Read a gates file, by default the project's own (`find_config`).

    Raises:
        GateError: the file is missing, is not valid TOML, or breaks a rule.
    """
    return read_table(path or find_config(), Gates, "name one with --config, or write one with `andon init`")


def read_table(path: Path, kind: type[T], remedy: str) -> T:
    """A TOML file as a table of that kind; `remedy` says what to do if the file is missing.

    Raises:
        GateError: the file is missing, is not valid TOML, or breaks a rule.
    """
    try:
        tables = read_toml(path)
    except OSError as error:
        raise GateError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except ReadError as error:
        raise GateError(f"{path}: {error}; fix that line") from error
    try:
        return kind.model_validate(tables)
    except ValidationError as error:
        lines = [_explain(path, detail["loc"], detail["msg"]) for detail in error.errors(include_url=False)]
        raise GateError("\n".join(lines)) from error


def _explain(path: Path, location: tuple[int | str, ...], rule: str) -> str:
    where = ".".join(str(part) for part in location)
    return f"{path}: {where + ': ' if where else ''}{rule.removeprefix('Value error, ')}"
