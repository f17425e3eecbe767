"""Run tests while the code that they test does nothing: `python -m pytest -p andon.gates.measures.vacuous.stubs ...`.

While a test's own body runs, each function of its modules has a body that returns None: fixtures and imports see the
code as it is. A test that calls such a function, reaches an assertion and still passes cannot fail. Its modules are the
one that its file mirrors (tests/core/test_loss.py: loss.py in core), else those of the project that it imports.

A test without an assertion of its own, that passes, stays silent when the code does nothing: it fails by what the code
raises, and is counted as "silent". A test whose code runs in another process is counted as "not run".
"""

import json
import os
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType

import pytest

SECONDS = 10  # a loop that waits for what never comes now
OUTPUT = "ANDON_STUBBED"  # the environment variable that names the file of answers
HIDDEN = "__andon_stub_called__"


def functions(module: ModuleType) -> Iterator[FunctionType]:
    """The functions and methods that a module's file defines, once each."""
    seen: set[int] = set()
    for value in list(vars(module).values()):
        owned = isinstance(value, type) and value.__module__ == module.__name__
        for each in [value, *(vars(value).values() if owned else ())]:
            for function in _unwrapped(each):
                if function.__code__.co_filename == module.__file__ and id(function) not in seen:
                    seen.add(id(function))
                    yield function


def _unwrapped(value: object) -> Iterator[FunctionType]:
    """The functions behind a property, a class method, or a decorator that says what it wraps."""
    for name in ("fget", "fset", "__func__", "__wrapped__"):
        inner = vars(value).get(name) if isinstance(value, FunctionType) else getattr(value, name, None)
        if isinstance(inner, FunctionType):
            yield from _unwrapped(inner)
    if isinstance(value, FunctionType):
        yield value


def empty_code(function: FunctionType) -> CodeType:
    """Code that notes its call and returns None, with the free variables that the function has."""
    free = function.__code__.co_freevars
    bound = "".join(f"    {name} = None\n" for name in free)
    used = "".join(f"        {name}\n" for name in free)
    source = f"def outer():\n{bound}    def stub(*_, **__):\n        {HIDDEN}()\n        return None\n{used}"
    return _inner(_inner(compile(source, "<stub>", "exec")))


def _inner(code: CodeType) -> CodeType:
    """The code of the function that code defines."""
    return next(each for each in code.co_consts if isinstance(each, CodeType))


@contextmanager
def stubbed(modules: list[ModuleType]) -> Generator[list[int]]:
    """Give all functions of these modules empty bodies; yields a list that grows with each call of one."""
    calls: list[int] = []
    kept = [(function, function.__code__) for module in modules for function in functions(module)]
    try:
        for function, _ in kept:
            function.__globals__[HIDDEN] = lambda: calls.append(1)
            function.__code__ = empty_code(function)
        yield calls
    finally:
        for function, code in kept:
            function.__code__ = code
            function.__globals__.pop(HIDDEN, None)


def modules_of(test: ModuleType, path: Path, root: Path) -> list[ModuleType]:
    """The modules that a test file tests: the one that it mirrors, else those of the project that it imports from."""
    mirrored = [module for module in list(sys.modules.values()) if _mirrors(path, module, root)]
    if mirrored:
        return mirrored
    values = vars(test).values()
    names = {each.__name__ if isinstance(each, ModuleType) else getattr(each, "__module__", "") for each in values}
    found = [sys.modules[name] for name in sorted(filter(None, names)) if name in sys.modules]
    return [module for module in found if module is not test and _is_tested(module, root)]


def _mirrors(path: Path, module: ModuleType, root: Path) -> bool:
    """Whether a test's file has a module's stem, and lies in the folder of tests that has its package's name."""
    file = getattr(module, "__file__", None)
    if not file or f"test_{Path(file).stem}" != path.stem:
        return False
    real, folders = Path(file).resolve(), path.relative_to(root).parts[1:-1]
    inside = real.is_relative_to(root.resolve())
    package = real.relative_to(root.resolve()).parts[:-1] if inside else ()
    return inside and folders[:1] == package[:1]


def _is_tested(module: ModuleType, root: Path) -> bool:
    file = getattr(module, "__file__", None)
    inside = file and Path(file).is_relative_to(root)
    return bool(inside) and Path(file or "").relative_to(root).parts[0] not in ("tests", ".venv", ".nox")


class Answers:
    """The plugin: one line of JSON for each test that ran."""

    def __init__(self, output: Path) -> None:
        self.output = output.open("a", encoding="utf-8")  # now: a test may have put something in the place of `open`
        self.asserted = 0
        self.calls = 0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run the test's body with its modules stubbed, for a limited time."""
        self.asserted, self.calls = 0, 0
        test = getattr(item, "module", None)
        modules = modules_of(test, item.path, item.config.rootpath) if test else []
        signal.signal(signal.SIGALRM, _too_long)
        with stubbed(modules) as calls:
            signal.setitimer(signal.ITIMER_REAL, SECONDS, SECONDS)  # again: leaving a test may wait too
            try:
                return (yield)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                self.calls = len(calls)

    def pytest_assertion_pass(self) -> None:
        """Count an assertion that held."""
        self.asserted += 1

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what a test said."""
        if report.when == "call":
            _, line_number, _ = report.location or ("", 0, "")
            line = {"test": report.nodeid, "line": (line_number or 0) + 1, "outcome": report.outcome,
                    "calls": self.calls, "asserted": self.asserted}  # fmt: skip
            self.output.write(json.dumps(line) + "\n")
            self.output.flush()


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"stopped after {SECONDS} s")


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugin where the environment names a file of answers."""
    if OUTPUT in os.environ:
        config.pluginmanager.register(Answers(Path(os.environ[OUTPUT])))
