"""A verdict for three readers: a terminal of 100 columns, a pull request, a program; `sarif` has the fourth."""

import json
import re
import textwrap
from dataclasses import asdict

from andon.gates.verdict import Check, Verdict

WIDTH = 100
LABEL = 12


def render_text(verdict: Verdict, *, quiet: bool = False) -> str:
    """Plain text: the answer, a line per check, then all about each check that does not pass.

    `quiet` leaves out the lines of the checks. Commands are never broken, as people paste them.
    """
    blocks = [verdict.headline]
    if not quiet:
        blocks.append(
            "\n".join(_line(check, max(len(each.name) for each in verdict.checks)) for check in verdict.checks)
        )
    blocks += [_text_details(check) for check in verdict.checks if check.state != "pass"]
    return "\n\n".join(blocks) + "\n"


def render_markdown(verdict: Verdict) -> str:
    """Markdown: the answer as a heading, a table, a section for each check that does not pass."""
    cells = [[check.state, check.name, bound(check), _seconds(check), f"`{check.command}`"] for check in verdict.checks]
    rows = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in cells]
    header = ["| | check | value | time | what ran |", "|---|---|---|---|---|"]
    sections = [_markdown_details(check) for check in verdict.checks if check.state != "pass"]
    return "\n\n".join([f"## {verdict.headline}", "\n".join(header + rows), *sections]) + "\n"


def render_json(verdict: Verdict) -> str:
    """JSON: tier, answer, headline, exit_code and each check with all its fields."""
    content = {name: getattr(verdict, name) for name in ("tier", "answer", "headline", "exit_code")}
    return json.dumps(content | {"checks": [asdict(check) for check in verdict.checks]}, indent=2) + "\n"


def bound(check: Check) -> str:
    """A check's value against its threshold: `96.4 % (must be >= 95)`."""
    unit = f" {check.unit}" if check.unit else ""
    value = "not measured" if check.value is None else f"{check.value:.4g}{unit}"
    return f"{value} (must be {check.operator} {check.threshold:g})"


def _line(check: Check, width: int) -> str:
    """One check as one line; a measure that passed shows what ran, as its exit code says no more."""
    passed = check.state == "pass"
    text = check.command if passed and check.unit == "exit code" else bound(check)
    text = check.detail if check.name == "budget" and check.value is not None else text
    state = check.state if passed else check.state.upper()
    line = f"  {state:<4}  {check.name:<{width}}  {_seconds(check):>7}  {text}"
    return line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."


def _text_details(check: Check) -> str:
    entries = [("why", check.why), ("found", check.detail), ("measured", ", ".join(check.sources))]
    entries += [("reproduce", check.command), ("next", check.next_step)]
    lines = [f"{check.state.upper()} {check.name}: {bound(check)}"]
    for label, text in [entry for entry in entries if entry[1]]:
        for place, line in enumerate([text] if label == "reproduce" else _wrap(text)):
            lines.append(f"  {'' if place else label:<{LABEL - 2}} {line}".rstrip())
    return "\n".join(lines)


def _markdown_details(check: Check) -> str:
    ticks = max((len(run) for run in re.findall(r"`+", check.detail)), default=0)
    fence = "`" * max(3, ticks + 1)
    lines = [f"### {check.state}: {check.name}, {bound(check)}", check.why]
    lines += [f"{fence}text\n{check.detail}\n{fence}"] if check.detail else []
    lines += [f"Measured: {', '.join(check.sources)}"] if check.sources else []
    lines += [f"Reproduce: `{check.command}`"] if check.command else []
    lines += [f"Next: {check.next_step}"] if check.next_step else []
    return "\n\n".join(lines)


def _wrap(text: str) -> list[str]:
    wrapper = textwrap.TextWrapper(WIDTH - LABEL - 1, replace_whitespace=False, drop_whitespace=False)
    return [part for line in text.expandtabs().splitlines() for part in wrapper.wrap(line) or [""]]


def _seconds(check: Check) -> str:
    return "" if check.seconds is None else f"{check.seconds:.1f} s"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
