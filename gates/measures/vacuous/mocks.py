"""Tests whose every call and assertion is about mocks that they made."""

import ast

from andon.gates.measures.vacuous.reach import reachable

MOCKS = {"Mock", "MagicMock", "AsyncMock", "NonCallableMock", "PropertyMock", "create_autospec"}


def only_mocks(test: ast.AST) -> bool:
    """Whether a test calls nothing but its own mocks, and asserts about them."""
    nodes = list(reachable(test))
    made = {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign) and _makes_mock(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    others = [
        node for node in nodes if isinstance(node, ast.Call) and not _makes_mock(node) and _root(node) not in made
    ]
    asserts = [node for node in nodes if isinstance(node, ast.Assert) or _is_mock_assertion(node, made)]
    return bool(made and asserts and not others)


def _makes_mock(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in MOCKS


def _root(node: ast.expr) -> str:
    """The name that a chain of attributes and calls begins with."""
    while isinstance(node, ast.Call | ast.Attribute | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _is_mock_assertion(node: ast.AST, made: set[str]) -> bool:
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(called, ast.Attribute) and called.attr.startswith("assert_") and _root(called) in made
