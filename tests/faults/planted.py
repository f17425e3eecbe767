"""`python -m tests.faults.planted FAULT ARGUMENTS...`: the command line of `andon` with a fault in our core.

`none` is no fault. The fault is injected as the process imports the module, as everywhere; no file is touched.
"""

import sys

from andon.verify.faults.inject import inject
from tests.faults.catalogue import FAULTS

NONE = "none"


def main(name: str, words: list[str]) -> None:
    """Inject, and run the command."""
    if name != NONE:
        inject(next(fault for fault in FAULTS if fault.id == name))
    from andon.cli.main import cli

    cli(words, prog_name="andon")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
