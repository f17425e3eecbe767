"""Comments that silence a tool: each costs, less where a reason follows it."""

import re
from collections.abc import Iterator

from andon.gates.measures.debt.lines import Line
from andon.gates.measures.debt.loss import Loss

WHOLE_FILE = re.compile(r"#\s*(?:(?:ruff|flake8):\s*noqa\b|mypy:\s*ignore-errors|pylint:\s*skip-file)", re.IGNORECASE)
SILENCES = re.compile(
    r"#\s*(?:noqa\b(?::\s*[A-Z]+\d+(?:[\s,]+[A-Z]+\d+)*)?|(?:type|ty|pyright):\s*ignore\b(?:\[[^\]]*\])?|"
    r"pragma:\s*no\s+(?:cover|branch)\b|pylint:\s*disable=[\w,\s-]+?(?=$|#|--)|nosec\b(?:\s+B\d+)*|fmt:\s*off\b)",
    re.IGNORECASE,
)
REASON = re.compile(r"\w{2,}")


def suppression_losses(path: str, comments: list[Line]) -> Iterator[Loss]:
    """A loss for each silencing comment of a file."""
    for number, text in comments:
        if WHOLE_FILE.search(text):
            yield Loss(path, number, "suppressions", 3.0, f"{text} silences a whole file")
            continue
        found = list(SILENCES.finditer(text))
        reasoned = REASON.search(SILENCES.sub("", text))
        for match in found:
            why = f"{match[0]} {'with' if reasoned else 'without'} a reason"
            yield Loss(path, number, "suppressions", 0.5 if reasoned else 1.0, why)
