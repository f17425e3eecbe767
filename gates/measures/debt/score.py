"""Files to grades."""

import ast
from collections.abc import Iterable
from pathlib import Path

from andon.gates.measures.debt.code import (
    coupling_losses,
    documentation_losses,
    file_length_losses,
    function_losses,
    functions,
)
from andon.gates.measures.debt.duplication import duplication_losses
from andon.gates.measures.debt.lines import Line, read_lines
from andon.gates.measures.debt.loss import File, Loss
from andon.gates.measures.debt.suppressions import suppression_losses


class DebtError(ValueError):
    """A file that cannot be graded; the message names it, the line and the next step."""


def find_files(paths: Iterable[str]) -> list[Path]:
    """The Python files among and in these, without hidden ones.

    Raises:
        DebtError: a path is neither a file nor a folder.
    """
    found = []
    for path in map(Path, paths):
        if not path.exists():
            raise DebtError(f"{path}: no such file or folder; name what is to be graded")
        inner = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        found += [each for each in inner if not any(part.startswith(".") for part in each.relative_to(path).parts)]
    return found


def grade_files(sources: dict[str, str]) -> list[File]:
    """Grade files by path and source; a file without a statement is none.

    Raises:
        DebtError: a file is not Python.
    """
    lines: dict[str, list[Line]] = {}
    losses: dict[str, list[Loss]] = {}
    cyclomatic: dict[str, int] = {}
    for path, source in sources.items():
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError) as error:
            raise DebtError(f"{path}: is not valid Python for this interpreter ({error}); fix it first") from error
        statements, comments = read_lines(source)
        if not statements:
            continue
        complexities = list(_cyclomatic(path, tree))
        lines[path], cyclomatic[path] = statements, sum(value for _, value in complexities)
        name = Path(path).stem
        losses[path] = [
            *(loss for found, _ in complexities for loss in found),
            *function_losses(path, tree, statements),
            *file_length_losses(path, statements),
            *coupling_losses(path, tree),
            *documentation_losses(path, tree, is_public=not name.startswith("_") or name.startswith("__")),
            *suppression_losses(path, comments),
        ]
    for loss in duplication_losses(lines):
        losses[loss.path].append(loss)
    ordered = {
        path: tuple(sorted(found, key=lambda loss: (loss.line, loss.dimension))) for path, found in losses.items()
    }
    return [File(path, found, cyclomatic[path]) for path, found in ordered.items()]


def _cyclomatic(path: str, tree: ast.Module) -> Iterable[tuple[list[Loss], int]]:
    """Each function's loss for its cyclomatic complexity, and the complexity."""
    from radon.visitors import ComplexityVisitor  # late: a development tool

    for function in functions(tree):
        value = ComplexityVisitor.from_ast(ast.Module([function], []), no_assert=True).functions[0].complexity
        why = f"{function.name} has {value}, and 10 are free"
        yield [Loss(path, function.lineno, "cyclomatic", float(value - 10), why)] * (value > 10), value
