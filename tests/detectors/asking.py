"""One question to one tool: a case's program written to a folder, run or read as the tool's README says."""

import json
import re
import sys
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


def ask(tool: Tool, case: Case, timeout: float) -> Said:
    """Ask a tool about a case, by its kind."""
    if tool.kind == "door":
        return _of_answer(door.ask(case, door.DOOR, timeout))
    with TemporaryDirectory() as name:
        folder = Path(name)
        case.write(folder)
        return {"inside": _inside, "source": _source, "log": _log, "subject": _subject}[tool.kind](
            tool, case, folder, timeout
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


def _inside(tool: Tool, case: Case, folder: Path, timeout: float) -> Said:
    """The program runs with the tool's lines in it; of several runs the alarms of all."""
    alarms, seconds, error = [], 0.0, ""
    for words in case.runs:
        command = [*python(ENVIRONMENT / "python"), "-W", "ignore", str(DRIVERS), tool.name, "said.json", *words]
        done = run(command, folder, timeout)
        seconds += done.seconds
        if not (folder / "said.json").exists():
            return Said(alarms, seconds, door.why(done))
        said = json.loads((folder / "said.json").read_text(encoding="utf-8"))
        alarms, error = alarms + said["alarms"], said["error"] or error
    return Said(list(dict.fromkeys(alarms)), seconds, error)


def _source(tool: Tool, _: Case, folder: Path, timeout: float) -> Said:
    """The tool reads the program's files."""
    done = run([str(ENVIRONMENT / tool.command[0]), *tool.command[1:]], folder, timeout)
    return Said(_blocks(done), done.seconds)


def _log(tool: Tool, case: Case, folder: Path, timeout: float) -> Said:
    """The program runs, and the tool reads its log, or, where it wrote none, what it printed."""
    seconds, printed = 0.0, ""
    for words in case.runs:
        done = run([*python(), *words], folder, timeout)
        seconds, printed = seconds + done.seconds, printed + done.out
    log = next(iter(folder.glob("*.jsonl")), folder / "printed.log")
    if not log.exists():
        log.write_text(printed, encoding="utf-8")
    words = [word.replace("{log}", log.name) for word in tool.command]
    done = run([str(ENVIRONMENT / words[0]), *words[1:]], folder, timeout)
    return Said(_blocks(done), seconds + done.seconds)


def _subject(_: Tool, case: Case, folder: Path, timeout: float) -> Said:
    """Andon is given the subject that stands beside the program."""
    (folder / "checks.py").write_text(_beside(case).read_text(encoding="utf-8"), encoding="utf-8")
    done = run([sys.executable, "-m", "andon", "verify", "checks:subject", "--json"], folder, timeout)
    reports = door.answered(done)
    if not reports:
        return Said([], done.seconds, door.why(done))
    found = [door.alarm(finding) for report in reports for finding in report["findings"]]
    return Said([f"{each.light} {each.check}: {each.text}" for each in found], done.seconds)


def _beside(case: Case) -> Path:
    return case.folder / "checks.py"


def _of_answer(answer: door.Answer) -> Said:
    said = [f"{each.light} {each.check}: {each.text} {each.place}" for each in answer.alarms if each.light != "mistake"]
    return Said(said, answer.seconds, answer.error)


def _blocks(done: Done) -> list[str]:
    """Lines that are no pass, each with the two that follow it, which say what is meant."""
    lines = [WRAPPED.sub(" ", line).strip() for line in f"{done.out}\n{done.error}".splitlines()]
    found = [" ".join(lines[place : place + 3]) for place, line in enumerate(lines) if BAD.search(line)]
    return list(dict.fromkeys(found))
