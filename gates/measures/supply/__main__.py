"""Check the supply chain of pyproject.toml's base and extras: `python -m andon.gates.measures.supply --extras dev`.

`--audit PYTHON` looks for known vulnerabilities, by an interpreter that has pip-audit.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from andon.gates.config import GateError
from andon.gates.evidence import Evidence, Metric, digests, write_evidence
from andon.gates.measures.supply.audit import audit
from andon.gates.measures.supply.licenses import DEFAULT, read_supply, refused
from andon.gates.measures.supply.locked import LOCK, read_pins, unpinned
from andon.gates.measures.supply.packages import installed


def undeclared() -> list[str] | None:
    """What deptry finds: used and not declared, declared and not used; None where it does not run."""
    with tempfile.TemporaryDirectory(prefix="andon-supply-") as folder:
        output = Path(folder) / "deptry.json"
        command = [sys.executable, "-m", "deptry", ".", "--json-output", str(output)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if not output.exists():
            print(done.stdout + done.stderr)
            return None
        issues = json.loads(output.read_text(encoding="utf-8"))
    places = [f"{each['location']['file']}:{each['location']['line'] or 1}" for each in issues]
    errors = [f"{each['error']['code']} {each['error']['message']}" for each in issues]
    return [f"{place}: {error}" for place, error in zip(places, errors, strict=True)]


def main(arguments: Sequence[str]) -> int:
    """Compare, print what is wrong, write evidence; exit code 1 where something is, 2 for a bad allow list."""
    options, start = _options(arguments), time.perf_counter()
    sources = digests(["pyproject.toml", str(LOCK), str(DEFAULT), *options.sources])
    try:
        supply, pins = read_supply(), read_pins()
    except GateError as error:
        print(f"supply: {error}")
        return 2
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {})
    found, missing = installed(
        [*project.get("dependencies", []), *(line for name in options.extras for line in extras[name])]
    )
    licenses = [
        *refused(found, supply),
        *(f"{name}: is not installed, so its license is unknown" for name in missing),
    ]
    loose = list(unpinned(found, pins, supply.unhashed))
    declared = undeclared()
    known, words = audit(options.audit) if options.audit else (None, "not measured (--audit PYTHON measures it)")
    print("".join(f"{line}\n" for line in [*licenses, *loose, *(declared or []), *(known or [])]), end="")
    print(f"{len(found)} packages; known vulnerabilities: {words}")
    metrics = {
        "packages": Metric(len(found), "packages"),
        "licenses": Metric(len(licenses) if found else None, "packages not allowed"),
        "unpinned": Metric(len(loose) if found else None, "packages not in the lock"),
        "dependencies": Metric(None if declared is None else len(declared), "wrongly declared"),
        "vulnerabilities": Metric(None if known is None else len(known), "known"),
    }
    command = "python -m andon.gates.measures.supply " + " ".join(arguments)
    write_evidence(Evidence(options.evidence, command, time.perf_counter() - start, sources, metrics))
    return int(bool(licenses or loose or declared or known) or declared is None)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m andon.gates.measures.supply", description=main.__doc__)
    parser.add_argument("--extras", nargs="*", default=[], metavar="EXTRA", help="of pyproject.toml, beside the base")
    parser.add_argument("--sources", nargs="*", default=[], metavar="PATH", help="the code whose imports are compared")
    parser.add_argument("--evidence", default="supply", metavar="NAME", help="under what name evidence is left")
    parser.add_argument(
        "--audit", metavar="PYTHON", help="look for known vulnerabilities with this interpreter's pip-audit"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
