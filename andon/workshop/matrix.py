"""The matrix of injected faults and what found each: as lines for a terminal, a table and a picture."""

import html
from collections import Counter
from collections.abc import Sequence

from andon.verify.faults.rows import ERROR, FOUND, STATUSES, UNFOUND, Row, counts, order

LEGEND = {
    "check": "found by a check",
    "parity": "only by parity",
    "test": "only by a unit test",
    "unfound": "unfound",
    "error": "not judged",
    "applicable": "not applicable",
}
LEFT, PITCH, GAP, RIGHT = 150, 22, 4, 60  # of the drawing, in pixels


def line(row: Row) -> str:
    """A fault in at most 100 columns."""
    by = row.checks[0] if row.checks else row.state.upper()
    more = f" +{len(row.checks) - 1}" if len(row.checks) > 1 else ""
    tier = "" if row.tier is None else str(row.tier)
    seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
    shown = f"  {row.fault:<33.33} {row.area:<15.15} {by + more:<36.36} {tier:>1} {seconds:>6}"
    return f"{shown}\n      {row.detail:.94}" if row.state in (UNFOUND, ERROR) and row.detail else shown


def header() -> str:
    """Above the lines."""
    return f"  {'fault':<33} {'area':<15} {'found by':<36} {'tier and seconds':>8}"


def summary(rows: Sequence[Row]) -> str:
    """The counts in words."""
    found = counts(rows)
    share = f", {found['found_by_check'] / found['live']:.0%} of the live by checks alone" if found["live"] else ""
    first = (
        f"{found['injected']} injected, {found['live']} live, {found['found']} found: "
        f"{found['found_by_check']} by checks, {found['found_by_parity']} only by parity with a reference, "
        f"{found['found_by_unit_test']} only by a unit test{share}"
    )
    lines = [first, f"{found['unfound']} unfound, {found['errors']} could not be judged"]
    if any(row.light for row in rows):
        lines.append(f"{found['found_red']} by a red finding, {found['found_yellow']} by a yellow one")
    lines += in_order(rows)
    if any(row.status for row in rows):
        by = Counter(row.status for row in rows if row.state == FOUND)
        lines.append(", ".join(f"{status}: {by[status]} of {found[status]} found" for status in STATUSES))
    return "\n".join(lines)


def in_order(rows: Sequence[Row]) -> list[str]:
    """How many findings one fault makes, and how often the first of them names it; none where that was not measured."""
    found = order(rows)
    said = [] if found["findings_median"] is None else [f"{found['findings_median']:g} findings a fault in the median"]
    if found["named_first"] is not None:
        named = [row for row in rows if row.place is not None]
        said.append(f"the first names the cause of {sum(row.place == 1 for row in named)} of {len(named)}")
    return ["; ".join(said)] if said else []


def by_area(rows: Sequence[Row]) -> list[list[str]]:
    """A row for each area: live ones, found by checks, by parity, by a unit test, unfound."""
    areas = dict.fromkeys(row.area for row in rows)
    lines = [[area, *_numbers([row for row in rows if row.area == area])] for area in areas]
    by_status = [[f"all {status}", *_numbers([row for row in rows if row.status == status])] for status in STATUSES]
    return [*lines, *by_status, ["all", *_numbers(rows)]]


def _numbers(rows: Sequence[Row]) -> list[str]:
    found = counts(rows)
    keys = ("live", "found_by_check", "found_by_parity", "found_by_unit_test", "unfound")
    return [str(found[key]) for key in keys]


def picture(rows: Sequence[Row]) -> str:
    """One HTML file without a script: a drawing with a colored square for each fault, and the details."""
    details = "".join(_described(row) for row in rows)
    return PAGE.format(
        summary=_safe(summary(rows)).replace("\n", "<br>"), legend=_legend(), drawing=drawing(rows), details=details
    )


def drawing(rows: Sequence[Row]) -> str:
    """The matrix as SVG: a line an area, a square a fault, each a link to its details."""
    areas = [[row for row in rows if row.area == area] for area in dict.fromkeys(row.area for row in rows)]
    width, height = LEFT + PITCH * max(map(len, areas)) + RIGHT, PITCH * len(areas)
    lines = []
    for number, here in enumerate(areas):
        middle, found = PITCH * number + PITCH // 2, sum(row.state == FOUND for row in here)
        lines.append(f'<text x="0" y="{middle}">{_safe(here[0].area)}</text>')
        lines += [_square(row, LEFT + PITCH * place, PITCH * number) for place, row in enumerate(here)]
        lines.append(f'<text x="{LEFT + PITCH * len(here) + GAP}" y="{middle}">{found}/{len(here)}</text>')
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{_safe(summary(rows))}">{"".join(lines)}</svg>'
    )


def _legend() -> str:
    mark = '<svg width="18" height="18"><rect class="{}" width="18" height="18" rx="3"/></svg>{}'
    return "".join(mark.format(name, said) for name, said in LEGEND.items())


def _square(row: Row, x: int, y: int) -> str:
    told, size = _safe(f"{row.fault}: {_by(row)}"), PITCH - GAP
    return (
        f'<a href="#{_safe(row.fault)}"><rect class="{_class(row)}" x="{x}" y="{y}" width="{size}" height="{size}" '
        f'rx="3"><title>{told}</title></rect></a>'
    )


def _class(row: Row) -> str:
    return f"{row.state} {row.way if row.state == FOUND else ''}".split()[-1]


def _described(row: Row) -> str:
    told = "".join(f"<td>{_safe(text)}</td>" for text in (row.fault, row.symptom, _by(row), row.detail, row.source))
    return f'<tr id="{_safe(row.fault)}" class="{row.state.split()[0]}">{told}</tr>'


def _by(row: Row) -> str:
    return f"{row.state} by {', '.join(row.checks)}" if row.checks else row.state


def _safe(text: str) -> str:
    return html.escape(text, quote=True)


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Injected faults · Andon</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th {{ text-align: left; font-weight: 500; padding-right: 1rem; white-space: nowrap }}
td {{ padding: .2rem .6rem .2rem 0; vertical-align: top }}
svg {{ max-width: 100%; height: auto; font-size: 14px }}
text {{ fill: currentColor; dominant-baseline: middle }}
.check {{ fill: #2e9e5b }}
.parity {{ fill: #8bc34a }}
.test {{ fill: #4a90d9 }}
.unfound {{ fill: #d93025 }}
.error {{ fill: #f2a900 }}
.applicable {{ fill: #9995 }}
tr:target {{ outline: 2px solid #f2a900 }}
tr.unfound td:first-child {{ color: #d93025 }}
.legend svg {{ vertical-align: -3px; margin: 0 .3rem 0 1rem }}
.wide {{ overflow-x: auto; font-size: 13px }}
</style>
</head>
<body>
<h1>Injected faults</h1>
<p>{summary}</p>
<p class="legend">One square for each fault:{legend}</p>
{drawing}
<div class="wide"><table>{details}</table></div>
</body>
</html>
"""
