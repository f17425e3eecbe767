"""What a test reaches, and what of it can make the test fail."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
ENDS = (ast.Return, ast.Raise, ast.Continue, ast.Break)
SILENT = {  # calls that cannot fail a test by what they find
    "print", "len", "str", "repr", "list", "dict", "set", "tuple", "sorted", "range", "isinstance", "type", "bool",
    "int", "float", "min", "max", "sum", "any", "all", "zip", "enumerate", "map", "filter", "id", "hash", "Path",
}  # fmt: skip


def reachable(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that can run.

    Those after a `return`, under a condition that is the constant false, and in an inner function that nothing names
    cannot.
    """
    yield node
    named = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)} if isinstance(node, Function) else set()
    for name, value in ast.iter_fields(node):
        if name == "decorator_list" or (isinstance(node, ast.If) and _is_dead(node, name)):
            continue
        for child in _until_the_end(value) if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_unused(child, named, node):
                yield from reachable(child)


def _until_the_end(nodes: list[ast.AST]) -> Iterator[ast.AST]:
    for node in nodes:
        yield node
        if isinstance(node, ENDS):
            return


def _is_dead(node: ast.If, field: str) -> bool:
    if not isinstance(node.test, ast.Constant):
        return False
    return field == ("orelse" if node.test.value else "body")


def _is_unused(child: ast.AST, named: set[str], parent: ast.AST) -> bool:
    """Whether it is a function inside of a test that nothing calls or passes on."""
    plain = isinstance(child, Function) and not child.decorator_list
    return plain and isinstance(parent, Function) and child.name not in named


def assertions(test: Function, tree: ast.Module, root: Path) -> Iterator[ast.AST]:
    """What a test reaches that can fail it by what it finds: assertions, `pytest.raises`, functions that raise."""
    for node in reachable(test):
        if isinstance(node, ast.Assert | ast.Raise) or (isinstance(node, ast.Call) and _may_raise(node, tree, root)):
            yield node
    for argument in test.args.args:
        fixture = _function(argument.arg, tree)
        if fixture and any(isinstance(node, ast.Assert) for node in ast.walk(fixture)):
            yield fixture


def _may_raise(call: ast.Call, tree: ast.Module, root: Path, depth: int = 0) -> bool:
    """Whether a call can raise for what it finds; what cannot be read may."""
    if not isinstance(call.func, ast.Name):
        return not _is_plain_method(call)
    name = call.func.id
    if name in SILENT:
        return False
    found, where = _function(name, tree), tree
    if found is None:
        found, where = _imported(name, tree, root)
    if not isinstance(found, Function) or depth > 4:
        return found is None and not _is_class(name, tree)
    return any(
        isinstance(node, ast.Assert | ast.Raise)
        or (isinstance(node, ast.Call) and _may_raise(node, where, root, depth + 1))
        for node in reachable(found)
    )


def _is_plain_method(call: ast.Call) -> bool:
    """Whether a method is one of containers, strings or files, which no test makes fail."""
    plain = {"append", "extend", "add", "update", "items", "keys", "values", "get", "join", "format", "split", "strip",
             "startswith", "endswith", "copy", "clear", "setdefault", "write_text", "mkdir", "touch"}  # fmt: skip
    return isinstance(call.func, ast.Attribute) and call.func.attr in plain


def _function(name: str, tree: ast.Module) -> Function | None:
    return next((node for node in tree.body if isinstance(node, Function) and node.name == name), None)


def _is_class(name: str, tree: ast.Module) -> bool:
    return any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body)


def _imported(name: str, tree: ast.Module, root: Path) -> tuple[Function | None, ast.Module]:
    """A function that the file imports from a file of this project, with that file; None where it cannot be read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    other = _module(root / Path(*node.module.split(".")).with_suffix(".py"))
                    return (_function(alias.name, other), other) if other else (None, tree)
    return None, tree


@cache
def _module(path: Path) -> ast.Module | None:
    return ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else None
