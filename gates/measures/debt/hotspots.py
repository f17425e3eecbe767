"""Where debt is paid: files by churn times complexity, beside the grade, as history is not a fault of the code."""

import subprocess
from collections import Counter
from collections.abc import Iterable

from andon.gates.commits import SHALLOW, head, is_shallow
from andon.gates.measures.debt.loss import File

SINCE = "1 year ago"
MOST = 10


def hotspots(files: Iterable[File]) -> list[tuple[int, str]] | str:
    """The files with most commits x cyclomatic complexity, worst first; in words, why it could not be measured."""
    if head() is None:
        return "not measured: no git repository with a commit"
    if is_shallow():
        return SHALLOW
    log = ["git", "log", f"--since={SINCE}", "--name-only", "--format="]
    done = subprocess.run(log, check=True, capture_output=True, text=True)
    commits = Counter(done.stdout.splitlines())
    ranked = sorted(((commits[file.path] * file.cyclomatic, file.path) for file in files), reverse=True)
    return [(heat, path) for heat, path in ranked if heat][:MOST]
