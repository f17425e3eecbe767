"""A verdict as one HTML file: the table of the report, with each check's history."""

import json
from typing import TYPE_CHECKING

from andon.report.page import LAMPS, asset, environment
from andon.report.trends import trends

if TYPE_CHECKING:
    from andon.gates.verdict import Verdict


def render_page(verdict: "Verdict") -> str:
    """The page; like the report it loads nothing from elsewhere."""
    from andon.gates import render_json

    content = json.loads(render_json(verdict))
    return (
        environment()
        .get_template("gates.html.j2")
        .render(
            verdict=content,
            lamp=LAMPS[content["answer"]],
            trends=trends(content),
            styles=asset("templates/report.css"),
        )
    )
