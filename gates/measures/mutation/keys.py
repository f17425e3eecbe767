"""When an old result still holds: while the function, the tests that cover it, the plan and the tools stay the same."""

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from andon.gates.measures.mutation.plan import Module, Plan

IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+\S+[ \t]+import[ \t]+(\([^)]*\)|.*)|import[ \t]+(.*))$", re.MULTILINE)
CACHED = ("@cache", "@functools.cache", "@lru_cache", "@functools.lru_cache")


class Covering(NamedTuple):
    """One test, how long it takes, and the functions of the file that it runs."""

    test: str
    seconds: float
    functions: tuple[str, ...]


def tests_digest(module: Module, plan: Plan) -> str:
    """Of a module and its test files as they are: which test covers what is measured anew once one changes."""
    content = [plan.settings.marks, _content(module.file), *(f"{name} {_content(name)}" for name in module.tests)]
    return hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]


def key(function: str, tests: Iterable[str], count: int, plan: Plan, version: str) -> str:
    """Of a function's source, how many mutants it gets, and the sources of its tests."""
    settings = plan.settings
    limits = [count, settings.test_seconds, settings.function_seconds, settings.limit_seconds, version]
    sources = [test_source(test) for test in sorted(set(tests))]
    return hashlib.sha256(json.dumps([unmoved(function), sources, limits]).encode()).hexdigest()[:16]


def unmoved(text: str) -> str:
    """A source as it is wherever the modules lie that it imports: of imports only the names that they bind count."""
    body, names = _apart(text)
    return "\n".join([body, *names])


def _apart(text: str) -> tuple[str, list[str]]:
    """A source without its imports and empty lines, and what the imports bind: `f`, `f as g`."""
    names: list[str] = []

    def note(found: re.Match[str]) -> str:
        bound = (found[1] or found[2]).partition("#")[0].strip("() \n\t")
        parts = [" ".join(part.split()) for part in bound.split(",") if part.strip()]
        names.extend(parts if found[1] else [part.rpartition(" as ")[2] for part in parts])
        return ""

    lines = [line for line in IMPORT.sub(note, text).splitlines() if line.strip()]
    return "\n".join(lines), sorted(names)


def _content(path: str) -> str:
    """The digest of a file as it is, but for where the modules lie that it imports; "absent" where there is none."""
    file = Path(path)
    return hashlib.sha256(unmoved(file.read_text("utf-8")).encode()).hexdigest() if file.is_file() else "absent"


def test_source(test: str) -> str:
    """A test's source with everything in its file that is not a test; "absent" where either is gone.

    The test helpers that the test's file imports belong to it, by their content; of what else the file imports, what
    is named in all this.
    """
    path, _, name = test.partition("::")
    name = name.partition("[")[0].partition("::")[0]
    around, tests = parts(path)
    if name not in tests:
        return "absent"
    body, names = _apart(around)
    source = f"{body}\n{unmoved(tests[name])}"
    words = set(re.findall(r"\w+", source))
    return "\n".join([source, *(each for each in names if each.rpartition(" ")[2].partition(".")[0] in words)])


def choose_tests(
    covered: Sequence[Covering], function: str, source: str, plan: Plan, first: Sequence[str] = ()
) -> list[str]:
    """The tests to run on a function's mutants: first those that killed before, then the fastest.

    A module's tables get every test, and so does a function whose results are cached, as it runs once for all.
    """
    everything = function.startswith("<") or source.lstrip().startswith(CACHED)
    mine = [each for each in covered if everything or function in each.functions]
    mine = [each for each in mine if each.seconds <= plan.settings.test_seconds]
    mine.sort(key=lambda each: (each.test not in first, each.seconds, each.test))
    chosen, total = [], 0.0
    for each in mine:
        total += each.seconds
        if total > plan.settings.function_seconds and chosen:
            break
        chosen.append(each.test)
    return chosen


@cache
def parts(path: str) -> tuple[str, dict[str, str]]:
    """A test file without its tests, and each test; empty where there is no file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return "", {}
    lines, tests, taken = text.splitlines(), {}, set()
    tree = ast.parse(text)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.lower().startswith("test"):
            start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            span = range(start - 1, node.end_lineno or start)
            tests[node.name] = "\n".join(lines[number] for number in span)
            taken |= set(span)
    helpers = [f"{name} {_content(name)}" for name in _imported(tree)]
    return "\n".join([*(line for number, line in enumerate(lines) if number not in taken), *helpers]), tests


def _imported(tree: ast.Module) -> list[str]:
    """Test helpers that a file imports, as paths."""
    modules = [node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    paths = [f"{module.replace('.', '/')}.py" for module in modules if module.partition(".")[0] == "tests"]
    return [path for path in paths if Path(path).exists()]
