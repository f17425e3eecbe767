"""One target under atheris, started by `fuzz`: `... fuzz_target MODULE PACKAGES CORPUS... -FLAGS`."""

import importlib
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Instrument the packages, import the target, and hand over to libFuzzer, which ends the process."""
    import atheris  # late: a development tool

    module, packages, *rest = arguments
    with atheris.instrument_imports(include=packages.split(",")):
        target = importlib.import_module(module)

    def one(data: bytes) -> None:
        try:
            target.one(data)
        except target.REFUSALS:
            return

    atheris.Setup([sys.argv[0], *rest], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
