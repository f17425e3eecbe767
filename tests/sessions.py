"""What the noxfile offers, read without running it: its sessions with their docstrings, and the measures' names."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def sessions() -> dict[str, str]:
    """The sessions, in their order, and what `nox -l` says of each."""
    functions = [node for node in _noxfile().body if isinstance(node, ast.FunctionDef)]
    return {
        each.name: ast.get_docstring(each) or ""
        for each in functions
        if any("session" in ast.unparse(decorator) for decorator in each.decorator_list)
    }


def measures() -> list[str]:
    """The names that `nox -s measure --` takes."""
    tables = [node.value for node in _noxfile().body if isinstance(node, ast.AnnAssign)]
    return [str(ast.literal_eval(key)) for table in tables if isinstance(table, ast.Dict) for key in table.keys if key]


def measure_functions() -> list[ast.FunctionDef]:
    """What runs the measures, in the noxfile's order."""
    functions = [node for node in _noxfile().body if isinstance(node, ast.FunctionDef)]
    return [each for each in functions if each.name.startswith("measure_")]


def is_known(session: str, *arguments: str) -> bool:
    """Whether `nox -s SESSION -- ARGUMENTS` names what there is."""
    return session in sessions() and (session != "measure" or arguments[:1] == () or arguments[0] in measures())


def _noxfile() -> ast.Module:
    return ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
