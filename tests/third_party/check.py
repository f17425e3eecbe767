"""A job: one subject, with or without an injected fault, through the checks. Imports no module that faults go into."""

import time
import warnings
from typing import Any

from andon.verify.faults.inject import Fault
from andon.verify.run.runner import check
from tests.third_party.subjects import KNOWN


def check_subject(fault: Fault | None, job: tuple[str, int]) -> dict[str, Any]:
    """What the checks say of a subject, with this seed's weights and batches: all, or of a fault the first finding."""
    from tests.clean import reseeded, subject

    name, seed = job
    begun = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own
        report = check(reseeded(subject(name), seed), ignore=KNOWN.get(name, {}), first=fault is not None)
    findings = [{"check": each.check, "message": each.message, "mistake": each.mistake} for each in report.findings]
    return {
        "findings": findings,
        "checked": report.checked,
        "needs": dict(report.not_applicable),
        "times": dict(report.times),
        "seconds": time.monotonic() - begun,
    }
