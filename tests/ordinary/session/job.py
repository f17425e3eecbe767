"""A job: one subject of the corpus through the checks, in a forked process whose server has imported all areas."""

import importlib
import time
import warnings
from pathlib import Path
from typing import Any

from andon.verify.faults.inject import Fault
from andon.verify.run.runner import check
from andon.verify.subject import Subject
from tests.clean import reseeded

HALVES = {"own": "tests.ordinary", "packages": "tests.ordinary.packages"}  # ours, and on packages from PyPI


def modules(half: str) -> list[str]:
    """The areas of a half, as modules; nothing is imported."""
    package = HALVES[half]
    files = sorted(Path(*package.split(".")).glob("*.py"))
    return [f"{package}.{file.stem}" for file in files if not file.stem.startswith(("_", "test_"))]


def listed(_: Fault | None, half: str) -> list[dict[str, str]]:
    """The subjects of a half, with their area and where their code comes from.

    Raises:
        ImportError: an area lacks a package.
    """
    found = []
    for name in modules(half):
        area = importlib.import_module(name)
        own = {"half": half, "area": name.rpartition(".")[2], "source": area.SOURCE}
        found += [own | {"name": subject} for subject in area.SUBJECTS]
    return found


def check_subject(_: Fault | None, job: dict[str, Any]) -> dict[str, Any]:
    """What the checks say of a subject, with this seed's weights and batches, and what that cost."""
    area = importlib.import_module(f"{HALVES[job['half']]}.{job['area']}")
    return checked(area.SUBJECTS[job["name"]], job["seed"], job["only"])


def checked(make: Any, seed: int, only: list[str]) -> dict[str, Any]:
    """The report on what a factory makes, as far as it is kept."""
    begun = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the packages' own
        subject: Subject = make()
        report = check(reseeded(subject, seed), only=only)
    findings = [
        {"check": each.check, "light": each.light, "mistake": each.mistake, "message": each.message}
        for each in report.findings
    ]
    return {
        "findings": findings,
        "passed": len(report.passed),
        "not_applicable": len(report.not_applicable),
        "not_run": len(report.not_run),
        "cpu": time.process_time() - begun,
    }
