"""Find vacuous tests by reading them.

A test may assert through what it calls: a function that asserts or raises, in the same file or imported from the
project, counts as an assertion, as does whatever cannot be read (a library's `check_*` may raise). What is accused is
certain from the text alone.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from andon.gates.measures.vacuous.empty import empty_sets
from andon.gates.measures.vacuous.finding import Finding
from andon.gates.measures.vacuous.itself import always_true
from andon.gates.measures.vacuous.mocks import only_mocks
from andon.gates.measures.vacuous.reach import Function, assertions, reachable
from andon.gates.measures.vacuous.swallow import swallowed


class ReadError(ValueError):
    """A test file that cannot be read; the message names it and the next step."""


def find_tests(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """The tests of a file as pytest collects them: `test_*`, also in classes `Test*`, by name."""
    for node in tree.body:
        if isinstance(node, Function) and node.name.startswith("test"):
            yield node.name, node
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from ((f"{node.name}::{name}", each) for name, each in find_tests(ast.Module(node.body, [])))


def count_tests(source: str) -> int:
    """How many tests a file holds."""
    return sum(1 for _ in find_tests(ast.parse(source)))


def find_tests_in(path: Path) -> list[Path]:
    """The test files of a folder, or the file itself."""
    return sorted(path.rglob("test_*.py")) if path.is_dir() else [path]


def read_file(path: str, source: str, root: Path = Path()) -> list[Finding]:
    """The vacuous tests of a file.

    Raises:
        ReadError: it is no Python.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise ReadError(f"{path}: is not valid Python for this interpreter ({error}); fix it first") from error
    return [finding for name, test in find_tests(tree) for finding in _accuse(path, name, test, tree, root)]


def _accuse(path: str, name: str, test: Function, tree: ast.Module, root: Path) -> Iterator[Finding]:
    for line, why in always_true(test):
        yield Finding(path, line, name, "itself", why)
    for line, why in empty_sets(test, tree):
        yield Finding(path, line, name, "empty set", why)
    for line, why in swallowed(test):
        yield Finding(path, line, name, "swallowed", why)
    if only_mocks(test):
        yield Finding(path, test.lineno, name, "only mocks", "only asserts what it set up in its own mocks")
    if not any(True for _ in assertions(test, tree, root)):
        said = (
            "reaches none of its assertions"
            if _asserts_somewhere(test)
            else "has no assertion, and calls nothing that has one"
        )
        yield Finding(path, test.lineno, name, "no assertion", said)


def _asserts_somewhere(test: Function) -> bool:
    """Whether there is an assertion, reachable or not."""
    return len([node for node in ast.walk(test) if isinstance(node, ast.Assert)]) > len(
        [node for node in reachable(test) if isinstance(node, ast.Assert)]
    )
