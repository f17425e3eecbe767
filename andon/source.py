"""Places in source that outlive a move: `andon.core:Attention.forward` is found in whichever module it lies.

What stands there is compared by syntax, so that neither formatting nor what surrounds it matters. The standard library
is all that this needs, as every package may stand on it.
"""

import ast
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

OPEN = "..."  # the body of a statement, whatever it is
_Node = ast.expr | ast.stmt


class SourceError(ValueError):
    """A place that is not there, or not only once; the message names it and the next step."""


class Place(NamedTuple):
    """A name where it is defined: the importable module, its file, and the qualified name in it."""

    module: str
    path: Path
    name: str


def find(where: str, root: Path | None = None) -> Place:
    """The place of `PACKAGE:NAME`: a function, method, class or variable that one module of the package defines.

    Where several define it, `STEM.NAME` says which: the module's own name, without its folders. The package is imported
    from, and looked for in, what Python sees, or below `root`.

    Raises:
        SourceError: no module defines it, or several do.
    """
    package, _, name = where.partition(":")
    found = []
    for module, path in modules(package, root):
        text, own = path.read_text(encoding="utf-8"), name.removeprefix(f"{path.stem}.")
        if own.rpartition(".")[2] in text and own in definitions(text):  # most need no parsing
            found.append(Place(module, path, own))
    if len(found) != 1:
        told = f"{len(found)} modules ({', '.join(each.module for each in found)})" if found else "no module"
        raise SourceError(f"{where}: {told} of {package} define {name}; name it as one module does, or STEM.{name}")
    return found[0]


def modules(package: str, root: Path | None = None) -> Iterator[tuple[str, Path]]:
    """Each module of a package, by name, with its file; a module that is not a package has itself alone.

    Raises:
        SourceError: there is no such package.
    """
    folder = root / package.replace(".", "/") if root else None
    if folder is None:
        try:
            spec = find_spec(package)
        except ModuleNotFoundError:  # not even what it would lie in
            spec = None
        if spec and spec.submodule_search_locations is None and spec.has_location and spec.origin:
            yield package, Path(spec.origin)
            return
        folder = Path(next(iter(spec.submodule_search_locations or ()))) if spec else Path(package)
    if not folder.is_dir():
        raise SourceError(f"there is no package {package}; name one that can be imported")
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        yield ".".join([package, *parts]).removesuffix(".__init__"), path


@cache
def definitions(text: str) -> Mapping[str, ast.stmt]:
    """The functions, classes and variables of a module by qualified name, with those of its classes."""
    return dict(_definitions(ast.parse(text).body, ""))


def _definitions(body: Sequence[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.stmt]]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from _definitions(node.body, f"{prefix}{node.name}.")
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
            yield from ((prefix + name, node) for name in names)


def replaced(text: str, name: str, before: str, after: str) -> str:
    """A module's source with one expression, or some statements in a row, of a definition replaced.

    `name` is that of the definition, as `find` takes it; `before` and `after` stand at no indentation. Where both end
    in `...`, that is the body of the last statement, whatever it holds: it stays as it is.

    Raises:
        SourceError: `before` is no Python, or stands there not once; the message says how often.
    """
    known = definitions(text)
    node = known.get(name) or known.get(name.partition(".")[2])
    if node is None:
        raise SourceError(f"there is no {name}")
    wanted, new = _parsed(before), _parsed(after)
    if isinstance(wanted, ast.expr) and isinstance(new, ast.expr):
        found = [(each, each) for each in ast.walk(node) if isinstance(each, ast.expr) and _same(each, wanted)]
        start, end = _span(text, *_only(found, name))
        return f"{text[:start]}({after}){text[end:]}"
    statements = ast.parse(before).body
    is_open = before.endswith(OPEN)
    first, last = _only(list(_runs(node, statements, is_open=is_open)), name)
    start, end = _span(text, first, last)
    if is_open:
        end, _ = _span(text, _body(last)[0], last)
    margin = " " * first.col_offset
    laid = textwrap.indent(after.strip("\n"), margin).removeprefix(margin)
    return text[:start] + (laid.removesuffix(OPEN) if is_open else laid) + text[end:]


def _only(found: Sequence[tuple[_Node, _Node]], name: str) -> tuple[_Node, _Node]:
    if len(found) != 1:
        raise SourceError(f"`before` stands {len(found)} times in {name}, and must stand once")
    return found[0]


def _parsed(fragment: str) -> ast.expr | list[ast.stmt]:
    try:
        body = ast.parse(fragment).body
    except SyntaxError as error:
        raise SourceError(f"{fragment!r} is neither an expression nor statements ({error.msg})") from error
    return body[0].value if len(body) == 1 and isinstance(body[0], ast.Expr) else body


def _runs(node: ast.stmt, wanted: Sequence[ast.stmt], *, is_open: bool) -> Iterator[tuple[ast.stmt, ast.stmt]]:
    """First and last of each row of statements below a node that have the same syntax."""
    blocks = [value for each in ast.walk(node) for _, value in ast.iter_fields(each) if isinstance(value, list)]
    for block in [[node], *blocks]:
        for start in range(len(block) - len(wanted) + 1):
            run = block[start : start + len(wanted)]
            opened = [False] * (len(run) - 1) + [is_open]
            if all(map(_same, run, wanted, opened)):
                yield run[0], run[-1]


def _same(one: ast.AST, other: ast.AST, is_open: bool = False) -> bool:
    """Whether two pieces of syntax are the same; of open ones the bodies do not count."""
    return type(one) is type(other) and _dump(one, is_open=is_open) == _dump(other, is_open=is_open)


def _dump(node: ast.AST, *, is_open: bool) -> list[str]:
    fields = [value for name, value in ast.iter_fields(node) if not (is_open and name == "body")]
    return [ast.dump(ast.Tuple(value)) if isinstance(value, list) else _shown(value) for value in fields]


def _shown(value: object) -> str:
    return ast.dump(value) if isinstance(value, ast.AST) else repr(value)


def _body(node: ast.AST) -> list[ast.stmt]:
    """What a compound statement holds, but for its other branches."""
    body = getattr(node, "body", [])
    return body if isinstance(body, list) else []


def _span(text: str, first: _Node, last: _Node) -> tuple[int, int]:
    """Offsets in the text of what begins and ends with these; `ast` counts bytes in a line."""
    lines = io.StringIO(text, newline="").readlines()  # str.splitlines also ends lines at form feeds and the like
    ends = ((first.lineno, first.col_offset), (last.end_lineno or 0, last.end_col_offset or 0))
    start, end = (
        sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode()) for line, column in ends
    )
    return start, end
