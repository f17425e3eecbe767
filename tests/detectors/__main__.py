"""`python -m tests.detectors [FOLDER]`: detectors of training bugs asked about one program, bug by bug, beside Andon.

FOLDER holds a package with a train.py, beside a faults.py; without it the committed one is asked about. Exit code: 0
Andon is red on no correct program, 1 it is on some, 2 usage, 3 no tool could be asked. A whole run of the committed
program writes reports/baselines/detectors.json and the table made of it.
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import click

from andon.gates.evidence import Evidence, Metric, digests, write_evidence
from tests.bench.door_tables import DETECTORS
from tests.bench.tables import rewrite_pages, write_baseline
from tests.detectors.asking import ENVIRONMENT, Said, ask, groups, versions
from tests.detectors.compare import ANDON, WRITTEN, Column, compared
from tests.detectors.tools import TOOLS, UNASKED, Tool
from tests.door.cases import Case, LayoutError, cases

OWN = Path(__file__).parent / "script"
RESULTS = Path("reports/runs/detectors")
DOOR = Tool(ANDON, "door", 0)


@click.command(help=__doc__)
@click.argument("folder", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--tool", "tools", multiple=True, metavar="NAME", help="Tools with this in their names; may be repeated.")
@click.option("--only", multiple=True, metavar="TEXT", help="Bugs with this in their ids; clean runs stay.")
@click.option("--timeout", type=float, default=600, show_default=True, help="Seconds of one run.")
@click.option("--resume", is_flag=True, help="Keep what an earlier run has.")
@click.option("--list", "listing", is_flag=True, help="Print the tools, and which are not asked and why.")
def main(folder: Path | None, tools: tuple[str, ...], only: tuple[str, ...], **options: bool | float) -> None:
    """Ask each tool about each case, compare, print, write."""
    begun, sources = time.monotonic(), digests(("verify", "andon", str(folder or OWN), "tests/detectors"))
    try:
        every = cases(folder or OWN)
    except LayoutError as error:
        raise click.UsageError(str(error)) from error
    chosen = [case for case in every if not only or case.kind != "fault" or any(text in case.id for text in only)]
    asked = [
        tool for tool in (*TOOLS, DOOR, *subject_of(folder or OWN)) if not tools or any(t in tool.name for t in tools)
    ]
    known = versions()
    if options["listing"]:
        click.echo("\n".join([f"{tool.name:<20} {known.get(tool.name, 'not installed')}" for tool in asked]))
        click.echo("\n".join(f"{name}: {reason}" for name, reason in UNASKED.items()))
        return
    if not ENVIRONMENT.exists():
        click.echo(f"{ENVIRONMENT} is missing: `nox -s detectors` makes it; only Andon is asked", err=True)
        asked = [tool for tool in asked if tool.kind in ("door", "subject")]
    place = RESULTS / (folder or OWN).name
    said = collected(asked, chosen, place, timeout=float(options["timeout"]), resume=bool(options["resume"]))
    columns = [
        compared(tool, known.get(tool.name, ""), [(case, said[tool.name, case.id]) for case in chosen])
        for tool in asked
    ]
    if len(chosen) == len(every):
        keep(columns, chosen, folder, time.monotonic() - begun, sources)
    click.echo("\n".join(map(line, columns)))
    andon = [each for each in columns if each.name in (ANDON, WRITTEN)]
    sys.exit(3 if not columns or all(each.error for each in columns) else int(any(each.red_clean for each in andon)))


def subject_of(folder: Path) -> list[Tool]:
    """Andon with the subject that stands beside the program, where there is one."""
    file = folder / "checks.py"
    return [Tool(WRITTEN, "subject", _lines(file))] if file.exists() else []


def _lines(file: Path) -> int:
    written = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return sum(bool(line) and not line.startswith(("#", '"""')) for line in written)


def collected(
    tools: list[Tool], chosen: list[Case], place: Path, *, timeout: float, resume: bool
) -> dict[tuple[str, str], Said]:
    """What each tool says of each case; answers are kept in a folder."""
    found: dict[tuple[str, str], Said] = {}
    for case in chosen:
        for group in groups(tools):
            files = {tool.name: place / tool.name.replace(" ", "_") / f"{case.id}.json" for tool in group}
            kept = [name for name, file in files.items() if resume and file.exists()]
            missing = [tool for tool in group if tool.name not in kept]
            fresh = ask(missing, case, timeout) if missing else {}
            for name, said in fresh.items():
                files[name].parent.mkdir(parents=True, exist_ok=True)
                write_baseline(files[name], asdict(said))
                click.echo(
                    f"{case.id}: {name}: {len(said.alarms)} alarms {said.error} ({said.seconds:.0f} s)", err=True
                )
            old = {name: Said(**json.loads(files[name].read_text(encoding="utf-8"))) for name in kept}
            found |= {(name, case.id): said for name, said in (old | fresh).items()}
    return found


def keep(
    columns: list[Column], chosen: list[Case], folder: Path | None, seconds: float, sources: dict[str, str]
) -> None:
    """Write evidence, and of the committed program the baseline and the page."""
    metrics = {f"{each.name}.named": Metric(float(len(each.named)), "bugs") for each in columns}
    metrics |= {f"{each.name}.clean_alarms": Metric(float(len(each.clean_alarms)), "programs") for each in columns}
    write_evidence(
        Evidence("detectors", " ".join(["python -m tests.detectors", *sys.argv[1:]]), seconds, sources, metrics)
    )
    if folder is None:
        unasked = [asdict(Column(name, "", 0, error=reason)) for name, reason in UNASKED.items()]
        faults = {case.id: case.area for case in chosen if case.kind == "fault"}
        content = {"faults": faults, "tools": [asdict(each) for each in columns] + unasked}
        write_baseline(DETECTORS, content | {"about": "Seconds are the mean of one case, all its runs."})
        rewrite_pages()


def line(column: Column) -> str:
    """A tool's result."""
    if column.error:
        return f"{column.name}: not measured: {column.error}"
    clean = f"{len(column.clean_alarms)} of {column.clean} clean with an alarm"
    return f"{column.name} {column.version}: {len(column.named)} named, {len(column.symptoms)} symptoms, {clean}"


if __name__ == "__main__":
    main()
