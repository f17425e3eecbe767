"""What a file loses points for, and the grades."""

from dataclasses import dataclass
from typing import Literal

Dimension = Literal[
    "cyclomatic", "cognitive", "length", "nesting", "duplication", "coupling", "documentation", "suppressions"
]
GRADES = ((95, "A+"), (90, "A"), (80, "B"), (70, "C"), (60, "D"), (0, "F"))


@dataclass(frozen=True)
class Loss:
    """Points that a line costs its file, and why."""

    path: str
    line: int
    dimension: Dimension
    points: float
    why: str


@dataclass(frozen=True)
class File:
    """A graded file; `cyclomatic` is the sum over its functions, for hotspots."""

    path: str
    losses: tuple[Loss, ...]
    cyclomatic: int

    @property
    def score(self) -> float:
        """100 less what it loses, not below 0."""
        return max(0.0, round(100 - sum(loss.points for loss in self.losses), 2))


def grade(score: float) -> str:
    """The letter of a score."""
    return next(letter for least, letter in GRADES if score >= least)


def project_score(files: list[File]) -> float | None:
    """The mean of the files' scores; None where there is no file, as nothing was graded."""
    return sum(file.score for file in files) / len(files) if files else None
