"""What single files lose points for: complexity, length, nesting, coupling, documentation."""

import ast
import sys
from collections.abc import Iterator

from andon.gates.measures.debt.cognitive import Function, cognitive_complexity
from andon.gates.measures.debt.lines import Line
from andon.gates.measures.debt.loss import Dimension, Loss

BLOCKS = (
    ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.TryStar, ast.With, ast.AsyncWith, ast.Match, ast.ClassDef,
    ast.FunctionDef, ast.AsyncFunctionDef,
)  # fmt: skip


def functions(tree: ast.AST) -> Iterator[Function]:
    """Functions of a module and methods of its classes; those inside of functions belong to these."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield node
        elif not isinstance(node, ast.expr):
            yield from functions(node)


def function_losses(path: str, tree: ast.Module, statements: list[Line]) -> Iterator[Loss]:
    """What functions lose for cognitive complexity, length and nesting."""
    for function in functions(tree):
        end = function.end_lineno or function.lineno
        length = sum(function.lineno <= line.number <= end for line in statements)
        yield from over(path, function, "cognitive", cognitive_complexity(function), 15, 0.5)
        yield from over(path, function, "length", length, 50, 0.1)
        yield from over(path, function, "nesting", nesting(function), 4, 2.0)


def over(path: str, function: Function, dimension: Dimension, value: int, limit: int, each: float) -> Iterator[Loss]:
    """The loss of a function's number beyond its limit."""
    if value > limit:
        why = f"{function.name} has {value}, and {limit} are free"
        yield Loss(path, function.lineno, dimension, round(each * (value - limit), 2), why)


def nesting(node: ast.AST) -> int:
    """How deep the deepest block inside stands; an `elif` is as deep as its `if`."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        is_elif = isinstance(node, ast.If) and [child] == node.orelse and isinstance(child, ast.If)
        deepest = max(deepest, nesting(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def file_length_losses(path: str, statements: list[Line]) -> Iterator[Loss]:
    """What a file loses for its length, at the first line beyond."""
    if len(statements) > 500:
        why = f"{len(statements)} statement lines, and 500 are free"
        yield Loss(path, statements[500].number, "length", round(0.02 * (len(statements) - 500), 2), why)


def coupling_losses(path: str, tree: ast.Module) -> Iterator[Loss]:
    """A point for each imported module beyond the fifteenth."""
    first: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in _imported(node):
                first[name] = min(node.lineno, first.get(name, node.lineno))
    others = sorted((line, name) for name, line in first.items() if name.split(".")[0] not in sys.stdlib_module_names)
    for place, (line, name) in enumerate(others[15:], 16):
        yield Loss(path, line, "coupling", 1.0, f"{name} is module {place} of those imported, and 15 are free")


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The modules that a line imports; `from . import a` names `.a`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if node.module is None:
        return ["." * node.level + alias.name for alias in node.names]
    return ["." * node.level + node.module]


def documentation_losses(path: str, tree: ast.Module, *, is_public: bool) -> Iterator[Loss]:
    """What is public and has no docstring."""
    if is_public and tree.body and not ast.get_docstring(tree):
        yield Loss(path, 1, "documentation", 2.0, "the module has no docstring")
    yield from _undocumented(path, tree)


def _undocumented(path: str, tree: ast.Module | ast.ClassDef) -> Iterator[Loss]:
    for node in tree.body:
        if isinstance(node, (*Function.__args__, ast.ClassDef)) and not node.name.startswith("_"):
            if not ast.get_docstring(node) and not any(_repeats(each) for each in node.decorator_list):
                yield Loss(path, node.lineno, "documentation", 1.0, f"{node.name} has no docstring")
            if isinstance(node, ast.ClassDef):
                yield from _undocumented(path, node)


def _repeats(decorator: ast.expr) -> bool:
    """Whether a decorator says that the documentation stands at another definition of the name."""
    return ast.unparse(decorator).rpartition(".")[2] in ("overload", "override", "setter", "deleter")
