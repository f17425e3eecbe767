"""One question to one tool: a case's program written to a folder, run or read as the tool's README says."""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import andon
from tests.detectors.tools import Tool
from tests.door import ask as door
from tests.door.cases import Case
from tests.door.process import ROOT, Done, python, run

ENVIRONMENT = ROOT / ".nox" / "detectors" / "bin"
DRIVERS = Path(__file__).parent / "drivers.py"
BAD = re.compile(r"\b(FAIL|FAILED|WARN|WARNING|ERROR|CRITICAL|error|warning|critical|TOR\d+)\b|[✗✘⚠❌]")
WRAPPED = re.compile(r"\s+")


@dataclass(frozen=True)
class Said:
    """What a tool said of a case: its alarms, and why it said nothing where it could not be asked."""

    alarms: list[str] = field(default_factory=list)
    seconds: float = 0.0
    error: str = ""


def groups(tools: Sequence[Tool]) -> list[list[Tool]]:
    """Tools that can be asked in one run of the program: those inside it, unless they end it, and those of its log."""
    found: dict[str, list[Tool]] = {}
    for tool in tools:
        together = tool.kind in ("inside", "log") and not tool.alone
        found.setdefault(tool.kind if together else tool.name, []).append(tool)
    return list(found.values())


def ask(tools: Sequence[Tool], case: Case, timeout: float) -> dict[str, Said]:
    """Ask tools of one group about a case."""
    kind = tools[0].kind
    if kind == "door":
        return {tools[0].name: _of_answer(door.ask(case, door.DOOR, timeout))}
    with TemporaryDirectory() as name:
        folder = Path(name)
        case.write(folder)
        return {"inside": _inside, "source": _source, "log": _log, "subject": _subject}[kind](
            tools, case, folder, timeout
        )


def versions() -> dict[str, str]:
    """The installed version of each detector, and of Andon."""
    found = {"Andon, nothing written": andon.__version__, "Andon, with a subject": andon.__version__}
    site = next(iter(ENVIRONMENT.parent.glob("lib/python3.*/site-packages")), None)
    for each in site.glob("*.dist-info") if site else ():
        name, _, version = each.name.removesuffix(".dist-info").partition("-")
        found[name.lower().replace("_", "-")] = version
    return found | {"anomaly mode": f"torch {_torch()}"}


def _torch() -> str:
    import torch

    return torch.__version__.partition("+")[0]


def _inside(tools: Sequence[Tool], case: Case, folder: Path, timeout: float) -> dict[str, Said]:
    """The program runs with the tools' lines in it; of several runs the alarms of all."""
    names = [tool.name for tool in tools]
    alarms, errors, seconds = {name: list[str]() for name in names}, dict.fromkeys(names, ""), 0.0
    for words in case.runs:
        (folder / "said.json").unlink(missing_ok=True)
        command = [*python(ENVIRONMENT / "python"), "-W", "ignore", str(DRIVERS), "said.json", ",".join(names), *words]
        done = run(command, folder, timeout)
        seconds += done.seconds
        if not (folder / "said.json").exists():
            return {name: Said(alarms[name], seconds, door.why(done)) for name in names}
        for name, said in json.loads((folder / "said.json").read_text(encoding="utf-8")).items():
            alarms[name] += said["alarms"]
            errors[name] = errors[name] or said["error"]
    return {name: Said(list(dict.fromkeys(alarms[name])), seconds, errors[name]) for name in names}


def _source(tools: Sequence[Tool], _: Case, folder: Path, timeout: float) -> dict[str, Said]:
    """The tool reads the program's files."""
    done = run([str(ENVIRONMENT / tools[0].command[0]), *tools[0].command[1:]], folder, timeout)
    return {tools[0].name: Said(_blocks(done), done.seconds)}


def _log(tools: Sequence[Tool], case: Case, folder: Path, timeout: float) -> dict[str, Said]:
    """The program runs, and each tool reads its log, or, where it wrote none, what it printed."""
    seconds, printed = 0.0, ""
    for words in case.runs:
        done = run([*python(), *words], folder, timeout)
        seconds, printed = seconds + done.seconds, printed + done.out
    log = next(iter(folder.glob("*.jsonl")), folder / "printed.log")
    if not log.exists():
        log.write_text(printed, encoding="utf-8")
    found = {}
    for tool in tools:
        words = [word.replace("{log}", log.name) for word in tool.command]
        done = run([str(ENVIRONMENT / words[0]), *words[1:]], folder, timeout)
        found[tool.name] = Said(_blocks(done), seconds + done.seconds)
    return found


def _subject(tools: Sequence[Tool], case: Case, folder: Path, timeout: float) -> dict[str, Said]:
    """Andon is given the subject that stands beside the program."""
    (folder / "checks.py").write_text((case.folder / "checks.py").read_text(encoding="utf-8"), encoding="utf-8")
    done = run([sys.executable, "-m", "andon", "verify", "checks:subject", "--json"], folder, timeout)
    reports = door.answered(done)
    if not reports:
        return {tools[0].name: Said([], done.seconds, door.why(done))}
    found = [door.alarm(finding) for report in reports for finding in report["findings"]]
    said = [f"{each.light} {each.check}: {each.text}" for each in found]
    return {tools[0].name: Said(said, done.seconds)}


def _of_answer(answer: door.Answer) -> Said:
    said = [f"{each.light} {each.check}: {each.text} {each.place}" for each in answer.alarms if each.light != "mistake"]
    return Said(said, answer.seconds, answer.error)


def _blocks(done: Done) -> list[str]:
    """Lines that are no pass, each with the two that follow it, which say what is meant."""
    lines = [WRAPPED.sub(" ", line).strip() for line in f"{done.out}\n{done.error}".splitlines()]
    found = [" ".join(lines[place : place + 3]) for place, line in enumerate(lines) if BAD.search(line)]
    return list(dict.fromkeys(found))
