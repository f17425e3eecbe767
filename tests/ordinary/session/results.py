"""What runs of the corpus come to: by subject, by half, as the committed measurement, as evidence."""

import re
from collections.abc import Iterable, Mapping
from statistics import fmean, median
from typing import Any

from andon.gates.evidence import Metric
from tests.confidence import highest_share
from tests.ordinary.session.run import Job, label

RED, YELLOW, BLAMED = "red", "yellow", "blamed"


def lights(result: Job) -> dict[str, list[str]]:
    """The checks of a run that gave no pass, by what they said; a blamed subject was not measured at all."""
    said: dict[str, list[str]] = {RED: [], YELLOW: [], BLAMED: []}
    for each in result["findings"]:
        own = said[BLAMED if each["mistake"] else each["light"]]
        own.extend([] if each["check"] in own else [each["check"]])
    return said


def is_alarm(result: Job) -> bool:
    """Whether a run accuses correct code, or blames it."""
    said = lights(result)
    return bool(said[RED] or said[BLAMED])


def by_subject(results: Iterable[Job]) -> dict[str, list[Job]]:
    """The runs of each subject."""
    found: dict[str, list[Job]] = {}
    for result in results:
        found.setdefault(label(result), []).append(result)
    return found


def accused(runs: Mapping[str, list[Job]], light: str) -> dict[str, list[str]]:
    """The subjects of which some run said this, with the checks that did."""
    found = {name: sorted({check for run in own for check in lights(run)[light]}) for name, own in runs.items()}
    return {name: checks for name, checks in found.items() if checks}


def packages(results: Iterable[Job]) -> list[str]:
    """Whose code it is: the packages that the areas name, or "written for this corpus"."""
    parts = {part for result in results for part in re.split(r", | on |; | and ", result["source"])}
    return sorted({re.sub(r"[ =]+\d[\w.]*$", "", part.strip()) for part in parts if part.strip()})


def summary(results: list[Job]) -> dict[str, Any]:
    """A half as it is committed: counts, and what was said of which subject."""
    runs = by_subject(results)
    return {
        "seeds": sorted({result["seed"] for result in results}),
        "sources": packages(results),
        "areas": len({result["area"] for result in results}),
        "runs": len(results),
        "alarms": sum(map(is_alarm, results)),
        **{light: accused(runs, light) for light in (RED, BLAMED, YELLOW)},
        "passed": {name: round(fmean(run["passed"] for run in own), 1) for name, own in runs.items()},
        "cpu": {name: round(median(run["cpu"] for run in own), 2) for name, own in runs.items()},
    }


def metrics(halves: Mapping[str, dict[str, Any]]) -> dict[str, Metric]:
    """What thresholds are set on; null where nothing was run."""
    subjects = sum(len(half["passed"]) for half in halves.values())
    if not subjects:
        return dict.fromkeys(("subjects", "accused", "yellow_share", "fewest_seeds", "highest_share"), Metric(None))
    runs, alarms = (sum(half[key] for half in halves.values()) for key in ("runs", "alarms"))
    return {
        "subjects": Metric(subjects, "subjects"),
        "accused": Metric(sum(len({*half[RED], *half[BLAMED]}) for half in halves.values()), "subjects"),
        "yellow_share": Metric(sum(len(half[YELLOW]) for half in halves.values()) / subjects, "share"),
        "fewest_seeds": Metric(min(len(half["seeds"]) for half in halves.values()), "seeds"),
        "highest_share": Metric(highest_share(alarms, runs), "share"),
    }


def report(results: list[Job]) -> str:
    """Every finding in a line, then the counts."""
    lines = [
        f"{label(result)} (seed {result['seed']}): {BLAMED if each['mistake'] else each['light']} "
        f"{each['check']}: {' '.join(each['message'].split())[:200]}"
        for result in results
        for each in result["findings"]
    ]
    found = summary(results)
    counts = ", ".join(f"{len(found[light])} {light}" for light in (RED, BLAMED, YELLOW))
    cpu = sum(result["cpu"] for result in results)
    return "\n".join([*lines, f"{len(found['passed'])} subjects, {len(results)} runs: {counts}; {cpu:.0f} s of CPU"])
