"""`python -m tests.door.others`: correct training scripts around other people's trainers, and our own, behind the door.

Each is run behind `andon verify --` in the environment of the corpus of packages; none may be red. A whole run writes
reports/baselines/door_others.json and the table made of it. Exit code: 0 nothing red, 1 something is, 3 one could not
be measured.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from andon.gates.evidence import Evidence, Metric, digests, write_evidence
from tests.bench.door_tables import DOOR_OTHERS
from tests.bench.environments import BenchError, installed
from tests.bench.tables import rewrite_pages, write_baseline
from tests.door.ask import answered, why
from tests.door.process import run
from tests.ordinary.session.run import REQUIREMENTS
from tests.small_run import write_corpus

COMMAND = "python -m tests.door.others"
SCRIPTS = Path(__file__).parent / "scripts"
MADE = "made.py"  # what several scripts import
ENVIRONMENT = Path(".nox/ordinary")
SOURCES = ("andon", "tests/door/others", "verify")
CONFIG = Path(__file__).parents[2] / "faults" / "door.toml"
OWN = ["config.toml", "--data", "corpus", "--out", "run", "--no-trace", "-q"]
# Our own programs, by the arguments of `andon`; a base is trained first, where one is needed.
PROGRAMS = {
    "andon train": ["train", *OWN],
    "andon finetune lora": ["finetune", "lora", "--model", "base", "--config", *OWN],
}
LIMIT = 900.0  # seconds of one script
RED, YELLOW, UNMEASURED = "red", "yellow", "not measured"


@dataclass(frozen=True)
class Said:
    """A script, and what was said of it."""

    script: str
    what: str  # its own first line
    light: str  # the strongest; empty where nothing was said
    findings: tuple[str, ...] = ()  # lights, checks and messages
    captured: str = ""  # what was made a Subject, or why nothing was
    checked: int = 0
    seconds: float = 0.0
    error: str = ""


@click.command(help=__doc__)
@click.option("--only", multiple=True, metavar="TEXT", help="Scripts with this in their name; may be repeated.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Scripts at a time.")
@click.option("--python", "own", type=click.Path(path_type=Path), help="An interpreter that has the packages already.")
def main(only: tuple[str, ...], workers: int, own: Path | None) -> None:
    """Run, print, write."""
    begun, sources = time.monotonic(), digests(SOURCES)
    try:
        steps = [["--no-deps", "--requirement", str(REQUIREMENTS)]]
        python = own or installed(ENVIRONMENT, steps, lambda line: click.echo(line, err=True))
    except BenchError as error:
        click.echo(str(error), err=True)
        sys.exit(3)
    names = [*(each.stem for each in sorted(SCRIPTS.glob("*.py")) if each.name != MADE), *PROGRAMS]
    chosen = [each for each in names if not only or any(text in each for text in only)]

    def one(name: str) -> Said:
        said = asked(name, python)
        click.echo(line(said), err=True)
        return said

    with ThreadPoolExecutor(workers) as pool:
        rows = list(pool.map(one, chosen))
    if chosen == names:
        write_evidence(Evidence("door_others", COMMAND, time.monotonic() - begun, sources, metrics(rows)))
        write_baseline(DOOR_OTHERS, {"command": COMMAND, "rows": [asdict(row) for row in rows]})
        rewrite_pages()
    sys.exit(code(rows))


def asked(name: str, python: Path) -> Said:
    """One script behind the door, in a folder of its own."""
    program = PROGRAMS.get(name)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if program:
            _prepare(folder, based="base" in program)
            words = [sys.executable, "-m", "andon", *program]
        else:
            for each in (name + ".py", MADE):
                shutil.copy(SCRIPTS / each, folder)
            words = [os.path.abspath(python), name + ".py"]  # noqa: PTH100 - a link, which `resolve` would follow
        done = run([sys.executable, "-m", "andon", "verify", "--json", "--", *words], folder, LIMIT)
    reports = answered(done)
    reason = "; ".join(each["not_measured"] for each in reports if each["not_measured"])
    what = "our own program" if program else first_line(SCRIPTS / f"{name}.py")
    if not reports or reason:
        return Said(name, what, UNMEASURED, seconds=done.seconds, error=reason or why(done))
    return said_of(name, what, reports, done.seconds)


def said_of(name: str, what: str, reports: Sequence[dict[str, Any]], seconds: float) -> Said:
    """What reports come to."""
    found = [each for report in reports for each in report["findings"]]
    lights = [each["light"] for each in found]
    light = next((each for each in (RED, YELLOW) if each in lights), "")
    texts = tuple(f"{each['light']} {each['check']}: {each['message']}" for each in found)
    captured = "; ".join(each for report in reports for each in report["captured"][1:])
    checked = sum(int(str(report["headline"]).split()[0]) for report in reports)
    return Said(name, what, light, texts, captured, checked, round(seconds, 1))


def _prepare(folder: Path, *, based: bool) -> None:
    shutil.copy(CONFIG, folder / "config.toml")
    write_corpus(folder / "corpus", 16)
    if based:
        run([sys.executable, "-m", "andon", *PROGRAMS["andon train"]], folder, LIMIT)
        (folder / "run").rename(folder / "base")


def first_line(script: Path) -> str:
    """Its docstring's, without the quotes."""
    return script.read_text(encoding="utf-8").splitlines()[0].strip('"')


def line(said: Said) -> str:
    """A script in a few lines."""
    head = f"{said.script}: {said.light or 'nothing'} {said.error} ({said.checked} checked, {said.seconds:.0f} s)"
    return "\n    ".join([head, *said.findings, said.captured])


def metrics(rows: Sequence[Said]) -> dict[str, Metric]:
    """How many scripts there are, and what was said of them."""
    lights = [row.light for row in rows]
    found = {"scripts": len(rows), "red": lights.count(RED), "yellow": lights.count(YELLOW)}
    found["not_measured"] = lights.count(UNMEASURED)
    found["captured"] = sum(row.captured.startswith("captured") for row in rows)
    return {name: Metric(value, "scripts") for name, value in found.items()}


def code(rows: Sequence[Said]) -> int:
    """The exit code."""
    if any(row.light == RED for row in rows):
        return 1
    return 3 if not rows or any(row.light == UNMEASURED for row in rows) else 0


if __name__ == "__main__":
    main()
