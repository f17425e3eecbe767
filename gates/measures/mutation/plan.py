"""Which modules are mutated, which tests run, which survivors are excused: from two TOML files."""

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from andon.gates.config import GateError, Table, read_table
from andon.gates.measures.risk import DEFAULT, Mutation, read_risks

EXCUSES = Path("configs/mutation_excuses.toml")
REMEDY = "write one, or name another"


class Module(NamedTuple):
    """A module that is mutated, how many mutants a function of it gets at most, and its test files."""

    name: str  # "core:loss", under which its answers are kept
    file: str
    count: int
    tests: tuple[str, ...]


class Plan(NamedTuple):
    """What is mutated, and how the tests run."""

    settings: Mutation
    modules: tuple[Module, ...]


class Excuse(Table):
    """A mutant that no test could tell from the original, by the hash of its diff."""

    id: str
    function: str  # for readers: "core:Cache.store"
    reason: Annotated[str, Field(min_length=10)]


class Excuses(Table):
    """All of them."""

    excuses: list[Excuse] = Field(default_factory=list)


def read_plan(path: Path = DEFAULT) -> Plan:
    """What a risk table says is mutated.

    Raises:
        GateError: the table is missing or breaks a rule, or names no test, or one that is not there.
    """
    risks = read_risks(path)
    if risks.mutation is None:
        raise GateError(f"{path}: mutation: there is no such table; it says how tests run on mutants")
    chosen = [module for module in risks.modules.values() if module.row.mutation]
    modules = []
    for module in chosen:
        tests = dict.fromkeys([*mirrors(module.file), *module.row.tests])
        for name in tests:
            if not Path(name).is_file():
                raise GateError(f"{path}: modules: {module.name}: {name} does not exist; correct the path")
        if not tests:
            raise GateError(f"{path}: modules: {module.name} has no test that mirrors it; name some by `tests`")
        count = module.row.per_function or risks.mutation.per_function
        modules.append(Module(module.name, module.file, count, tuple(tests)))
    if not modules:
        raise GateError(f"{path}: modules: none has a minimum `mutation`, so that nothing is mutated")
    return Plan(risks.mutation, tuple(modules))


def mirrors(file: str) -> list[str]:
    """The test file that mirrors a module: tests/core/test_loss.py, of loss.py wherever it lies in core/."""
    folder, stem = Path(file).parts[0], Path(file).stem
    return [str(path) for path in sorted(Path("tests", folder).rglob(f"test_{stem}.py"))]


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
