"""The grades for three readers, each with every point lost: a terminal, a program, a viewer of SARIF 2.1.0."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from andon.gates.measures.debt.loss import File, grade, project_score
from andon.gates.report.sarif import sarif

Hotspots = list[tuple[int, str]] | str


def render_text(files: Sequence[File], hotspots: Hotspots) -> str:
    """The project's grade, then the files that lost points, worst first, with their lines, then the hotspots."""
    score = project_score(list(files))
    lines = ["not measured: no file" if score is None else f"project {score:.2f} {grade(score)}, {len(files)} files"]
    for file in sorted(files, key=lambda file: (file.score, file.path)):
        if file.losses:
            lines.append(f"{file.score:6.2f} {grade(file.score):<2} {file.path}")
        lines += [
            f"          {loss.path}:{loss.line}: -{loss.points:g} {loss.dimension}: {loss.why}" for loss in file.losses
        ]
    lines.append("hotspots (commits in a year x complexity), beside the grade:")
    listed = [f"  {hotspots}"] if isinstance(hotspots, str) else [f"  {heat:7d} {path}" for heat, path in hotspots]
    return "\n".join(lines + listed) + "\n"


def render_json(files: Sequence[File], hotspots: Hotspots) -> str:
    """Project, files with their losses, hotspots; null for what was not measured."""
    score = project_score(list(files))
    content = {
        "project": {"score": score, "grade": None if score is None else grade(score)},
        "files": [
            {
                "path": file.path,
                "score": file.score,
                "grade": grade(file.score),
                "losses": [asdict(loss) for loss in file.losses],
            }
            for file in files
        ],
        "hotspots": None if isinstance(hotspots, str) else [{"heat": heat, "path": path} for heat, path in hotspots],
    }
    return json.dumps(content, indent=2) + "\n"


def render_sarif(files: Sequence[File], _hotspots: Hotspots) -> str:
    """A result for each loss, at its line; a hotspot has none."""
    losses = [loss for file in files for loss in file.losses]
    results: list[dict[str, Any]] = [
        {
            "ruleId": f"debt.{loss.dimension}",
            "level": "warning",
            "message": {"text": f"-{loss.points:g}: {loss.why}"},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": loss.path},
                        "region": {"startLine": loss.line},
                    }
                }
            ],
            "properties": {"points": loss.points},
        }
        for loss in losses
    ]
    rules = [{"id": name} for name in sorted({result["ruleId"] for result in results})]
    run = {"tool": {"driver": {"name": "andon debt", "rules": rules}}, "results": results}
    return sarif(run)
