"""A tool's column: which bugs it names, which it only sees a symptom of, and what it says of correct programs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.detectors.asking import Said
from tests.detectors.tools import Tool
from tests.door.cases import Case
from tests.door.causes import names

ANDON = "Andon, nothing written"
WRITTEN = "Andon, with a subject"
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?%?", re.IGNORECASE)


@dataclass(frozen=True)
class Column:
    """One tool's result over all cases."""

    name: str
    version: str
    lines: int
    named: list[str] = field(default_factory=list)
    symptoms: list[str] = field(default_factory=list)
    clean_alarms: list[str] = field(default_factory=list)  # correct programs with an alarm
    red_clean: list[str] = field(default_factory=list)  # of Andon: correct programs with a red finding
    clean: int = 0
    seconds: float | None = None
    error: str = ""


def compared(tool: Tool, version: str, answers: Sequence[tuple[Case, Said]]) -> Column:
    """Judge a tool: an alarm that the clean program of the same runs has too says nothing of a bug."""
    errors = [said.error for _, said in answers if said.error]
    if errors and len(errors) == len(answers):
        return Column(tool.name, version, tool.lines, error=errors[0])
    usual = {case.mode: {plain(alarm) for alarm in said.alarms} for case, said in answers if case.kind == "clean"}
    named, symptoms = [], []
    for case, said in answers:
        if case.kind != "fault":
            continue
        new = [alarm for alarm in said.alarms if plain(alarm) not in usual.get(case.mode, set())]
        if any(names(case.area, alarm) for alarm in new):
            named.append(case.id)
        elif new:
            symptoms.append(case.id)
    correct = [(case.id, said) for case, said in answers if case.kind != "fault"]
    accused = [name for name, said in correct if said.alarms]
    red = [name for name, said in correct if any(alarm.startswith("red ") for alarm in said.alarms)]
    seconds = sum(said.seconds for _, said in answers) / len(answers) if answers else None
    return Column(tool.name, version, tool.lines, named, symptoms, accused, red, len(correct), seconds)


def plain(alarm: str) -> str:
    """An alarm without its numbers, which differ from run to run; Andon's by its check and light alone."""
    found = re.match(r"(red|yellow) [\w.]+", alarm)
    return found[0] if found else NUMBER.sub("#", alarm)
