"""Cognitive complexity: G. A. Campbell, "Cognitive Complexity", SonarSource, version 1.7, 2023, appendix B.

What Python has and the paper lacks is decided in docs/decisions/debt.md.
"""

import ast
from collections.abc import Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef
LOOPS = (ast.For, ast.AsyncFor, ast.While)
NESTING = (*LOOPS, ast.IfExp, ast.ExceptHandler, ast.Match)


def cognitive_complexity(function: Function) -> int:
    """The function's number, that of functions inside it included."""
    inner = [statement for statement in function.body if isinstance(statement, Function)]
    rest = [statement for statement in _without_docstring(function.body) if not isinstance(statement, Function)]
    if len(inner) == 1 and len(rest) == 1 and isinstance(rest[0], ast.Return):  # a decorator: B, "exceptions"
        return cognitive_complexity(inner[0])
    return _all(function.body, 0, function.name)


def _all(nodes: list[ast.stmt] | list[ast.expr], level: int, name: str) -> int:
    return sum(_of(node, level, name) for node in nodes)


def _of(node: ast.AST, level: int, name: str) -> int:
    """What a node and all inside it add, at a level of nesting."""
    if isinstance(node, ast.If):
        return _of_if(node, level, name, 1 + level)
    own, deeper = 0, _inside(node)
    if isinstance(node, NESTING):
        own = 1 + level + (isinstance(node, LOOPS) and bool(node.orelse))
    elif isinstance(node, ast.BoolOp) or (isinstance(node, ast.Call) and _calls(node, name)):
        own = 1
    children = ast.iter_child_nodes(node)
    return own + sum(_of(child, level + any(child is each for each in deeper), name) for child in children)


def _inside(node: ast.AST) -> list[ast.AST]:
    """The children of a node that stand a level deeper than it."""
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    if isinstance(node, ast.Match):
        return list(node.cases)
    if isinstance(node, ast.Lambda):
        return [node.body]
    if isinstance(node, (*LOOPS, ast.ExceptHandler, *Function.__args__)):
        return [*node.body, *(node.orelse if isinstance(node, LOOPS) else [])]
    return []


def _of_if(node: ast.If, level: int, name: str, own: int) -> int:
    """An `if` with its `elif` and `else`: these add 1 each, however deep they stand."""
    total = own + _of(node.test, level, name) + _all(node.body, level + 1, name)
    if len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
        return total + _of_if(node.orelse[0], level, name, 1)
    return total + (1 + _all(node.orelse, level + 1, name) if node.orelse else 0)


def _calls(node: ast.Call, name: str) -> bool:
    """Whether a call is of the function itself, as a name or as a method."""
    function = node.func
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return function.attr == name and function.value.id in ("self", "cls")
    return isinstance(function, ast.Name) and function.id == name


def _without_docstring(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for place, statement in enumerate(body):
        constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if place or not constant:
            yield statement
