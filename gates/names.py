"""Modules by a name that outlives a move: `core:loss` is loss.py in whichever folder of core/ it lies."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath

from andon.gates.config import GateError


def file_of(name: str) -> str:
    """The file that `FOLDER:STEM` names, which lies somewhere below the folder; a path is itself.

    Raises:
        GateError: there is no such file, or more than one.
    """
    folder, colon, stem = name.rpartition(":")
    if not colon:
        if not Path(name).is_file():
            raise GateError(f"{name} is not a file; name one as it is called now, or as FOLDER:STEM")
        return name
    found = [path for path in sorted(Path(folder).rglob(f"{stem}.py")) if not any(_hidden(part) for part in path.parts)]
    if len(found) != 1:
        told = f"{name} is {' and '.join(map(str, found))}" if found else f"{name} is not a file"
        raise GateError(f"{told} below {folder}/; name one module as it is called now, or by its path")
    return str(found[0])


def names_of(paths: Iterable[str]) -> dict[str, str]:
    """`FOLDER:STEM` by path, the folder being the topmost; the path itself where that does not name one file alone."""
    made = {path: _name(PurePath(path)) for path in paths}
    counts = Counter(made.values())
    return {path: name if counts[name] == 1 else path for path, name in made.items()}


def _name(path: PurePath) -> str:
    return str(path) if len(path.parts) == 1 or path.stem.startswith("__") else f"{path.parts[0]}:{path.stem}"


def _hidden(part: str) -> bool:
    return part.startswith(".") and part not in (".", "..")
