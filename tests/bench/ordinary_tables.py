"""The tables of the corpus of correct code and of the public bug reports, from their committed measurements."""

from pathlib import Path
from statistics import fmean, median
from typing import Any

from tests.bench.markdown import table
from tests.confidence import highest_share

ORDINARY = Path("reports/baselines/ordinary.json")
FIRST = Path("reports/baselines/ordinary_first.json")  # never written again
REPORTS = Path("reports/baselines/reports.json")
TITLES = {"own": "written for the corpus", "packages": "on packages from PyPI"}
LIGHTS = {"red": "Red", "blamed": "Blamed", "yellow": "Yellow"}


def ordinary(content: dict[str, Any]) -> str:
    """What the checks say of the corpus today, and the bound on false alarms that all runs leave."""
    header = ["correct code", "sources", "subjects", "runs", "red", "blamed", "yellow", "checks passed", "CPU seconds"]
    halves = {half: content[half] for half in TITLES if half in content}
    rows = [[TITLES[half], *_row([found])] for half, found in halves.items()]
    rows += [["all", *_row(list(halves.values()))]] if len(halves) > 1 else []
    runs, alarms = (sum(found[key] for found in halves.values()) for key in ("runs", "alarms"))
    said = [
        f"{title}: {', '.join(f'{name} ({_checks(checks)})' for name, checks in accused.items())}."
        for light, title in LIGHTS.items()
        if (accused := {name: checks for found in halves.values() for name, checks in found[light].items()})
    ]
    bound = (
        f"{alarms} of {runs} runs accuse or blame correct code: with 95% confidence fewer than "
        f"{highest_share(alarms, runs):.1%} of such runs do. Checks passed are a mean, CPU seconds a median."
    )
    return "\n\n".join([table(header, rows), bound, *said])


def _row(halves: list[dict[str, Any]]) -> list[str]:
    passed, cpu = ([value for found in halves for value in found[key].values()] for key in ("passed", "cpu"))
    sources = {source for found in halves for source in found["sources"]}
    counts = [len(passed), sum(found["runs"] for found in halves)]
    counts += [sum(len(found[light]) for found in halves) for light in LIGHTS]
    return [*map(str, [len(sources), *counts]), f"{fmean(passed):.1f}", f"{median(cpu):.1f}"]


def _checks(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def first(content: dict[str, Any]) -> str:
    """What the checks said of each half when they met it, before any was mended for it."""
    header = ["correct code, at its first run", "subjects", "red or blamed", "of these blamed", "findings"]
    rows = [
        [TITLES[half], *map(str, (len(found["findings"]), *_accused(found), sum(found["findings"].values())))]
        for half, found in content.items()
    ]
    return table(header, rows)


def _accused(found: dict[str, Any]) -> tuple[int, int]:
    return sum(map(bool, found["findings"].values())), len(found["blamed"])


def reports(content: dict[str, Any]) -> str:
    """Each bug on public record: what finds it, and whether the code without it is accused."""
    header = ["the bug, as its report says", "found by", "the same without it"]
    rows = [
        [case["bug"], _checks(case["found"]) if case["found"] else f"not found: {case['why']}", _quiet(case["accused"])]
        for case in content["cases"]
    ]
    found = sum(bool(case["found"]) for case in content["cases"])
    other = [case["accused"] for case in content["cases"] if case["accused"]]
    red = sum(any("(yellow)" not in check for check in checks) for checks in other)
    said = f"{found} of {len(rows)} are found; of those without the bug {len(other)} have a finding, {red} a red one."
    return f"{table(header, rows)}\n\n{said} `python -m tests.reports` checks them again."


def _quiet(checks: list[str]) -> str:
    return _checks(checks) if checks else "no finding"
