"""Run a measure on a copy of the project with a fault injected.

An injected fault is the smallest change that its measure exists to find, given as data. The tree is copied, the fault
is injected into the copy, and the measure's own command runs there. Its exit code or one of its thresholds must be red,
and the text that the fault `shows` must occur in its output: a copy that is broken in another way proves nothing.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from andon.gates.config import Gates, InjectedFault, Measure, Threshold, Tier
from andon.gates.evidence import FOLDER, Evidence, EvidenceError, read_evidence, seal_evidence, write_evidence
from andon.gates.judge import judge
from andon.gates.run import Commands, execute
from andon.source import SourceError, find, replaced

LEFT_OUT = (".*", "__pycache__", "build", "dist", "mutants")


def inject_and_run(fault: InjectedFault, measure: Measure, bounds: list[Threshold]) -> str:
    """Run a measure on a copy with the fault; returns why it was not red as it should be, else an empty string."""
    with tempfile.TemporaryDirectory(prefix="andon-selftest-") as name:
        root = Path(name) / "tree"
        copy_tree(root)
        problem = _inject(fault, root)
        if problem:
            return problem
        own = {"PYTHONPATH": str(root), "VIRTUAL_ENV": sys.prefix} | fault.environment
        command = measure.model_copy(update={"environment": measure.environment | own})
        log, commands = Path(name) / "log", Commands()
        with log.open("wb") as file:
            code = execute(command, file.fileno(), commands, root)
        found = log.read_text(encoding="utf-8", errors="replace")
        reds = _red_bounds(measure, bounds, root / FOLDER, Path(name) / "evidence")
    place = fault.file or fault.where
    if not code and not reds:
        return f"fault injected into {place}, and it stayed green"
    if fault.shows not in found + "\n".join(reds):
        last = (found.strip().splitlines() or ["nothing"])[-1]
        return f"{place}: exit code {code}, but {fault.shows!r} is not in the output, which ends with: {last:.200}"
    return ""


def copy_tree(root: Path) -> None:
    """The project in the working directory as it stands, without what git ignores, with its history if it has one.

    A link stays the link that it is.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], check=False, capture_output=True
    )
    if listed.returncode:
        shutil.copytree(Path(), root, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        return
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", ".", str(root)], check=True)
    for name in os.fsdecode(listed.stdout).split("\0"):
        if name and (Path(name).is_file() or Path(name).is_symlink()):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, root / name, follow_symlinks=False)
    subprocess.run(["git", "reset", "--quiet"], cwd=root, check=True)


def _inject(fault: InjectedFault, root: Path) -> str:
    """Inject a fault into a copy of the tree; returns why it cannot be, else an empty string."""
    if fault.where:
        return _inject_at(fault, root)
    path = root / fault.file
    if not fault.before:
        if path.exists():
            return f"{fault.file} already exists; set `before`, or name another file"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(fault.after, encoding="utf-8")
        return ""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text.count(fault.before) != 1:
        return f"`before` occurs {text.count(fault.before)} times in {fault.file}, and must occur once"
    path.write_text(text.replace(fault.before, fault.after), encoding="utf-8")
    return ""


def _inject_at(fault: InjectedFault, root: Path) -> str:
    try:
        _, path, name = find(fault.where, root)
        path.write_text(replaced(path.read_text(encoding="utf-8"), name, fault.before, fault.after), encoding="utf-8")
    except SourceError as error:
        return f"{fault.where}: {error}"
    return ""


def _red_bounds(measure: Measure, bounds: list[Threshold], left: Path, folder: Path) -> list[str]:
    """The thresholds on a measure's evidence that are red, with details; null does not count as red."""
    seal_evidence(measure.name, left)
    try:
        evidence = read_evidence(measure.name, left)
    except EvidenceError:
        return []
    write_evidence(Evidence(evidence.name, evidence.command, evidence.seconds, {}, evidence.metrics), folder)
    tier = Tier(name="injected", summary="")
    gates = Gates(tiers=[tier], thresholds=[each.model_copy(update={"tier": tier.name}) for each in bounds])
    checks = judge(tier.name, gates, folder).checks
    return [f"{check.name} {check.detail}" for check in checks if check.state == "red" and check.value is not None]
