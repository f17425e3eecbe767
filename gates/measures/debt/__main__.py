"""Grade code: `python -m andon.gates.measures.debt PATH...` prints every point lost with its line, as evidence."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from andon.gates.evidence import Evidence, Metric, digests, write_evidence
from andon.gates.measures.debt.hotspots import hotspots
from andon.gates.measures.debt.listing import render_json, render_sarif, render_text
from andon.gates.measures.debt.loss import File, project_score
from andon.gates.measures.debt.ratchet import BASELINE, fallen, read_baseline, write_baseline
from andon.gates.measures.debt.score import DebtError, find_files, grade_files


def metrics_of(files: Sequence[File], below: Sequence[str]) -> dict[str, Metric]:
    """The project's score, the lowest file's with those of all, and how many fell."""
    by_file = {f"file {file.path}": Metric(file.score, "points") for file in files}
    lowest = min((file.score for file in files), default=None)
    return {
        "project": Metric(project_score(list(files)), "points"),
        "file": Metric(lowest, "points"),
        **by_file,
        "fallen": Metric(len(below) if files else None, "files"),
    }


def main(arguments: Sequence[str]) -> int:
    """Grade, print, leave evidence "debt"; exit code 1 where a file fell below its record, 2 for what is no Python."""
    options, start = _options(arguments), time.perf_counter()
    paths = [*options.paths, str(options.baseline)]
    sources = digests(paths)
    try:
        files = grade_files({str(path): path.read_text(encoding="utf-8") for path in find_files(options.paths)})
        below = fallen(files, read_baseline(options.baseline))
    except (DebtError, UnicodeDecodeError) as error:
        print(f"debt: {error}")
        return 2
    if options.write:
        write_baseline(files, options.baseline)
        below, sources = [], digests(paths)
    hot = hotspots(files)
    forms = {"text": render_text, "json": render_json, "sarif": render_sarif}
    print(forms[options.format](files, hot), end="")
    if options.format == "text":
        print("".join(f"fallen: {line}\n" for line in below), end="")
    command = "python -m andon.gates.measures.debt " + " ".join(options.paths)
    write_evidence(Evidence("debt", command, time.perf_counter() - start, sources, metrics_of(files, below)))
    return int(bool(below))


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m andon.gates.measures.debt", description=main.__doc__)
    parser.add_argument("paths", nargs="+", help="files and folders")
    parser.add_argument("--format", choices=("text", "json", "sarif"), default="text")
    parser.add_argument("--write", action="store_true", help="record these scores as the baseline")
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="where the recorded scores lie")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
