"""Assertions whose failure is caught."""

import ast
from collections.abc import Iterator

from andon.gates.measures.vacuous.reach import reachable

CATCH_ALL = {"AssertionError", "Exception", "BaseException"}


def swallowed(test: ast.AST) -> Iterator[tuple[int, str]]:
    """Handlers that catch a failed assertion and do not fail the test, each with its line."""
    for node in reachable(test):
        if isinstance(node, ast.Try) and _asserts(node.body):
            for handler in node.handlers:
                if _catches(handler.type) and not _fails(handler.body):
                    yield handler.lineno, "catches its own failed assertion"
        elif isinstance(node, ast.With) and _asserts(node.body):
            for item in node.items:
                if _suppresses(item.context_expr):
                    yield node.lineno, "suppresses its own failed assertion"


def _asserts(body: list[ast.stmt]) -> bool:
    return any(isinstance(node, ast.Assert) for statement in body for node in ast.walk(statement))


def _catches(kind: ast.expr | None) -> bool:
    """Whether an `except` catches AssertionError."""
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(each is None or ast.unparse(each).rpartition(".")[2] in CATCH_ALL for each in kinds)


def _fails(body: list[ast.stmt]) -> bool:
    """Whether a handler raises, asserts, calls something that may fail the test, or keeps the error to look at."""
    nodes = [node for statement in body for node in ast.walk(statement)]
    said = any(isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("fail", "exit")) for node in nodes)
    return said or any(isinstance(node, ast.Raise | ast.Assert | ast.Assign | ast.AugAssign) for node in nodes)


def _suppresses(context: ast.expr) -> bool:
    call = context if isinstance(context, ast.Call) else None
    return bool(call and ast.unparse(call.func).endswith("suppress") and any(map(_catches, call.args)))
