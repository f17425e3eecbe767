"""Which tests cover a file, and which test kills a mutant: each function here is one job in a process of its own.

It imports none of the project's packages: a module must not be imported before a mutant of it is injected.
"""

import functools
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

OPTIONS = ("-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:doctest", "-p", "no:junitxml")
MEMORY = 6 * 2**30  # bytes of data that a mutant may allocate: more could bring the machine down


class TestRunError(RuntimeError):
    """Tests without a result: red without any mutant, or impossible to run."""

    __test__ = False  # pytest would take the name for a test's


def import_path(file: str) -> Path:
    """The path that Python imports a file by: `andon/core/x.py` of `core/x.py` where `andon/core` links to `core`."""
    top = Path(file).parts[0]
    links = [path for path in Path().glob(f"*/{top}") if path.is_symlink() and path.resolve() == Path(top).resolve()]
    return links[0].parent / file if links else Path(file)


def covering(fault: object, task: tuple[str, Sequence[str], str]) -> list[tuple[str, float, tuple[str, ...]]]:
    """Each test of a mark, its seconds, and the functions of one file that it calls: (file, tests, marks).

    Raises:
        TestRunError: a test is red on the unchanged code, or none ran.
    """
    del fault
    file, tests, marks = task
    watcher = _Watcher(file)
    code = _pytest([*tests, "-m", marks], watcher)
    if code:
        raise TestRunError(f"{file}: pytest exits with {code} without any mutant ({watcher.red or 'no test is red'})")
    return [
        (test, seconds, tuple(sorted(seen | watcher.shared[test.partition("::")[0]])))
        for test, seconds, seen in watcher.found
    ]


def killer(fault: object, tests: Sequence[str]) -> str:
    """The first test that is red, "import" where the tests cannot even be loaded, "" where all are green.

    Raises:
        TestRunError: pytest had an internal error.
    """
    del fault
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    watcher = _Watcher("")
    code = _pytest(["-x", *tests], watcher)
    if code == 0:
        return ""
    if code in (1, 2, 4):  # a test failed; collecting was interrupted; the named test could not be loaded
        return watcher.red or "import"
    raise TestRunError(f"pytest exits with {code}")


class _Watcher:
    """A pytest plugin: notes the first red test and, given a file, which of its functions each test calls."""

    def __init__(self, file: str) -> None:
        self.file = os.path.realpath(file) if file else ""  # code may have been loaded by way of a link
        self.red = ""
        self.found: list[tuple[str, float, set[str]]] = []
        self.shared: dict[str, set[str]] = defaultdict(set)  # by test file, what its shared fixtures call
        self.seen: set[str] = set()

    def pytest_runtest_protocol(self, item: "pytest.Item") -> Generator[None, object, object]:
        """Around one test, fixtures included."""
        self.seen, begun = set(), time.perf_counter()
        if self.file:
            threading.setprofile(self._note)
            sys.setprofile(self._note)
        try:
            return (yield)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
            self.found.append((item.nodeid, time.perf_counter() - begun, self.seen))

    def pytest_fixture_setup(
        self, fixturedef: "pytest.FixtureDef[object]", request: "pytest.FixtureRequest"
    ) -> Generator[None, object, object]:
        """What a fixture for several tests calls counts for all tests of its file."""
        outer, self.seen = self.seen, set()
        try:
            return (yield)
        finally:
            if fixturedef.scope != "function":
                self.shared[request.node.nodeid.partition("::")[0]] |= self.seen
            self.seen |= outer

    def pytest_runtest_logreport(self, report: "pytest.TestReport") -> None:
        """Remember the first test that is red."""
        if report.failed:
            self.red = self.red or report.nodeid

    def _note(self, frame: FrameType, event: str, argument: object) -> None:
        del argument
        if event == "call" and _real(frame.f_code.co_filename) == self.file:
            self.seen.add(frame.f_code.co_qualname.partition(".<locals>")[0])


_real = functools.cache(os.path.realpath)


def _pytest(arguments: list[str], watcher: _Watcher) -> int:
    import pytest

    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    profiles = ["-p", "hypothesispytest"] if find_spec("hypothesis") else []  # a conftest sets its profile by this name
    around = pytest.hookimpl(wrapper=True)
    around(_Watcher.pytest_runtest_protocol)
    around(_Watcher.pytest_fixture_setup)
    return int(pytest.main([*OPTIONS, *profiles, *arguments], plugins=[watcher]))
