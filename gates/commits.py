"""What git knows of a project: the commit, what is between two, and whether the clone holds the whole history."""

import re
import subprocess
from collections.abc import Iterable

SHALLOW = "not measured: a shallow clone; `git fetch --unshallow` brings the rest"


class CommitError(RuntimeError):
    """Something that git cannot tell here; the message says why and the next step."""


def head() -> str | None:
    """The commit that is checked out; None outside of a repository, and where git is missing."""
    return _git("rev-parse", "--verify", "--quiet", "HEAD")


def remote() -> str | None:
    """The address of `origin` as a browser opens it, without a password; None where it has none."""
    named = re.fullmatch(
        r"(?:https?://(?:[^/@]*@)?|ssh://(?:[^/@]*@)?|[^/@:]+@)([^/:]+)[/:](.+?)(?:\.git)?/?",
        _git("remote", "get-url", "origin") or "",
    )
    return f"https://{named[1]}/{named[2]}" if named else None


def is_changed() -> bool:
    """Whether tracked or new files differ from the commit."""
    return bool(_git("status", "--porcelain"))


def is_shallow() -> bool:
    """Whether the clone lacks older commits, so that nothing can be said about them."""
    return _git("rev-parse", "--is-shallow-repository") == "true"


def resolve(name: str) -> str:
    """The full name of a commit.

    Raises:
        CommitError: there is none of that name here, or the clone is shallow and may lack it.
    """
    commit = _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if commit:
        return commit
    if is_shallow():
        raise CommitError(f"{name}: {SHALLOW}")
    raise CommitError(f"{name}: no such commit; `git log --oneline` lists them")


def between(first: str, last: str) -> str:
    """How many commits lie between two, in words; "not measured" where the clone is shallow or lacks one of them."""
    if is_shallow():
        return SHALLOW
    count = _git("rev-list", "--count", f"{first}..{last}")
    return f"{count} commits" if count else "not measured: a commit is not in this clone"


def changed_files(first: str, last: str, sources: Iterable[str]) -> list[str] | None:
    """The files among `sources` that differ between two commits; None where the clone is shallow."""
    if is_shallow():
        return None
    names = _git("diff", "--name-only", first, last, "--", *sources)
    return None if names is None else names.splitlines()


def _git(*arguments: str) -> str | None:
    """What git prints; None where it fails or is missing."""
    try:
        done = subprocess.run(["git", *arguments], check=False, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
