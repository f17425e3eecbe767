"""Commands that tests start: their environment, and a repository of their own."""

import os
import subprocess
from pathlib import Path

AUTHOR = ("-c", "user.name=N", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false")


def bare(**own: str) -> dict[str, str]:
    """An environment of these variables alone, and of those by which coverage follows a command."""
    return {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")} | own


def git(*arguments: str, cwd: Path | None = None) -> str:
    """What git answers to somebody with a name, in the working directory or another."""
    done = subprocess.run(["git", *AUTHOR, *arguments], cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout.strip("\n")


def commit(root: Path, **texts: str) -> None:
    """Write Python files by name, and commit all that is there; the first commit makes the repository."""
    for name, text in texts.items():
        (root / f"{name}.py").write_text(text)
    git("init", "-q", cwd=root)
    git("add", "-A", cwd=root)
    git("commit", "-q", "-m", "m", cwd=root)
