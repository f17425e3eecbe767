"""A verdict as SARIF 2.1.0 (OASIS standard, section numbers below), for viewers that show results beside the code."""

import json
import re
from pathlib import Path
from typing import Any

from andon.gates.report.render import bound
from andon.gates.verdict import Check, Verdict

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
# "core/model.py:12:3: ..." as tools print it, "core/model.py: 71.5" as a metric's parts, "tests/a.py::test_b".
PLACE = re.compile(r"(?P<path>[\w./-]+\.\w+)(?::(?P<line>\d+)(?::(?P<column>\d+))?)?(?=$|:|\s|,|\))")
KINDS = {"pass": "pass", "red": "fail", "not measured": "open"}  # 3.27.9
MOST_PLACES = 10


def render_sarif(verdict: Verdict, config: Path) -> str:
    """SARIF: a rule and a result for each check, at the files that its detail names, else at the gates file."""
    rules = [
        {
            "id": check.name,
            "shortDescription": {"text": f"{check.name} {check.operator} {check.threshold:g}"},
            "fullDescription": {"text": check.why},
            "help": {"text": check.next_step},
        }
        for check in verdict.checks
    ]
    run = {
        "tool": {"driver": {"name": "andon", "rules": rules}},
        "invocations": [
            {
                "commandLine": f"andon gate run {verdict.tier}",
                "executionSuccessful": verdict.exit_code in (0, 1),
                "exitCode": verdict.exit_code,
                "exitCodeDescription": verdict.headline,
            }
        ],
        "results": [_result(check, place, config) for place, check in enumerate(verdict.checks)],
    }
    return sarif(run)


def sarif(run: dict[str, Any]) -> str:
    """One run as a whole file."""
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _result(check: Check, place: int, config: Path) -> dict[str, Any]:
    lines = [f"{check.name}: {bound(check)}", check.why, check.detail, check.command and f"Reproduce: {check.command}"]
    lines.append(check.next_step and f"Next: {check.next_step}")
    return {
        "ruleId": check.name,
        "ruleIndex": place,
        "kind": KINDS[check.state],
        "level": "error" if check.state == "red" else "none",  # 3.27.10: only a failure has one
        "message": {"text": "\n".join(line for line in lines if line)},
        "locations": _locations(check.detail) or [_location(str(config), None, None)],
        "properties": {
            "state": check.state,
            "value": check.value,
            "unit": check.unit,
            "operator": check.operator,
            "threshold": check.threshold,
            "seconds": check.seconds,
        },
    }


def _locations(detail: str) -> list[dict[str, Any]]:
    """Where a detail says that something was found: the files of this project that it names, each place once."""
    found = {}
    for match in PLACE.finditer(detail):
        path, line, column = match["path"].removeprefix("./"), match["line"], match["column"]
        if not path.startswith("/") and ".." not in path and Path(path).is_file():
            found[path, line, column] = _location(path, line, column)
    return list(found.values())[:MOST_PLACES]


def _location(path: str, line: str | None, column: str | None) -> dict[str, Any]:
    """3.28 location; lines and columns count from 1, and what was not said is left out."""
    region = {"startLine": int(line)} if line and int(line) else {}
    region |= {"startColumn": int(column)} if region and column and int(column) else {}
    physical: dict[str, Any] = {"artifactLocation": {"uri": path}}
    return {"physicalLocation": physical | ({"region": region} if region else {})}
