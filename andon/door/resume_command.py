"""`--resume-command`: the command is run again in a copy, stopped after its first save, and resumed there.

The run that was watched is the one that it is held to, so that three runs are made in all.
"""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from andon.door.continuation import CONTINUATION, STEPS, Resumption
from andon.door.watched_command import Limits, Outcome, copied, launch
from andon.verify.errors import CheckFailed, NotApplicable
from andon.verify.run.docstring import as_finding

SAVES = "a file that torch.save writes while the command trains, with a step after it"


def continued(command: Sequence[str], resume: Sequence[str], limits: Limits, watched: Outcome) -> dict[str, Any]:
    """What is said of a resumed run, as a process of the command says what it saw."""
    findings, passed, lacking = [], [], {}
    try:
        CONTINUATION.function(_resumption(command, resume, limits, _trail(watched)))
        passed.append(CONTINUATION.name)
    except NotApplicable as lack:
        lacking[CONTINUATION.name] = str(lack)
    except CheckFailed as found:
        findings.append(as_finding(CONTINUATION, found)._asdict())
    nothing: dict[str, Any] = {"seen": "", "captured": [], "steps": 0, "backwards": 0, "not_run": {}, "times": {}}
    return {**nothing, "traits": None, "findings": findings, "passed": passed, "not_applicable": lacking}


def _resumption(
    command: Sequence[str], resume: Sequence[str], limits: Limits, whole: Mapping[str, Any] | None
) -> Resumption:
    """The trails of the runs.

    Raises:
        NotApplicable: one of them is missing, with the reason.
    """
    if whole is None or not any(0 < steps < len(whole["steps"]) for _, steps in whole["saved"]):
        raise NotApplicable(SAVES)
    alone = replace(limits, checks=False, live=False)
    with tempfile.TemporaryDirectory(prefix="andon-") as name:
        folder = copied(Path.cwd(), Path(name))
        before = _files(folder)
        stopped = _taken(launch(command, replace(alone, until_save=True), where=folder, hidden=True), "its second run")
        file = next((path for path, steps in stopped["saved"] if steps), None)
        if file is None:
            raise NotApplicable("a command that repeats itself: a second run of it saved nothing; seed it")
        fresh = {path for path, changed in _files(folder).items() if before.get(path) != changed}
        resumed = _taken(launch(resume, replace(alone, steps=STEPS), where=folder, hidden=True), "--resume-command")
    others = [path for path in resumed["loaded"] if path not in fresh]
    if others and len(others) == len(resumed["loaded"]):
        raise NotApplicable(
            f"a --resume-command that reads what the command has saved: it read {Path(others[0]).name}, which was "
            "there before; remove it, or name the file to resume from"
        )
    return Resumption(whole["steps"], stopped["steps"], resumed["steps"], Path(file).name)


def _taken(outcome: Outcome, what: str) -> Mapping[str, Any]:
    """The trail of a run that took steps.

    Raises:
        NotApplicable: it failed, or took none.
    """
    trail = _trail(outcome)
    if outcome.returncode:
        raise NotApplicable(f"{what} to succeed: it ended with exit code {outcome.returncode}: {outcome.last_line}")
    if trail is None or not trail["steps"]:
        raise NotApplicable(f"{what} to train: no step of a torch.optim optimizer was seen")
    return trail


def _trail(outcome: Outcome) -> Mapping[str, Any] | None:
    """That of the process that took most steps."""
    results = sorted(outcome.results, key=lambda each: -each["steps"])
    return next((each["trail"] for each in results if each["trail"]), None)


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Each file of a folder, and what changes when it is written."""
    found = {}
    for path in folder.resolve().rglob("*"):
        with suppress(OSError):  # a link to nothing
            if path.is_file():
                found[str(path.resolve())] = (path.stat().st_mtime_ns, path.stat().st_size)
    return found
