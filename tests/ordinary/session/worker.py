"""`python -m tests.ordinary.session.worker ASKED ANSWERED`: a half of the corpus in the interpreter of its packages."""

import json
import sys
from pathlib import Path

from tests.ordinary.session.run import Selection, print_progress, run_here


def main(asked: str, answered: str) -> None:
    """Read what is asked, run it, write what came of it."""
    half, options, costs = json.loads(Path(asked).read_text(encoding="utf-8"))
    results = run_here(half, Selection(*options), costs, print_progress)
    Path(answered).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
