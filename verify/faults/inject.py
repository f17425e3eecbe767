"""A fault, injected into the source of one module as a fresh process imports it; no file is touched."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Literal, NamedTuple

from andon.source import SourceError, find, replaced

STATUS = Literal["historical", "transposed", "pattern"]


class InjectionError(ValueError):
    """A fault that cannot be injected; the message names it, its module and the next step."""


class Fault(NamedTuple):
    """A change of one stretch of source that somebody made, or could have made, without noticing."""

    id: str
    area: str
    status: STATUS  # read in the thread or fix; known from a sibling's place; seen so often that nobody wrote it down
    source: str  # where it was found: project and issue, pull request or commit, several by "; "
    symptom: str  # what a user sees, if anything
    # "andon.core:Attention.forward": a definition in that package, in any of its modules; `before` and `after` are
    # an expression or statements of it. "transformers.trainer": a module, and both are verbatim text.
    where: str
    before: str  # occurs there exactly once
    after: str
    subjects: tuple[str, ...] = ("llama",)  # that the checks run on, in this order
    named_by: tuple[str, ...] = ()  # checks whose own sentence says what is wrong
    test: str = ""  # a unit test that finds it, where it lies out of a subject's reach: "tests/core/test_x.py::test_y"


def patched(fault: Fault, text: str) -> str:
    """A module's source with the fault in it.

    Raises:
        InjectionError: `before` does not occur there exactly once: the source has changed.
    """
    module, _, name = fault.where.partition(":")
    try:
        if name:
            return replaced(text, name, fault.before, fault.after)
    except SourceError as error:
        said = str(error)
    else:
        count = text.count(fault.before)
        if count == 1:
            return text.replace(fault.before, fault.after)
        said = f"`before` occurs {count} times in {module}, and must occur once"
    raise InjectionError(f"{fault.id} no longer applies: {said}; copy it from the source as it is now")


def module_of(fault: Fault) -> str:
    """The importable name of the module that a fault is injected into.

    Raises:
        InjectionError: no module, or more than one, defines what the fault names.
    """
    if ":" not in fault.where:
        return fault.where
    try:
        return find(fault.where).module
    except SourceError as error:
        raise InjectionError(f"{fault.id}: {error}") from error


def inject(fault: Fault) -> None:
    """From here on this process imports the module with the fault in it; for a process that ends after its job.

    Raises:
        InjectionError: the module is imported already, or cannot be found.
    """
    module = module_of(fault)
    if module in sys.modules:
        raise InjectionError(f"{fault.id}: {module} is imported already; inject before whatever imports it")
    sys.meta_path.insert(0, _Finder(fault, module))
    importlib.invalidate_caches()
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # not even its package
        found = None
    if found is None:
        raise InjectionError(f"{fault.id}: there is no module {module}; name one that can be imported")


class _Finder(MetaPathFinder):
    """Finds one module where everybody else would, and gives it a loader of ours."""

    def __init__(self, fault: Fault, module: str) -> None:
        self.fault, self.module = fault, module

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec with a loader that injects; None for every other module."""
        if fullname != self.module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None:
            return None
        if not isinstance(spec.loader, SourceFileLoader):
            raise InjectionError(f"{self.fault.id}: {fullname} has no Python source to inject into")
        spec.loader = _Loader(self.fault, fullname, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Compiles the changed source, past any cached bytecode."""

    def __init__(self, fault: Fault, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self.fault = fault

    def get_code(self, fullname: str) -> CodeType:
        """Code of the module with the fault in it."""
        text = patched(self.fault, self.get_source(fullname) or "")
        return compile(text, self.path, "exec", dont_inherit=True)
