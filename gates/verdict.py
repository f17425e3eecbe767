"""A verdict: the answer, and each check with all that a person needs to act on it."""

from dataclasses import dataclass
from typing import Literal

State = Literal["pass", "red", "not measured"]


@dataclass(frozen=True)
class Check:
    """One measure, threshold or budget, judged: `value operator threshold` is what must hold.

    `name` is the measure's, or `<evidence>.<metric>`; `command` is what ran and what reproduces it alone; `value` is
    None where nothing was measured; `detail` says what failed and where; `exit_code` is what this check alone makes
    of the verdict; `sources` are the files and folders that were measured.
    """

    name: str
    command: str
    seconds: float | None
    value: float | None
    unit: str
    operator: str
    threshold: float
    why: str
    next_step: str
    state: State = "not measured"
    detail: str = ""
    exit_code: int = 3
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A tier's checks, in the order of the gates file, its budget last."""

    tier: str
    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """0 pass, 1 red, 3 could not measure (or nothing to judge). Red outweighs what was not measured."""
        codes = {check.exit_code for check in self.checks} or {3}
        return 1 if 1 in codes else max(codes)

    @property
    def answer(self) -> str:
        """PASS, RED or NOT MEASURED."""
        return {0: "PASS", 1: "RED", 3: "NOT MEASURED"}[self.exit_code]

    @property
    def headline(self) -> str:
        """The verdict's first line: the answer, what made it, and how many checks pass."""
        blamed = [check.name for check in self.checks if check.exit_code == self.exit_code != 0]
        passed = sum(check.state == "pass" for check in self.checks)
        return f"{self.tier} {self.answer}: {', '.join(blamed) or 'all'} ({passed} of {len(self.checks)} checks pass)"
