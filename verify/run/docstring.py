"""What a check's docstring says of it: the form is that of `verify/checks/__init__.py`."""

import inspect
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from andon.verify.errors import CheckFailed, Unusual
from andon.verify.run.report import RED, YELLOW, Finding


class Line(Protocol):
    """A line of a table of statements: a check's, or one of another kind."""

    @property
    def name(self) -> str:
        """Its name, area.what."""
        ...

    @property
    def function(self) -> Callable[..., Any]:
        """It raises where the statement does not hold."""
        ...


class Explanation(NamedTuple):
    """A check's docstring in its parts; what it does not have is empty."""

    title: str  # what is true of any correct implementation
    detail: str  # what more is to be said of that
    silent: str  # why training does not show a fault
    look: str  # where to look for it
    yellow: str  # where it turns yellow in place of red, and why; "Yellow alone" where it never turns red
    example: str  # code with the fault, from "# wrong: " on, and the same mended, from "# right" on
    reference: str  # the source


def explain(check: Line) -> Explanation:
    """What a check's docstring says: paragraphs are told by their first word, the rest is detail."""
    text, _, reference = (inspect.getdoc(check.function) or "").partition("\n\nReference:")
    text, _, example = text.partition("\n\nExample:\n")
    title, *paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    silent = " ".join(part for part in paragraphs if part.startswith("Silent"))
    look = " ".join(part for part in paragraphs if part.startswith("Look"))
    yellow = " ".join(part for part in paragraphs if part.startswith("Yellow"))
    detail = " ".join(part for part in paragraphs if not part.startswith(("Silent", "Look", "Yellow")))
    return Explanation(
        title, detail, silent, look, yellow, textwrap.dedent(example).strip(), " ".join(reference.split())
    )


def lights(check: Line) -> tuple[str, ...]:
    """Those that a check can turn, by its docstring: a paragraph "Yellow" says where, "Yellow alone" that it is all."""
    yellow = explain(check).yellow
    if not yellow:
        return (RED,)
    return (YELLOW,) if yellow.startswith("Yellow alone") else (RED, YELLOW)


def as_finding(check: Line, wrong: CheckFailed, name: str = "", seconds: float = 0.0) -> Finding:
    """A statement that does not hold, in its own words; `name` is that of the check, and of the variant it is of."""
    about, light = explain(check), YELLOW if isinstance(wrong, Unusual) else RED
    said = about.title, about.silent, about.look, seconds
    return Finding(name or check.name, str(wrong), *said, detail=about.detail, light=light)
