"""Which files are mutated, which tests run, which survivors are excused: two TOML files."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from andon.gates.config import GateError, Table, read_table

CONFIG = Path("configs/mutation.toml")
EXCUSES = Path("configs/mutation_excuses.toml")
REMEDY = "write one, or name another with --config"


class Module(Table):
    """A file that is mutated, and its test files; `per_function` as in the plan, for this file."""

    file: str
    per_function: Annotated[int, Field(ge=1)] | None = None
    tests: Annotated[list[str], Field(min_length=1)]

    def count(self, plan: "Plan") -> int:
        """How many mutants a function of this file gets at most."""
        return self.per_function or plan.per_function


class Plan(Table):
    """What is mutated. Tests slower than `test_seconds` are left out; a function gets `function_seconds` of them.

    A mutant whose tests take longer than `limit_seconds` counts as alive.
    """

    per_function: Annotated[int, Field(ge=1)]
    marks: str
    test_seconds: Annotated[float, Field(gt=0)]
    function_seconds: Annotated[float, Field(gt=0)]
    limit_seconds: Annotated[float, Field(gt=0)]
    modules: Annotated[list[Module], Field(min_length=1)]


class Excuse(Table):
    """A mutant that no test could tell from the original, by the hash of its diff."""

    id: str
    function: str  # for readers: "core/model/llama.py::Cache.store"
    reason: Annotated[str, Field(min_length=10)]


class Excuses(Table):
    """All of them."""

    excuses: list[Excuse] = Field(default_factory=list)


def read_plan(path: Path = CONFIG) -> Plan:
    """What is mutated.

    Raises:
        GateError: the file is missing, is not valid TOML, breaks a rule, or names a file that is not there.
    """
    plan = read_table(path, Plan, REMEDY)
    for name in [name for module in plan.modules for name in (module.file, *module.tests)]:
        if not Path(name).exists():
            raise GateError(f"{path}: modules: {name} does not exist; correct the path")
    return plan


def read_excuses(path: Path = EXCUSES) -> dict[str, Excuse]:
    """The excuses by mutant; none where there is no file.

    Raises:
        GateError: the file is not valid TOML, breaks a rule, or excuses a mutant twice.
    """
    if not path.exists():
        return {}
    found: dict[str, Excuse] = {}
    for excuse in read_table(path, Excuses, REMEDY).excuses:
        if excuse.id in found:
            raise GateError(f"{path}: {excuse.id} is excused twice; delete one of the two")
        found[excuse.id] = excuse
    return found
