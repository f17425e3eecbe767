"""Advice: what each kind of red means and a worked way out of it, by patterns of check names."""

import textwrap
import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import Field

from andon.gates.config import GateError, Gates, Table
from andon.gates.report.render import WIDTH, bound
from andon.gates.verdict import Check

FILE = Path(__file__).with_name("advice.toml")


class Recipe(Table):
    """What red checks of one kind mean, and the steps out of it."""

    name: str
    checks: Annotated[list[str], Field(min_length=1)]
    means: str
    steps: Annotated[list[str], Field(min_length=1)]


# For a measure that no recipe knows, such as a project's own command.
ANY = Recipe(
    name="a command",
    checks=["*"],
    means="The command failed, or a value that it measured does not meet its threshold.",
    steps=[
        "Run the command alone, as shown, and read its first error: later ones often follow from it.",
        "Follow the next step above, which the author of the measure wrote.",
        "Stale or missing evidence: `andon gate run TIER` measures again; `andon gate judge TIER` only judges.",
    ],
)


def recipes() -> list[Recipe]:
    """All recipes, in the order in which they are tried."""
    return [Recipe(**table) for table in tomllib.loads(FILE.read_text(encoding="utf-8"))["recipes"]]


def recipe_for(check: str) -> Recipe:
    """The first recipe whose patterns match a check's name; a general one where none does."""
    found = (each for each in recipes() if any(fnmatchcase(check, pattern) for pattern in each.checks))
    return next(found, ANY)


def known_checks(gates: Gates) -> list[str]:
    """The names of everything that a gates file judges."""
    names = [measure.name for measure in gates.measures] + [threshold.metric for threshold in gates.thresholds]
    return list(dict.fromkeys([*names, "budget"]))


def explain(name: str, gates: Gates, checks: Sequence[Check]) -> str:
    """A check's current state, what red means, and how to fix it, in 100 columns. `checks`: those judged just now.

    Raises:
        GateError: the gates file judges nothing of that name.
    """
    names = known_checks(gates)
    if name not in names:
        close = get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "`andon gate list` shows all of them"
        raise GateError(f"there is no check {name!r}; {hint}")
    recipe = recipe_for(name)
    blocks = [f"{name}: {recipe.name}", recipe.means]
    blocks += ["\n".join(_facts(check)) for check in checks if check.name == name][:1]
    blocks += [f"{place}. {step}" for place, step in enumerate(recipe.steps, start=1)]
    return "\n\n".join("\n".join(_wrap(block)) for block in blocks) + "\n"


def _facts(check: Check) -> list[str]:
    state = bound(check) if check.value is None else f"{check.state}, {bound(check)}"  # no value is neither color
    facts = {"state": state, "why": check.why, "run": check.command, "next": check.next_step}
    return [f"{label:<6} {text}" for label, text in facts.items() if text]


def _wrap(block: str) -> list[str]:
    """Lines of at most 100 columns; a command is left whole, as people paste it."""
    lines = []
    for line in block.splitlines():
        hang = " " * 3 if line[:1].isdigit() else ""
        lines += [line] if line.startswith("run ") else textwrap.wrap(line, WIDTH, subsequent_indent=hang)
    return lines
