"""Whether a planted bug is live: what differs first between a run with it and one without, of the same seed."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tests.door.cases import Case
from tests.door.process import python, run

PROBE = Path(__file__).parent / "probe.py"
NOTED = ("sum of parameter norms", "sum of gradient norms", "rates", "modes of called modules", "tensors with a graph")
TIMED = r"'[a-z_]*(runtime|per_second)': '[^']*'(, )?"  # what a Trainer prints differs from run to run
CLOSE = 1e-9


class Observed(NamedTuple):
    """What a program did in all its runs."""

    code: int
    trace: list[list[Any]]
    saved: list[float]
    lines: list[str]
    seconds: float
    error: str


def observe(case: Case, interpreter: Path | None = None, timeout: float = 600) -> Observed:
    """Run a case under the probe."""
    trace, saved, lines, code, seconds, error = [], [], [], 0, 0.0, ""
    with TemporaryDirectory() as name:
        folder = Path(name)
        case.write(folder)
        for words in case.runs:
            done = run([*python(interpreter), str(PROBE), "probe.json", *words], folder, timeout)
            if (folder / "probe.json").exists():
                noted = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
                trace, saved = trace + noted["trace"], saved + noted["saved"]
            lines += [re.sub(TIMED, "", line) for line in done.out.splitlines()]
            code, seconds, error = code or done.code, seconds + done.seconds, error + done.error
    return Observed(code, trace, saved, lines, seconds, error)


def difference(clean: Observed, faulty: Observed) -> str:
    """What differs first, in words; empty where nothing does."""
    for step, (one, other) in enumerate(zip(clean.trace, faulty.trace, strict=False), 1):
        for name, left, right in zip(NOTED, one, other, strict=True):
            if not _same(left, right):
                return f"{name} at optimizer step {step}: {_short(left)}, and {_short(right)}"
    for name, left, right in (
        ("optimizer steps", len(clean.trace), len(faulty.trace)),
        ("files saved", len(clean.saved), len(faulty.saved)),
    ):
        if left != right:
            return f"{name}: {left}, and {right}"
    for place, (left, right) in enumerate(zip(clean.saved, faulty.saved, strict=True), 1):
        if not _same(left, right):
            return f"sum of the tensors in saved file {place}: {_short(left)}, and {_short(right)}"
    pairs = [(one, other) for one, other in zip(clean.lines, faulty.lines, strict=False) if one != other]
    return f"a printed line: {pairs[0][0]!r}, and {pairs[0][1]!r}" if pairs else ""


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=CLOSE, abs_tol=CLOSE)
    return left == right


def _short(value: Any) -> str:
    shown: Sequence[Any] = value if isinstance(value, list) else [value]
    return ", ".join(f"{each:.6g}" if isinstance(each, float) else str(each) for each in shown[:4])
