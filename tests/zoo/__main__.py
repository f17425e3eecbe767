"""`python -m tests.zoo`: sweep current transformers, PEFT and bitsandbytes, and keep what came of it.

Writes the committed reports/baselines/zoo.json, in docs/measured/zoo_scripts the script of each bug of which no report
is known, and of each red cell one below reports/zoo. Exit code: 0 each red cell is judged in docs/measured/zoo.md, 1
one is not, 3 could not measure.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tests.bench.environments import PEERS, BenchError, interpreter, worker_variables
from tests.bench.tables import ZOO, write_baseline
from tests.zoo.triage import FILE, NEW, verdict, verdicts

SCRIPTS = Path("docs/measured/zoo_scripts")
ENVIRONMENT = "peft"  # has all three
LIBRARIES = ("transformers", "peft", "bitsandbytes")
FOUND = (0, 1)  # exit codes of `andon zoo` that come with rows


@click.command(help=__doc__)
@click.option("--resume", is_flag=True, help="Keep what an earlier sweep has.")
@click.option("--workers", default=2, show_default=True, help="Processes at a time.")
def main(*, resume: bool, workers: int) -> None:
    """Check, keep, judge."""
    try:
        rows = {library: swept(library, workers, resume=resume) for library in LIBRARIES}
    except BenchError as error:
        click.echo(f"could not measure: {error}", err=True)
        sys.exit(3)
    content = {library: counted(library, found) for library, found in rows.items()}
    write_baseline(ZOO, content)
    text = FILE.read_text(encoding="utf-8")
    for file, script in scripts(rows, text).items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(script, encoding="utf-8")
    unjudged = open_cells(content, text)
    for package, name, check in unjudged:
        click.echo(f"{package}: {name}: {check} is red, and {FILE} does not say what it is")
    sys.exit(int(bool(unjudged)))


def swept(library: str, workers: int, *, resume: bool) -> list[dict[str, Any]]:
    """The rows of `andon zoo`.

    Raises:
        BenchError: it ended otherwise than with rows.
    """
    python = interpreter(ENVIRONMENT, lambda line: click.echo(line, err=True))
    command = [str(python), "-m", "andon", "zoo", library, "--json", "--workers", str(workers)]
    done = subprocess.run(
        [*command, *(["--resume"] if resume else [])],
        check=False, stdout=subprocess.PIPE, text=True, env=worker_variables(1),
    )  # fmt: skip
    if done.returncode not in FOUND:
        raise BenchError(f"`{' '.join(command)}` ended with exit code {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def counted(library: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is kept of a library: counts, each red cell, and why something could not be built or checked."""
    cells = [(row["name"], check, cell) for row in rows for check, cell in row["cells"].items()]
    pins = dict(line.split("==") for line in PEERS[ENVIRONMENT] if "==" in line)
    return {
        "version": pins[library],
        "seconds": round(sum(row["seconds"] for row in rows)),
        "models": len(rows),
        "built": sum(not row["reason"] for row in rows),
        "states": dict(sorted(Counter(cell["state"] for _, _, cell in cells).items())),
        "red": [
            {"name": name, "check": check, "message": cell["message"]}
            for name, check, cell in cells
            if cell["state"] == "red"
        ],
        "not_run": [
            {"name": name, "check": check, "message": cell["message"]}
            for name, check, cell in cells
            if cell["state"] == "not run"
        ],
        "could_not_build": {row["name"]: " ".join(row["reason"].split()) for row in rows if row["reason"]},
    }


def scripts(rows: dict[str, list[dict[str, Any]]], text: str) -> dict[Path, str]:
    """The scripts of bugs of which no report is known, each in the library's own words, by their committed file.

    Raises:
        ValueError: one would need Andon to show the bug.
    """
    known, found = verdicts(text), {}
    for library, row in ((library, row) for library, made in rows.items() for row in made):
        for check, cell in row["cells"].items():
            judged = verdict(known, library, check, row["name"]) if cell["state"] == "red" else None
            if judged is None or judged.label != NEW:
                continue
            if "andon" in cell["script"]:
                raise ValueError(f"{library}: {row['name']}: {check} has no script without Andon; add a template")
            found[SCRIPTS / library / f"{row['name'].replace('/', '-')}-{check}.py"] = cell["script"]
    return found


def open_cells(content: dict[str, Any], text: str) -> list[tuple[str, str, str]]:
    """Package, model and check of each red cell that no row of the text's tables covers."""
    known = verdicts(text)
    return [
        (package, cell["name"], cell["check"])
        for package, found in content.items()
        for cell in found["red"]
        if verdict(known, package, cell["check"], cell["name"]) is None
    ]


if __name__ == "__main__":
    main()
