"""Coverage of the lines that differ from a base commit."""

import re
import subprocess
from collections.abc import Mapping
from typing import Any

from andon.gates.commits import resolve

HUNK = re.compile(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@")


def changed_lines(base: str) -> dict[str, set[int]]:
    """By Python file, the lines that are new or different since the work tree left the base commit.

    Raises:
        CommitError: there is no such commit here.
    """
    diff = ["git", "diff", "-U0", "--no-color", "--no-ext-diff", "--merge-base", resolve(base), "--", "*.py"]
    done = subprocess.run(diff, check=True, capture_output=True, text=True)
    found: dict[str, set[int]] = {}
    lines: set[int] = set()
    for line in done.stdout.splitlines():
        if line.startswith("+++ "):
            lines = found.setdefault(line.removeprefix("+++ ").removeprefix("b/"), set())
        elif match := HUNK.match(line):
            first, count = int(match[1]), int(match[2] or 1)
            lines |= set(range(first, first + count))
    return found


def changed_coverage(report: Mapping[str, Any], changed: Mapping[str, set[int]]) -> tuple[float | None, list[str]]:
    """The share of changed statements that tests reach, in percent, and each one that none does, as `path:line`."""
    reached, missed = 0, []
    for path, lines in sorted(changed.items()):
        file = report["files"].get(path, {"executed_lines": [], "missing_lines": []})
        reached += len(lines & set(file["executed_lines"]))
        missed += [f"{path}:{line}" for line in sorted(lines & set(file["missing_lines"]))]
    total = reached + len(missed)
    return (100 * reached / total if total else None), missed
