"""Verdicts over time: a line of JSON each, keyed by commit; trends of a tier, and what two commits differ in."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from andon.gates import commits
from andon.gates.report.render import WIDTH
from andon.gates.verdict import Verdict
from andon.reading import ReadError, parse_json, read_text

HISTORY = Path("reports/history.jsonl")
KEPT = ("state", "value", "unit", "operator", "threshold", "seconds", "detail", "sources")
DETAIL = 400  # characters of a check's detail that are kept
BARS = "▁▂▃▄▅▆▇█"
TREND = 20  # verdicts shown in a trend
SLOWER = 1.2  # a step that took so many times as long is a change, if it is a second at least
NAME = 40  # columns
FILES = 5

Entry = dict[str, Any]


class HistoryError(ValueError):
    """A history that cannot be read, or that lacks the verdicts to show; the message says how to get them."""


def append(verdict: Verdict, path: Path = HISTORY) -> None:
    """Add a verdict, unless it equals the tier's last one: judging the same evidence again adds nothing."""
    checks = {}
    for check in verdict.checks:
        kept = {name: getattr(check, name) for name in KEPT}
        checks[check.name] = kept | {"detail": check.detail[:DETAIL], "sources": list(check.sources)}
    entry = {
        "tier": verdict.tier,
        "commit": commits.head(),
        "changed": commits.is_changed(),
        "answer": verdict.answer,
        "exit_code": verdict.exit_code,
        "checks": checks,
    }
    before = [{**old, "when": None} for old in read(path) if old["tier"] == verdict.tier][-1:]
    if before == [{**entry, "when": None}]:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())} | entry)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read(path: Path = HISTORY) -> list[Entry]:
    """Every verdict, oldest first; none where there is no file. A last line without its end is left out.

    Raises:
        HistoryError: another line is not a verdict.
    """
    if not path.exists():
        return []
    entries = []
    try:
        text = read_text(path)
    except ReadError as error:
        raise HistoryError(f"{path}: {error}; remove it") from error
    for number, line in enumerate(text.split("\n")[:-1], start=1):  # a killed process can leave half a line
        try:
            entry = parse_json(line)
            entries.append(entry | {key: entry[key] for key in ("tier", "commit", "changed", "answer", "checks")})
        except (ValueError, KeyError, TypeError) as error:
            raise HistoryError(f"{path} line {number} is not a verdict ({error!r}); remove the line") from error
    return entries


def render_trends(entries: Sequence[Entry]) -> str:
    """Each tier's newest answer and, a check a line, its first and last value and the way between, in 100 columns.

    Raises:
        HistoryError: there is nothing to show.
    """
    if not entries:
        raise HistoryError(f"{HISTORY} has no such verdict; `andon gate run TIER` adds one")
    tiers = dict.fromkeys(entry["tier"] for entry in entries)
    return "\n\n".join(_tier([entry for entry in entries if entry["tier"] == tier]) for tier in tiers) + "\n"


def compare(entries: Sequence[Entry], first: str, last: str) -> tuple[str, bool]:
    """What the verdicts of two commits differ in, and the files that changed where; and whether all was measured.

    Only verdicts of a commit as it stands count: what was measured among changes belongs to no commit.
    """
    lines, whole = [f"{first[:9]}..{last[:9]}: {commits.between(first, last)}"], not commits.is_shallow()
    clean = [entry for entry in entries if not entry["changed"]]
    for tier in dict.fromkeys(entry["tier"] for entry in entries):
        here = {entry["commit"]: entry for entry in clean if entry["tier"] == tier}  # the newest of each commit
        missing = [commit[:9] for commit in (first, last) if commit not in here]
        if missing:
            lines.append(f"{tier}: not measured at {' and '.join(missing)}; `andon gate run {tier}` there")
            whole = False
        else:
            lines += _differences(here[first], here[last], first, last)
    if len(lines) == 1:
        return f"{lines[0]}\n{HISTORY} is empty; `andon gate run TIER` at both commits\n", False
    return "\n".join(lines) + "\n", whole


def values(entries: Sequence[Entry], check: str) -> list[float | None]:
    """A check's value in each verdict; None where it was not measured. A measure's is its seconds."""
    found = [entry["checks"].get(check) for entry in entries]
    return [each and each["seconds" if each["unit"] == "exit code" else "value"] for each in found]


def sparkline(numbers: Sequence[float | None]) -> str:
    """A bar for each number, between the least and the most; a dot where nothing was measured."""
    known = [number for number in numbers if number is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    return "".join("·" if number is None else BARS[_step(number, low, high)] for number in numbers)


def _step(number: float, low: float, high: float) -> int:
    return round((number - low) / (high - low) * (len(BARS) - 1)) if high > low else len(BARS) // 2


def _tier(entries: Sequence[Entry]) -> str:
    newest, known = entries[-1], [entry["commit"] for entry in entries if entry["commit"]]
    span = commits.between(known[0], known[-1]) if known else "not measured: no git"
    answers = "".join({"PASS": "+", "RED": "X"}.get(entry["answer"], "?") for entry in entries[-TREND:])
    lines = [
        f"{newest['tier']} {newest['answer']} at {_commit(newest)}, {newest['when']}; {len(entries)} verdicts {answers}"
    ]
    lines.append(f"  from {entries[0]['when']} on, {span}")
    names = list(newest["checks"])
    width = min(max(map(len, names), default=0), NAME)
    lines += [_trend(name, entries, width) for name in names]
    return "\n".join(line if len(line) <= WIDTH else line[: WIDTH - 3] + "..." for line in lines)


def _trend(name: str, entries: Sequence[Entry], width: int) -> str:
    """A check of the newest verdict: its state, the way it has been, its first and last value."""
    check, line = entries[-1]["checks"][name], values(entries, name)[-TREND:]
    known = [value for value in line if value is not None]
    unit = "s" if check["unit"] == "exit code" else check["unit"]
    ends = f"{known[0]:.4g} to {known[-1]:.4g} {unit}" if known else "not measured"
    state = check["state"] if check["state"] == "pass" else check["state"].upper()
    return f"  {state:<4}  {name[:width]:<{width}}  {sparkline(line):<{TREND}}  {ends}"


def _differences(before: Entry, after: Entry, first: str, last: str) -> list[str]:
    """A line for the tier, and two or more for each check that is not what it was."""
    lines = []
    for name in dict.fromkeys([*before["checks"], *after["checks"]]):
        old, new = before["checks"].get(name), after["checks"].get(name)
        if old is None or new is None:
            lines.append(f"  {name}: {'new' if old is None else 'removed'}")
            continue
        slower = (new["seconds"] or 0) > max(SLOWER * (old["seconds"] or 0), 1) and old["seconds"] is not None
        if (old["state"], old["value"]) == (new["state"], new["value"]) and not slower:
            continue
        time_taken = f", {old['seconds']:.1f} s to {new['seconds']:.1f} s" if slower else ""
        change = f"{_value(old)} to {_value(new)} {new['unit']}".rstrip()
        lines.append(f"  {name}: {old['state']} to {new['state']}, {change}{time_taken}")
        lines += [
            f"      found  {line}"[:WIDTH] for line in new["detail"].splitlines()[-FILES:] if new["state"] != "pass"
        ]
        lines += [f"      where  {line}"[:WIDTH] for line in _where(first, last, new["sources"])]
    return [f"{after['tier']}: {before['answer']} to {after['answer']}{'' if lines else ', nothing changed'}", *lines]


def _where(first: str, last: str, sources: list[str]) -> list[str]:
    files = commits.changed_files(first, last, sources) if sources else []
    if files is None:
        return [commits.SHALLOW]
    rest = [f"and {len(files) - FILES} more files"] if len(files) > FILES else []
    return [*files[:FILES], *rest] if files else ["none of its sources changed"]


def _value(check: dict[str, Any]) -> str:
    return "null" if check["value"] is None else f"{check['value']:.4g}"


def _commit(entry: Entry) -> str:
    return f"{entry['commit'][:9]}{' with changes' if entry['changed'] else ''}" if entry["commit"] else "no commit"
