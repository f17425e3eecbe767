"""The tables of the door's benchmark and of the detectors beside it, from their committed measurements."""

from pathlib import Path
from typing import Any

from tests.bench.markdown import number, table

DOOR = Path("reports/baselines/door.json")
DETECTORS = Path("reports/baselines/detectors.json")
KNOWN = {"any": "wrong in any code", "habit": "against a habit", "author": "known to its author", "": "not said"}


def door(content: dict[str, Any]) -> str:
    """Each bug, each correct program, and what they come to."""
    header = ["script", "bug", "area", "is", "light", "named by", "place", "first", "seconds"]
    faults = [row for row in content["rows"] if row["kind"] == "fault"]
    lines = [
        [
            f"`{row['program']}`",
            row["id"],
            row["area"],
            KNOWN[row["knowable_by"]],
            row["light"],
            _check(row),
            row["place"],
            "yes" if row["first"] else "",
            f"{row['seconds']:.0f}",
        ]
        for row in faults
    ]
    quiet = [
        [f"`{row['program']}`", row["id"], row["light"] or "nothing", _check(row), f"{row['seconds']:.0f}"]
        for row in content["rows"]
        if row["kind"] != "fault"
    ]
    correct = table(["script", "correct as", "light", "accused by", "seconds"], quiet)
    return "\n\n".join([door_summary(content["counts"]), table(header, lines), correct, AGAIN])


AGAIN = "`nox -s door` asks again; `nox -s door -- FOLDER` asks scripts elsewhere."


def door_summary(counts: dict[str, Any]) -> str:
    """How many bugs of each kind were found, and what correct programs were accused of."""
    lines = []
    for key, title in (
        *((key, title) for key, title in KNOWN.items() if key),
        ("correct", "correct scripts and variants"),
    ):
        red, lit = counts[f"{key}_red"], counts[f"{key}_lit"]
        lines.append([title, *map(str, (counts[key], red, lit - red, counts[key] - lit))])
    lit = counts["red"] + counts["yellow"]
    said = f"The naming finding comes first in {counts['first']} of {lit}."
    said += f" Not measured: {counts['unmeasured']}. Seconds, median: {number(counts['seconds'], '.1f')}."
    return f"{table(['nothing written', 'cases', 'red', 'yellow', 'nothing'], lines)}\n\n{said}"


def _check(row: dict[str, Any]) -> str:
    return f"`{row['check']}`" if row["check"] else row["error"].replace("|", "/")


def detectors(content: dict[str, Any]) -> str:
    """Every detector side by side, those that could not be asked with the reason, and each bug with who named it."""
    header = ["detector", "version", "lines to write", "bugs named", "symptom only", "clean with an alarm", "seconds"]
    asked = [each for each in content["tools"] if not each["error"]]
    lines = [
        [
            each["name"],
            each["version"],
            str(each["lines"]),
            str(len(each["named"])),
            str(len(each["symptoms"])),
            f"{len(each['clean_alarms'])} of {each['clean']}",
            number(each["seconds"], ".1f"),
        ]
        for each in asked
    ]
    total = {bug for each in asked if not each["name"].startswith("Andon") for bug in each["named"]}
    said = f"Of {len(content['faults'])} bugs all but Andon together name {len(total)}. {content['about']}"
    bugs = [
        [bug, area, ", ".join(each["name"] for each in asked if bug in each["named"]) or "nobody"]
        for bug, area in content["faults"].items()
    ]
    unasked = [f"- {each['name']} {each['version']}: {each['error']}" for each in content["tools"] if each["error"]]
    blocks = [table(header, lines), said, table(["bug", "area", "named by"], bugs)]
    blocks += ["Not asked:\n\n" + "\n".join(unasked)] if unasked else []
    return "\n\n".join([*blocks, "`nox -s detectors` asks again."])
