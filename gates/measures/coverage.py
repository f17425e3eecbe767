"""Measure coverage: `python -m andon.gates.measures.coverage -m pytest ...` runs the tests and leaves evidence by file.

Coverage's own `fail_under` mixes lines with branches; here they are metrics apart, of the whole and of each file:
`lines`, `branches`, `lines core/config.py`, `branches core/config.py`, in percent. `--risk FILE` leaves out what the
table says runs elsewhere, and adds how many files are `short` of its minimums (`--minimums` says which),
`--base COMMIT` the share of `changed` lines. One process measures and converts, so that figures of an older run cannot
pass for those of this one.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

from andon.gates.commits import CommitError
from andon.gates.config import GateError
from andon.gates.evidence import Evidence, Metric, digests, write_evidence
from andon.gates.measures.changed import changed_coverage, changed_lines
from andon.gates.measures.risk import Minimums, Risks, read_risks, short_metrics


def coverage_metrics(report: dict[str, Any]) -> dict[str, Metric]:
    """Metrics from the content of `coverage json`; null where there was nothing to cover."""
    summaries = {"": report["totals"]} | {f" {path}": file["summary"] for path, file in report["files"].items()}
    metrics = {}
    for suffix, summary in summaries.items():
        metrics[f"lines{suffix}"] = _share(summary["covered_lines"], summary["num_statements"])
        metrics[f"branches{suffix}"] = _share(summary.get("covered_branches", 0), summary.get("num_branches", 0))
    return metrics


def _share(covered: int, total: int) -> Metric:
    return Metric(100 * covered / total if total else None, "%")


def main(arguments: Sequence[str]) -> int:
    """Run `coverage run ARGUMENTS`, write evidence, return the exit code of what ran; 2 for a mistake in an option."""
    from coverage import Coverage  # late: a development tool: the base install does without

    options, start = _options(arguments), time.perf_counter()
    tool, configuration = [sys.executable, "-m", "coverage"], Coverage()
    try:
        risks = read_risks(options.risk) if options.risk else None
        changed = changed_lines(options.base) if options.base else None
    except (GateError, CommitError) as error:
        print(f"coverage: {error}")
        return 2
    configured = configuration.get_option("run:source")
    sources = digests([*(configured if isinstance(configured, list) else []), "tests"])
    run = partial(
        subprocess.run, env=os.environ | {"COVERAGE_FILE": str(Path(configuration.config.data_file).resolve())}
    )
    run([*tool, "erase"], check=True)
    code = run([*tool, "run", *options.command], check=False).returncode
    if configuration.get_option("run:parallel"):
        run([*tool, "combine", "-q"], check=False)  # what it could not combine is missing in the report
    left_out = _omitted(configuration, risks)
    report = run([*tool, "json", "-q", "-o", "-", *left_out], check=False, capture_output=True, text=True)
    if report.returncode:
        print(report.stdout + report.stderr)
        return code or 3
    content = json.loads(report.stdout)
    metrics = coverage_metrics(content)
    if risks:
        metrics |= short_metrics(metrics, risks, options.minimums)
    if changed is not None:
        share, missed = changed_coverage(content, changed)
        metrics["changed"] = Metric(share, "%")
        print("".join(f"{place}: changed, and no test reaches it\n" for place in missed), end="")
    command = "python -m andon.gates.measures.coverage " + " ".join(arguments)
    write_evidence(Evidence(options.evidence, command, time.perf_counter() - start, sources, metrics))
    return code


def _omitted(configuration: Any, risks: Risks | None) -> list[str]:
    """Coverage's option for what its own settings leave out and what the table says runs elsewhere."""
    own = configuration.get_option("report:omit") or []
    files = [*own, *(risks.left_out() if risks else [])]
    return [f"--omit={','.join(files)}"] if files else []


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    """Our own options stand before `-m`; what is not ours, and all from `-m` on, goes to `coverage run`."""
    parser = argparse.ArgumentParser(prog="python -m andon.gates.measures.coverage", description=main.__doc__)
    parser.add_argument("--evidence", default="coverage", metavar="NAME", help="under what name evidence is left")
    parser.add_argument("--risk", type=Path, metavar="FILE", help="a risk table whose minimums files must reach")
    parser.add_argument("--minimums", choices=get_args(Minimums), default="tests", help="which of the table's minimums")
    parser.add_argument("--base", metavar="COMMIT", help="measure the lines that differ from it")
    own = arguments.index("-m") if "-m" in arguments else len(arguments)
    options, others = parser.parse_known_args(arguments[:own])
    options.command = [*others, *arguments[own:]]
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
