"""Grade ten well-known packages: `python -m tests.calibration` writes reports/baselines/debt_calibration.json.

Their order by reputation stands in docs/decisions/debt.md and was written down before any of them was graded. Each
is the wheel that pip finds on PyPI, at the version of the last run where there was one, so that a changed formula is
seen and a new release is not.
"""

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from andon.gates.measures.debt.loss import grade, project_score
from andon.gates.measures.debt.score import grade_files

EXPECTED = (
    "structlog", "attrs", "httpx", "click", "flask", "requests", "jinja2", "pygments", "docutils", "pyparsing",
)  # fmt: skip
BASELINE = Path("reports/baselines/debt_calibration.json")


def graded(requirement: str, folder: Path) -> dict[str, object]:
    """Download a package's wheel and grade its Python files."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    subprocess.run([*pip, requirement], check=True)
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".py")]
        files = grade_files({name: archive.read(name).decode("utf-8") for name in names})
    score = project_score(files)
    if score is None:
        raise ValueError(f"{wheel.name} holds no Python file with a statement; name another package")
    version = wheel.name.split("-")[1]
    return {"version": version, "files": len(files), "score": round(score, 2), "grade": grade(score)}


def rank_correlation(first: list[str], second: list[str]) -> float:
    """Spearman's rank correlation of two orders of the same things, without ties."""
    count = len(first)
    squares = sum((place - second.index(name)) ** 2 for place, name in enumerate(first))
    return 1 - 6 * squares / (count * (count**2 - 1))


def main() -> None:
    """Grade all, print the order, write the baseline."""
    known = json.loads(BASELINE.read_text(encoding="utf-8"))["packages"] if BASELINE.exists() else {}
    rows = {}
    for name in EXPECTED:
        with tempfile.TemporaryDirectory(prefix="andon-calibration-") as folder:
            pinned = f"{name}=={known[name]['version']}" if name in known else name
            rows[name] = graded(pinned, Path(folder))
    order = sorted(rows, key=lambda name: -float(str(rows[name]["score"])))
    correlation = round(rank_correlation(list(EXPECTED), order), 3)
    packages = {name: rows[name] for name in order}
    content = {"rank_correlation": correlation, "packages": packages}
    BASELINE.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for name, row in packages.items():
        sys.stdout.write(f"{row['score']:6} {row['grade']:<2} {name} {row['version']}, {row['files']} files\n")
    sys.stdout.write(f"rank correlation with the order written down before: {correlation}\n")


if __name__ == "__main__":
    main()
