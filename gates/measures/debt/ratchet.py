"""The ratchet: no file falls far below its recorded score, and a new one starts well."""

import json
from collections.abc import Iterable
from pathlib import Path

from andon.files import write_whole
from andon.gates.evidence import digest
from andon.gates.measures.debt.loss import File
from andon.gates.measures.debt.score import DebtError
from andon.gates.names import names_of

BASELINE = Path("reports/baselines/debt.json")
SLACK = 1.0
NEW = 90.0
Recorded = dict[str, tuple[float, str]]  # by module: its score, and the digest of its content


def fallen(files: Iterable[File], recorded: Recorded) -> list[str]:
    """A line for each file below what it must have; one whose content is the recorded one is never among them."""
    found, graded = [], list(files)
    names = names_of(file.path for file in graded)
    for file in graded:
        before, content = recorded.get(names[file.path], (None, ""))
        if before is None and file.score < NEW:
            found.append(f"{file.path}:1: {file.score:g}, and a new file starts at {NEW:g} or better")
        if before is not None and file.score < before - SLACK and digest(file.path) != content:
            found.append(f"{file.path}:1: {file.score:g}, and it had {before:g}; at most {SLACK:g} point may be lost")
    return found


def read_baseline(path: Path = BASELINE) -> Recorded:
    """The recorded scores; none where there is no file.

    Raises:
        DebtError: it holds something else.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: (float(row["score"]), str(row["content"])) for name, row in content.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DebtError(
            f"{path}: holds no scores ({error!r}); `nox -s measure -- debt --write` records them"
        ) from error


def write_baseline(files: Iterable[File], path: Path = BASELINE) -> None:
    """Record today's scores, a module a line, by names that outlive a move."""
    graded = list(files)
    names = names_of(file.path for file in graded)
    rows = {names[file.path]: {"score": file.score, "content": digest(file.path)} for file in graded}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(rows[name])}" for name in sorted(rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, f"{{\n{lines}\n}}\n")
