"""A small gates file and evidence for it, for the tests of judging and showing."""

from pathlib import Path

from andon.gates.config import Gates
from andon.gates.evidence import Evidence, Metric, write_evidence

COMMAND = "make probe 'a|b'"
OPERATORS = {  # operator: values that pass and values that are red, the edge among them, against 90
    "<": ([89.99], [90, 90.01]),
    "<=": ([89.99, 90], [90.01]),
    "==": ([90], [89.99, 90.01]),
    ">=": ([90, 90.01], [89.99]),
    ">": ([90.01], [89.99, 90]),
}


def gates_with(operator: str = ">=", sources: list[str] | None = None) -> Gates:
    """Tiers `loose` (no strictness) and `strict`, one measure, one threshold at 90, a budget of 30 s."""
    return Gates.model_validate(
        {
            "tiers": [
                {"name": "loose", "summary": "s", "budget_seconds": 30.0, "strict": False},
                {"name": "strict", "summary": "s", "includes": "loose", "budget_seconds": 30.0},
            ],
            "sources": sources or [],
            "measures": [{"name": "probe", "tier": "loose", "command": COMMAND, "next": "mend the probe"}],
            "thresholds": [
                {"metric": "probe.lines", "operator": operator, "value": 90.0, "tier": "loose", "why": "lines matter"}
            ],
        }
    )


def leave_evidence(
    folder: Path,
    lines: float | None = 95.0,
    exit_code: float | None = 0.0,
    sources: dict[str, str] | None = None,
    **parts: float,
) -> None:
    """What the measure "probe" and its runner write; `parts` are metrics `lines <part>`."""
    metrics = {"lines": Metric(lines, "%")}
    metrics |= {f"lines {part}": Metric(value, "%") for part, value in parts.items()}
    write_evidence(Evidence("probe", "make probe", 1.5, sources or {}, metrics), folder)
    run = {"exit_code": Metric(exit_code, "exit code")}
    write_evidence(Evidence("probe.run", "make probe", 1.5, sources or {}, run), folder)


def leave_clock(folder: Path, wall: float = 20.0, others: float = 0.0) -> None:
    """What a run of either tier leaves of its own clock."""
    metrics = {"wall_seconds": Metric(wall, "s"), "cpu_seconds": Metric(25.0, "s"), "others_share": Metric(others, "")}
    for tier in ("loose", "strict"):
        write_evidence(Evidence(tier, f"andon gate run {tier}", wall, {}, metrics), folder)
