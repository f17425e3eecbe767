"""Assertions about the members of a set that has none."""

import ast
from collections.abc import Iterator

from andon.gates.measures.vacuous.reach import reachable

Literal = ast.List | ast.Tuple | ast.Set


def empty_sets(test: ast.FunctionDef | ast.AsyncFunctionDef, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Loops, `all(...)` and parameters over what is empty by its text, each with its line."""
    for decorator in test.decorator_list:
        parameters = decorator.args[1:2] if isinstance(decorator, ast.Call) and _parametrizes(decorator) else []
        if any(is_empty(each, test, tree) for each in parameters):
            yield decorator.lineno, "has no parameters, so it never runs"
    for node in reachable(test):
        if isinstance(node, ast.For) and _asserts(node) and is_empty(node.iter, test, tree):
            yield node.lineno, f"asserts in a loop over {ast.unparse(node.iter)}, which is empty"
        elif isinstance(node, ast.Assert) and (name := _all_of_nothing(node.test, test, tree)):
            yield node.lineno, f"asserts all(...) over {name}, which is empty"


def _all_of_nothing(asserted: ast.expr, test: ast.AST, tree: ast.Module) -> str:
    """The empty set that an `all(...)` is about, or a `not any(...)`; else nothing."""
    negated = isinstance(asserted, ast.UnaryOp) and isinstance(asserted.op, ast.Not)
    call = asserted.operand if isinstance(asserted, ast.UnaryOp) else asserted
    wanted = "any" if negated else "all"
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == wanted and call.args):
        return ""
    over = call.args[0]
    over = over.generators[0].iter if isinstance(over, ast.GeneratorExp | ast.ListComp) else over
    return ast.unparse(over) if is_empty(over, test, tree) else ""


def is_empty(node: ast.expr, test: ast.AST, tree: ast.Module) -> bool:
    """Whether an expression is empty by its text: a literal, `range(0)`, a name only ever bound to such."""
    if isinstance(node, Literal):
        return not node.elts
    if isinstance(node, ast.Dict):
        return not node.keys
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        nothing = [ast.unparse(argument) for argument in node.args] in ([], ["0"], ["()"], ["[]"])
        return node.func.id in ("range", "list", "set", "dict", "tuple") and nothing and not node.keywords
    return isinstance(node, ast.Name) and any(_is_empty_name(node.id, scope) for scope in (test, tree))


def _is_empty_name(name: str, scope: ast.AST) -> bool:
    """Whether a scope binds a name once, to an empty literal, and nowhere could put something into it."""
    bound, seen = [], 0
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict | Literal):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound += [node.value for target in targets if isinstance(target, ast.Name) and target.id == name]
        seen += sum(isinstance(each, ast.Name) and each.id == name for each in _only_looked_at(node))
    uses = sum(isinstance(node, ast.Name) and node.id == name for node in ast.walk(scope))
    is_bound_empty = len(bound) == 1 and not ast.unparse(bound[0]).strip("[](){}")
    return is_bound_empty and uses == len(bound) + seen


def _only_looked_at(node: ast.AST) -> list[ast.expr]:
    """The children of a node that it goes through and cannot change."""
    if isinstance(node, ast.For | ast.comprehension):
        return [node.iter]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.args if node.func.id in ("all", "any", "len", "sorted", "list") else []
    if isinstance(node, ast.Call) and _parametrizes(node):
        return node.args[1:]
    return []


def _parametrizes(call: ast.Call) -> bool:
    return ast.unparse(call.func).endswith("parametrize")


def _asserts(node: ast.AST) -> bool:
    return any(isinstance(inner, ast.Assert) for inner in ast.walk(node))
