"""Assertions that hold whatever the code does: of a value with itself, of constants."""

import ast
from collections.abc import Iterator

from andon.gates.measures.vacuous.reach import reachable

REFLEXIVE = (ast.Eq, ast.Is, ast.LtE, ast.GtE)


def always_true(test: ast.AST) -> Iterator[tuple[int, str]]:
    """The line of each assertion that cannot fail, and why.

    Calls are never taken for the same value twice: two runs that must agree are a test.
    """
    for node in reachable(test):
        if isinstance(node, ast.Assert):
            why = _why(node.test)
            if why:
                yield node.lineno, why


def _why(test: ast.expr) -> str:
    """Why an expression is true whatever the code does; empty where it may be false."""
    if isinstance(test, ast.BoolOp):
        reasons = [_why(value) for value in test.values]
        certain = any(reasons) if isinstance(test.op, ast.Or) else all(reasons)
        return next(filter(None, reasons)) if certain else ""
    if isinstance(test, ast.Compare):
        return _why_compared(test)
    if isinstance(test, ast.Constant) and test.value:
        return f"asserts the constant {ast.unparse(test)}"
    if isinstance(test, ast.Tuple) and test.elts:
        return "asserts a tuple, which is true when it holds anything"
    return "asserts a function, which is true" if isinstance(test, ast.Lambda) else ""


def _why_compared(test: ast.Compare) -> str:
    left, right = test.left, test.comparators[0]
    if len(test.ops) > 1 or not isinstance(test.ops[0], REFLEXIVE) or ast.dump(left) != ast.dump(right):
        return ""
    calls = any(isinstance(node, ast.Call | ast.Await | ast.NamedExpr) for node in ast.walk(left))
    return "" if calls else f"compares {ast.unparse(left)} with itself"
