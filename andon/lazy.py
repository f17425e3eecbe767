"""Public names of a package that are imported on first use, so that importing the package costs nothing."""

import ast
import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def on_first_use(
    package: str, renamed: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for a package whose `__init__.py` imports its public names under `if TYPE_CHECKING:`.

    These statements, which type checkers and editors follow too, are the one list of what is imported from where.
    `renamed` maps names before 0.1 to those of now: an old one is taken with a warning.
    """

    def attribute(name: str) -> Any:
        if renamed and name in renamed:
            current = renamed[name]
            short = package.rpartition(".")[2]
            warnings.warn(f"{short}.{name} is {current!r} now; the old name goes in 0.2", FutureWarning, 2)
            return getattr(sys.modules[package], current)
        homes = _homes(package)
        if name not in homes:
            public = ", ".join(sys.modules[package].__all__)
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {public}")
        module = importlib.import_module(homes[name])
        value = module if homes[name] == f"{package}.{name}" else getattr(module, name)
        setattr(sys.modules[package], name, value)  # the next use finds it at once
        return value

    return attribute, lambda: sorted(sys.modules[package].__all__)


def _homes(package: str) -> dict[str, str]:
    """By name the module that it is imported from; a module of the package itself is its own home."""
    tree = ast.parse(Path(sys.modules[package].__file__ or "").read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {
        alias.name: f"{package}.{alias.name}" if node.module == package else node.module or ""
        for node in imports
        for alias in node.names
    }
