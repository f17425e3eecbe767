"""The public surface: what others may have written against, as sorted lines of text that a reviewer reads as a diff."""

import ast
import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path

BASELINE = Path("reports/baselines/surface.txt")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_names(packages: Iterable[str]) -> Iterator[str]:
    """Each public function with its parameters, class with its members, and constant of packages, by module."""
    for package in packages:
        for path in sorted(Path(package).rglob("*.py")):
            module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
            if not any(part.startswith("_") for part in module.split(".")):
                tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
                yield from (f"name {module}.{name}" for name in _members(tree, _exported(tree)))


def changes(recorded: Iterable[str], today: Iterable[str]) -> list[str]:
    """What is new (`+`) and what is gone (`-`)."""
    lines = difflib.unified_diff(list(recorded), list(today), n=0, lineterm="")
    return [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]


def _members(tree: ast.Module | ast.ClassDef, exported: set[str]) -> Iterator[str]:
    for node in tree.body:
        for name, shown in _defined(node):
            if not name.startswith("_"):
                yield shown
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from (f"{node.name}.{member}" for member in _members(node, set()))
        if isinstance(node, ast.ImportFrom):
            names = [alias.asname or alias.name for alias in node.names]
            yield from (name for name in names if name in exported)


def _defined(node: ast.stmt) -> Iterator[tuple[str, str]]:
    """The names that a statement defines, and how each is shown."""
    if isinstance(node, Function):
        yield node.name, f"{node.name}({', '.join(_parameters(node.args))})"
    elif isinstance(node, ast.ClassDef):
        yield node.name, f"{node.name}({', '.join(map(ast.unparse, node.bases))})"
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield from ((each.id, each.id) for each in ast.walk(target) if isinstance(each, ast.Name))


def _parameters(arguments: ast.arguments) -> Iterator[str]:
    """Parameters as a caller sees them: names, `=` where there is a default, `*` before those given by name alone."""
    positional = [*arguments.posonlyargs, *arguments.args]
    required = len(positional) - len(arguments.defaults)
    for place, each in enumerate(positional):
        yield each.arg + "=" * (place >= required)
        if arguments.posonlyargs and place + 1 == len(arguments.posonlyargs):
            yield "/"
    if arguments.vararg or arguments.kwonlyargs:
        yield f"*{arguments.vararg.arg if arguments.vararg else ''}"
    for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield each.arg + "=" * (default is not None)
    if arguments.kwarg:
        yield f"**{arguments.kwarg.arg}"


def _exported(tree: ast.Module) -> set[str]:
    """The names in a module's `__all__`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()
