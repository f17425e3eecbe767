"""Measure coverage: `python -m gates.coverage -m pytest ...` runs the tests and leaves evidence by file.

Coverage's own `fail_under` mixes lines with branches; here they are metrics apart, of the whole and of each file:
`lines`, `branches`, `lines core/model.py`, `branches core/model.py`, all in percent. One process measures and
converts, so that figures of an older run cannot pass for those of this one.
"""

import json
import subprocess
import sys
import time
from typing import Any

from .evidence import Evidence, Metric, digests, write_evidence


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


def main(arguments: list[str]) -> int:
    """Run `coverage run ARGUMENTS`, write evidence "coverage", return the exit code of what ran."""
    from coverage import Coverage  # late: a development tool: the base install does without

    tool, start = [sys.executable, "-m", "coverage"], time.perf_counter()
    configured = Coverage().get_option("run:source")
    sources = digests([*(configured if isinstance(configured, list) else []), "tests"])
    subprocess.run([*tool, "erase"], check=True)
    code = subprocess.run([*tool, "run", *arguments], check=False).returncode
    report = subprocess.run([*tool, "json", "-q", "-o", "-"], check=False, capture_output=True, text=True)
    if report.returncode:
        print(report.stdout + report.stderr)
        return code or 3
    metrics = coverage_metrics(json.loads(report.stdout))
    command = "python -m gates.coverage " + " ".join(arguments)
    write_evidence(Evidence("coverage", command, time.perf_counter() - start, sources, metrics))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
