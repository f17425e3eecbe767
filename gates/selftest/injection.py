"""A measure on a planted tree.

A plant is the smallest change that its measure exists to find, given as data. The tree is copied, the plant is put into
the copy, and the measure's own command runs there: its exit code or one of its thresholds must be red, and what the
plant shows must stand in what was found, so that a copy that is broken in another way proves nothing.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from andon.gates.config import Gates, Measure, Plant, Threshold, Tier
from andon.gates.evidence import FOLDER, Evidence, EvidenceError, read_evidence, write_evidence
from andon.gates.judge import judge
from andon.gates.run import Commands, execute
from andon.source import SourceError, find, replaced

LEFT_OUT = (".*", "__pycache__", "build", "dist", "mutants")


def plant_and_run(plant: Plant, measure: Measure, bounds: list[Threshold]) -> str:
    """Run a measure on a planted copy of the tree; returns what was seen instead of what should be, else empty."""
    with tempfile.TemporaryDirectory(prefix="andon-selftest-") as name:
        root = Path(name) / "tree"
        copy_tree(root)
        problem = _put(plant, root)
        if problem:
            return problem
        own = {"PYTHONPATH": str(root), "VIRTUAL_ENV": sys.prefix} | plant.environment
        command = measure.model_copy(update={"environment": measure.environment | own})
        log, commands = Path(name) / "log", Commands()
        with log.open("wb") as file:
            code = execute(command, file.fileno(), commands, root)
        found = log.read_text(encoding="utf-8", errors="replace")
        reds = _red_bounds(measure, bounds, root / FOLDER, Path(name) / "evidence")
    name = plant.file or plant.where
    if not code and not reds:
        return f"{name} planted, and it stayed green"
    if plant.shows not in found + "\n".join(reds):
        last = (found.strip().splitlines() or ["nothing"])[-1]
        return f"{name} planted; exit code {code}, and {plant.shows!r} stands nowhere; it said last: {last:.200}"
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


def _put(plant: Plant, root: Path) -> str:
    """Put a plant into a copy of the tree; returns why it cannot be, else empty."""
    if plant.where:
        return _put_into(plant, root)
    path = root / plant.file
    if not plant.before:
        if path.exists():
            return f"{plant.file} exists already; name `before`, or another file"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(plant.after, encoding="utf-8")
        return ""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text.count(plant.before) != 1:
        return f"`before` stands {text.count(plant.before)} times in {plant.file}, and must stand once"
    path.write_text(text.replace(plant.before, plant.after), encoding="utf-8")
    return ""


def _put_into(plant: Plant, root: Path) -> str:
    try:
        _, path, name = find(plant.where, root)
        path.write_text(replaced(path.read_text(encoding="utf-8"), name, plant.before, plant.after), encoding="utf-8")
    except SourceError as error:
        return f"{plant.where}: {error}"
    return ""


def _red_bounds(measure: Measure, bounds: list[Threshold], left: Path, folder: Path) -> list[str]:
    """What the thresholds on the evidence that a measure left say where they are red; null is no finding of a plant."""
    try:
        evidence = read_evidence(measure.name, left)
    except EvidenceError:
        return []
    write_evidence(Evidence(evidence.name, evidence.command, evidence.seconds, {}, evidence.metrics), folder)
    tier = Tier(name="planted", summary="")
    gates = Gates(tiers=[tier], thresholds=[each.model_copy(update={"tier": tier.name}) for each in bounds])
    checks = judge(tier.name, gates, folder).checks
    return [f"{check.name} {check.detail}" for check in checks if check.state == "red" and check.value is not None]
