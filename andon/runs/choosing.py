"""Which of a run's checkpoints a verb uses, and what vouches for it."""

from pathlib import Path

from andon.core.files.folders import best_checkpoint
from andon.core.files.manifest import MANIFEST
from andon.core.files.sums import SUMS
from andon.runs.models import ModelError, resolve_checkpoint
from andon.runs.screen import Say


def choose_model(path: Path, *, best: bool, say: Say) -> Path:
    """The checkpoint that a verb uses of a run, or the path itself; says which one, and what nothing vouches for.

    Raises:
        ModelError: as `resolve_checkpoint`, or the best is asked for where none was measured.
    """
    newest = resolve_checkpoint(path)
    if newest != path:
        return _of_run(path, newest, best=best, say=say)
    if best:
        raise ModelError(f"{path}: is no run, so it has no best checkpoint; leave out --best")
    if path.exists() and not any((path / name).exists() for name in (MANIFEST, SUMS)):
        say(f"{path}: nothing vouches for these files: there is no {SUMS} beside them")
    return path


def _of_run(run: Path, newest: Path, *, best: bool, say: Say) -> Path:
    lowest = best_checkpoint(run / "checkpoints")
    if not best:
        other = f"; the best is {lowest.name}: --best" if lowest not in (None, newest) else ""
        say(f"{run}: {newest.name}, the newest{other}")
        return newest
    if lowest is None:
        raise ModelError(f"{run}: no checkpoint has a validation loss, so none is the best; leave out --best")
    say(f"{run}: {lowest.name}, the best by validation loss")
    return lowest
