"""`python -m tests.door [FOLDER]`: unchanged training scripts behind `andon verify --`; which planted bugs are named?

FOLDER is of scripts (NAME/train.py, faults.json, variants.json) or of one program (a package, faults.py); without it
the committed scripts are asked. Exit code: 0 no correct script is red, 1 some are, 2 usage, 3 could not measure. A
whole run of the committed scripts writes reports/baselines/door.json and the table made of it.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from andon.files import write_whole
from andon.gates.evidence import Evidence, digests, write_evidence
from tests.bench.door_tables import DOOR, door_summary
from tests.bench.tables import rewrite_pages, write_baseline
from tests.door import ask
from tests.door.cases import KINDS, Case, LayoutError, cases
from tests.door.live import Observed, difference, observe
from tests.door.results import MISSED, RED, UNMEASURED, Row, counts, metrics, rows

OWN = Path(__file__).parent / "scripts"
RESULTS = Path("reports/runs/door")


@click.command(help=__doc__)
@click.argument("folder", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--only", multiple=True, metavar="TEXT", help="Cases with this in PROGRAM/ID; may be repeated.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Not all three; may be repeated.")
@click.option("--live", is_flag=True, help="Prove each bug live instead of asking: what differs in a run.")
@click.option("--timeout", type=float, default=600, show_default=True, help="Seconds of one run.")
@click.option("--resume", is_flag=True, help="Keep what an earlier run has.")
def main(folder: Path | None, only: tuple[str, ...], kinds: tuple[str, ...], **options: bool | float) -> None:
    """Ask, or prove live; print, write."""
    begun, sources = time.monotonic(), digests(("verify", "andon", str(folder or OWN)))
    try:
        every = cases(folder or OWN)
    except LayoutError as error:
        raise click.UsageError(str(error)) from error
    chosen = [case for case in every if not only or case.kind == "clean" or any(text in case.label for text in only)]
    chosen = [
        case for case in chosen if not only or any(case.program == other.program for other in _named(every, only))
    ]
    if options["live"]:
        sys.exit(prove(chosen, float(options["timeout"])))
    chosen = [case for case in chosen if not kinds or case.kind in kinds]
    found = asked(chosen, float(options["timeout"]), RESULTS / (folder or OWN).name, resume=bool(options["resume"]))
    if len(chosen) == len(every):
        command = " ".join(["python -m tests.door", *sys.argv[1:]])
        write_evidence(Evidence("door", command, time.monotonic() - begun, sources, metrics(found)))
        if folder is None:
            write_baseline(DOOR, {"counts": counts(found), "rows": [asdict(row) for row in found]})
            rewrite_pages()
    click.echo(door_summary(counts(found)))
    sys.exit(code(found))


def asked(chosen: Sequence[Case], timeout: float, folder: Path, *, resume: bool) -> list[Row]:
    """Ask about each case, print what was said of it, and keep the answers in a folder."""
    answers: list[tuple[Case, ask.Answer]] = []
    for case in chosen:
        file = folder / case.program / f"{case.id}.json"
        if resume and file.exists():
            answer = ask.from_json(json.loads(file.read_text(encoding="utf-8")))
        else:
            answer = ask.ask(case, ask.DOOR, timeout)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(answer.as_json(), indent=2) + "\n")
        answers.append((case, answer))
        click.echo(line(rows(answers)[-1]), err=True)
    return rows(answers)


def line(row: Row) -> str:
    """A case in a line."""
    said = f"{row.light or 'nothing'} {row.check} {row.place}".strip()
    beside = f"; beside it {', '.join(row.others[:4])}" if row.others else ""
    return f"{row.program}/{row.id} ({row.knowable_by or row.kind}): {said}{beside} {row.error} ({row.seconds:.0f} s)"


def prove(chosen: Sequence[Case], timeout: float) -> int:
    """Run every case under the probe, and print what differs; 1 where a bug changes nothing or a run fails."""
    clean: dict[tuple[str, str], Observed] = {}
    bad = 0
    for case in chosen:
        seen = observe(case, timeout=timeout)
        if case.kind == "clean":
            clean[case.program, case.mode] = seen
        differs = (
            difference(clean[case.program, case.mode], seen) if case.kind != "clean" else f"{len(seen.trace)} steps"
        )
        wrong = seen.code or (case.kind == "fault" and not differs)
        bad += bool(wrong)
        said = f"FAILED {seen.error.strip()[-400:]}" if seen.code else differs or "NO DIFFERENCE"
        click.echo(f"{case.label}: {said} ({seen.seconds:.0f} s)")
    return int(bad > 0)


def code(found: Sequence[Row]) -> int:
    """The exit code of a run."""
    if any(row.kind != "fault" and row.light == RED for row in found):
        return 1
    return 3 if not found or all(row.light in (UNMEASURED, MISSED) and row.error for row in found) else 0


def _named(every: Sequence[Case], only: Sequence[str]) -> list[Case]:
    return [case for case in every if any(text in case.label for text in only)]


if __name__ == "__main__":
    main()
