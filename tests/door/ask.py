"""One question to the door: a case's program run behind `andon verify --json --`, and what it answers."""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.door.cases import Case
from tests.door.process import OUT_OF_TIME, Done, python, run

DOOR = (sys.executable, "-m", "andon", "verify", "--json", "--")
NOT_MEASURED = 3
PLACE = re.compile(r"([\w./-]+\.py)(?::|, line )(\d+)")


@dataclass(frozen=True)
class Alarm:
    """A finding: its name, its light, all that it says, and the place in the program that it names."""

    check: str
    light: str
    text: str
    place: str = ""


@dataclass(frozen=True)
class Answer:
    """All that the door said of one case: its alarms in order, and why it could not answer where it could not."""

    alarms: tuple[Alarm, ...]
    seconds: float
    cpu: float
    checked: int = 0
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """For a file of results."""
        return asdict(self)


def from_json(content: dict[str, Any]) -> Answer:
    """What `as_json` gave."""
    alarms = tuple(Alarm(**each) for each in content["alarms"])
    return Answer(**{name: value for name, value in content.items() if name != "alarms"}, alarms=alarms)


def ask(case: Case, door: Sequence[str] = DOOR, timeout: float = 600) -> Answer:
    """Every run of a case behind the door; findings of all of them together, each once."""
    alarms: dict[tuple[str, str], Alarm] = {}
    seconds, cpu, checked, errors = 0.0, 0.0, 0, list[str]()
    with TemporaryDirectory() as name:
        case.write(Path(name))
        for words in case.runs:
            done = run([*door, *python(), *words], Path(name), timeout)
            reports = answered(done)
            for report in reports:
                for found in map(alarm, report["findings"]):
                    alarms.setdefault((found.check, found.light), found)
                checked += int(str(report.get("headline", "0")).split()[0])
            errors += [str(each["not_measured"]) for each in reports if each.get("not_measured")]
            errors += [] if reports else [why(done)]
            seconds, cpu = seconds + done.seconds, cpu + done.cpu
    return Answer(tuple(alarms.values()), round(seconds, 1), round(cpu, 1), checked, "; ".join(errors))


def answered(done: Done) -> list[dict[str, Any]]:
    """The reports among what was printed: the program's own output may stand around them."""
    for text in (done.out, done.error):
        starts = [match.start() for match in re.finditer(r"^\[", text, re.MULTILINE)]
        for start in reversed(starts):
            try:
                found, _ = json.JSONDecoder().raw_decode(text[start:])
            except ValueError:
                continue
            if found and all(isinstance(each, dict) and "findings" in each for each in found):
                return found
    return []


def alarm(finding: dict[str, Any]) -> Alarm:
    """A finding of a report; one that says that the subject could not be run has that as its light."""
    text = " ".join(str(finding.get(key, "")) for key in ("check", "title", "message", "look"))
    light = "mistake" if finding.get("mistake") else finding["light"]
    named = PLACE.search(f"{finding.get('place', '')} {finding.get('look', '')} {finding.get('message', '')}")
    return Alarm(finding["check"], light, text, f"{Path(named[1]).name}:{named[2]}" if named else "")


def why(done: Done) -> str:
    """Why there is no report, in one line."""
    if done.code == OUT_OF_TIME:
        return f"no answer in {done.seconds:.0f} s"
    said = [line for line in done.error.splitlines() if line.strip()]
    return f"exit code {done.code}: {said[-1][:200] if said else 'nothing was said'}"
