"""The tables of the door's benchmark and of the detectors beside it, from their committed measurements."""

from pathlib import Path
from typing import Any

from tests.bench.markdown import number, table

DOOR = Path("reports/baselines/door.json")
DETECTORS = Path("reports/baselines/detectors.json")
DOOR_OTHERS = Path("reports/baselines/door_others.json")
FAULTS_DOOR = Path("reports/baselines/faults_door.json")
DOOR_COST = Path("reports/baselines/door_cost.json")
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


def faults_door(content: dict[str, Any]) -> str:
    """Each fault of the catalogue in a run of our own, and what named it with no Subject."""
    header = ["bug injected into Andon's core", "area", "live in", "light", "named by", "first"]
    lines = [
        [row["fault"], row["area"], row["program"], row["light"], _check(row), "yes" if row["first"] else ""]
        for row in content["rows"]
    ]
    again = "`nox -s faults -- --door` asks again."
    return "\n\n".join([faults_door_summary(content["counts"]), table(header, lines), again])


def faults_door_summary(counts: dict[str, int]) -> str:
    """How many of the live faults were named, in which light."""
    lit = counts["red"] + counts["yellow"]
    share = f", {lit / counts['live']:.0%}" if counts["live"] else ""
    return (
        f"Of {counts['asked']} bugs {counts['live']} are live in a run; {lit} of them are named{share}: "
        f"{counts['red']} red, {counts['yellow']} yellow.\nThe naming finding comes first in {counts['first']}. "
        f"Missed: {counts['missed']}; not measured: {counts['unmeasured']}."
    )


def door_others(content: dict[str, Any]) -> str:
    """Each correct script around somebody's trainer, and what was said of it."""
    lines = [
        [f"`{row['script']}`", row["light"] or "nothing", _accused(row), str(row["checked"]), f"{row['seconds']:.0f}"]
        for row in content["rows"]
    ]
    lights = [row["light"] for row in content["rows"]]
    captured = sum(row["captured"].startswith("captured") for row in content["rows"])
    said = (
        f"Of {len(lights)} scripts {lights.count('red')} are red, {lights.count('yellow')} yellow, "
        f"{lights.count('not measured')} not measured; of {captured} a Subject was captured. "
        "`nox -s nightly` asks again."
    )
    return f"{table(['correct script', 'light', 'by', 'checked', 'seconds'], lines)}\n\n{said}"


def _accused(row: dict[str, Any]) -> str:
    checks = [f"`{each.split()[1].rstrip(':')}`" for each in row["findings"]]
    return ", ".join(checks) or row["error"].replace("|", "/")


def door_cost(content: dict[str, Any]) -> str:
    """What watching adds to a step, and what a whole run takes beyond the script's own first steps."""
    names = {"all": "all steps of a run", "early": "its first steps", "later": "the steps after them"}
    lines = [
        [f"watching, {names[name]}", f"{each['mean']:.2f} ms a step", f"{each['mean'] / 100:.2%} of 100 ms"]
        for name, each in content["watching"].items()
    ]
    own = content["whole"]
    lines += [
        [f"`andon verify --` on a script of {kind}", f"{own[key]:.0f} s", f"{own[key] / own['alone']:.1f} times them"]
        for kind, key in (("20 steps", "short_beyond"), ("100 steps", "long_beyond"))
    ]
    header = ["CPU time", "beyond the script's own (first 20 steps)", "as a share"]
    said = f"Fresh processes of each kind, in turn: {content['rounds']}. `nox -s bench -- door` measures again."
    return f"{table(header, lines)}\n\n{said}"


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
