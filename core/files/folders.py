"""Folders that are written atomically, and which checkpoints among them are kept."""

import itertools
import os
import re
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from andon.core.files.manifest import CheckpointError, read_manifest

# The old folder while the new one takes its name; still found if the process is killed at that moment.
REPLACED = ".replaced"
ASIDE = ".aside"  # of a run that was resumed from before this checkpoint
CHECKPOINT = re.compile(rf"step-(\d{{8,}})(?:{re.escape(REPLACED)})?")


@contextmanager
def atomic_folder(target: Path) -> Generator[Path]:
    """A temporary folder to fill; when the block ends it is synced to disk and renamed to `target`.

    If the block raises, the temporary folder is removed and `target` is as before.

    Raises:
        OSError: the file system refused, for example a full disk.
    """
    partial = _partial(target)
    aside = target.with_name(target.name + REPLACED)
    _remove(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in partial.iterdir():
            _sync(path)
        _sync(partial)
        if target.exists():
            _remove(aside)
            target.rename(aside)
        partial.rename(target)
        _sync(target.parent)
        _remove(aside)
    finally:
        _remove(partial)


def checkpoint_folder(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies: `step-00000100`."""
    return root / f"step-{step:08d}"


def checkpoint_step(folder: Path) -> int | None:
    """The step in a checkpoint folder's name, or None where the name is another."""
    match = CHECKPOINT.fullmatch(folder.name)
    return int(match[1]) if match else None


def checkpoints(root: Path) -> list[Path]:
    """Checkpoint folders under `root`, latest step first; their content is not read."""
    found: dict[int, Path] = {}
    for folder in sorted(root.glob("step-*")):  # step-00000100 before step-00000100.replaced
        step = checkpoint_step(folder)
        if step is not None and folder.is_dir():
            found.setdefault(step, folder)
    return [found[step] for step in sorted(found, reverse=True)]


def latest_checkpoint(root: Path) -> Path | None:
    """The checkpoint of the highest step, if there is one."""
    return next(iter(checkpoints(root)), None)


def best_checkpoint(root: Path) -> Path | None:
    """The checkpoint with the lowest metric, the latest among equals; None where none has a metric."""
    readable = _valid_checkpoints(root)
    step = best_step({step: metric for step, (_, metric) in readable.items()})
    return None if step is None else readable[step][0]


def best_step(metrics: Mapping[int, float | None]) -> int | None:
    """The step with the lowest metric, the latest among equals; None where nothing was measured."""
    measured = {step: metric for step, metric in metrics.items() if metric is not None}
    return min(measured, key=lambda step: (measured[step], -step), default=None)


def steps_to_delete(metrics: Mapping[int, float | None], keep_last: int, keep_best: bool) -> list[int]:
    """Steps to delete, oldest first: all but the `keep_last` (1 or more) highest and, with `keep_best`, the best."""
    best = best_step(metrics) if keep_best else None
    return [step for step in sorted(metrics)[:-keep_last] if step != best]


def rotate(latest: Path, keep_last: int, keep_best: bool) -> list[Path]:
    """Delete what `steps_to_delete` names beside the checkpoint just saved, and return the deleted folders.

    Checkpoints of later steps (of a run that was resumed from before them) and those whose manifest is damaged are
    neither counted nor deleted: they must not push out a good one.

    Raises:
        CheckpointError: a folder cannot be removed.
    """
    current = checkpoint_step(latest)
    readable = {
        step: found for step, found in _valid_checkpoints(latest.parent).items() if current is None or step <= current
    }
    metrics = {step: metric for step, (_, metric) in readable.items()}
    folders = [readable[step][0] for step in steps_to_delete(metrics, keep_last, keep_best)]
    for folder in folders:
        try:
            folder.rename(_partial(folder))  # an interrupted deletion must not leave half a checkpoint under its name
            _remove(_partial(folder))
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot be removed ({error.strerror}); check its permissions") from error
    return folders


def remove_leftovers(root: Path) -> None:
    """Remove what interrupted saves and deletions have left under `root`."""
    for folder in root.glob(_partial(root / "step-*").name):
        _remove(folder)


def recover(root: Path) -> None:
    """Bring the checkpoints under `root` in order after a kill: no half of one is left, and each has its own name.

    Raises:
        OSError: the file system refused.
    """
    remove_leftovers(root)
    for old in root.glob(f"step-*{REPLACED}"):
        new = old.with_name(old.name.removesuffix(REPLACED))
        if new.exists():  # the new one was in place already
            old.rename(_partial(old))
            _remove(_partial(old))
        else:
            old.rename(new)


def put_aside_after(step: int, root: Path) -> list[Path]:
    """Rename the checkpoints of later steps, which belong to a future that a resumed run has left; their new names.

    Raises:
        OSError: the file system refused.
    """
    later = [folder for folder in checkpoints(root) if (checkpoint_step(folder) or 0) > step]
    return [folder.rename(_unused(folder.with_name(folder.name + ASIDE))) for folder in later]


def _unused(path: Path) -> Path:
    names = (path if number == 1 else path.with_name(f"{path.name}-{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def _valid_checkpoints(root: Path) -> dict[int, tuple[Path, float | None]]:
    """Folder and metric by step, of the checkpoints whose manifest is valid and matches the folder's name."""
    found = {}
    for folder in checkpoints(root):
        try:
            manifest = read_manifest(folder)
        except CheckpointError:
            continue  # not considered; loading it reports what is wrong
        if manifest.step == checkpoint_step(folder):
            found[manifest.step] = folder, manifest.metric
    return found


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
