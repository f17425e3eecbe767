"""What became of injected faults: a row for each, counted, and kept as JSON."""

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from andon.verify.run.report import RED, YELLOW

FOUND, UNFOUND, ERROR, ABSENT = "found", "unfound", "error", "not applicable"
CHECK, PARITY, TEST = "check", "parity", "unit test"
STATUSES = ("historical", "transposed", "pattern")


@dataclass(frozen=True)
class Row:
    """A fault and what became of it."""

    fault: str
    area: str
    status: str  # of STATUSES; empty for a fault that fits any subject
    symptom: str
    source: str = ""
    state: str = UNFOUND  # FOUND, UNFOUND, ERROR or ABSENT
    way: str = ""  # CHECK, PARITY or TEST: what found it
    checks: tuple[str, ...] = ()  # that found it: the first, or with `every` all of them
    subject: str = ""
    tier: int | None = None
    seconds: float | None = None
    detail: str = ""  # the finding's message, or what went wrong
    light: str = ""  # of the finding
    findings: int | None = None  # that its subject's report has, with `every`: what follows from one is not counted
    place: int | None = None  # among them of the first that names the cause, 0 where none does; None: nobody says which


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """How many faults were injected, live and found, and by what."""
    live = [row for row in rows if row.state in (FOUND, UNFOUND)]
    states, ways = Counter(row.state for row in rows), Counter(row.way for row in rows)
    lights, statuses = Counter(row.light for row in rows), Counter(row.status for row in live)
    return {
        "injected": len(rows) - states[ABSENT],
        "live": len(live),
        "found": states[FOUND],
        "found_by_check": ways[CHECK],
        "found_by_parity": ways[PARITY],
        "found_by_unit_test": ways[TEST],
        "unfound": states[UNFOUND],
        "errors": states[ERROR],
        "found_red": lights[RED],
        "found_yellow": lights[YELLOW],
    } | {status: statuses[status] for status in STATUSES}


def order(rows: Sequence[Row]) -> dict[str, float | None]:
    """The median number of findings in a report, and the share of faults whose cause the first one names."""
    findings = [row.findings for row in rows if row.findings]
    first = [row.place == 1 for row in rows if row.place is not None]
    return {
        "findings_median": statistics.median(findings) if findings else None,
        "named_first": sum(first) / len(first) if first else None,
    }


def as_json(rows: Sequence[Row], about: Mapping[str, object]) -> str:
    """Counts and rows."""
    return (
        json.dumps(
            {**about, "counts": counts(rows), "order": order(rows), "rows": [asdict(row) for row in rows]}, indent=2
        )
        + "\n"
    )


def from_json(content: Mapping[str, Any]) -> list[Row]:
    """What `as_json` wrote."""
    rows: list[dict[str, Any]] = content["rows"]
    return [replace(Row(**row), checks=tuple(row["checks"])) for row in rows]
