"""Find tests that cannot fail: `python -m andon.gates.measures.vacuous tests` reads them; `--run` also runs them.

What follows `--run` goes to pytest. Evidence "vacuous" holds the counts by kind.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from andon.gates.commits import head
from andon.gates.evidence import Evidence, Metric, digests, write_evidence
from andon.gates.measures.vacuous.finding import Finding, Kind
from andon.gates.measures.vacuous.reading import ReadError, count_tests, find_tests_in, read_file
from andon.gates.measures.vacuous.running import RunError, Stubbed, collect, run_stubbed, sample


def metrics_of(tests: int, findings: Sequence[Finding], stubbed: Stubbed | None) -> dict[str, Metric]:
    """The counts; null for what was not run."""
    kinds = Counter(finding.kind for finding in findings)
    metrics = {"tests": Metric(tests, "tests"), "vacuous": Metric(len(findings) if tests else None, "tests")}
    metrics |= {f"vacuous {kind}": Metric(kinds[kind], "tests") for kind in get_args(Kind) if kind != "stubbed"}
    counts = stubbed._asdict() if stubbed else dict.fromkeys(("noticed", "silent", "not_run"))
    metrics["vacuous stubbed"] = Metric(kinds["stubbed"] if stubbed else None, "tests")
    return metrics | {name: Metric(counts[name], "tests") for name in ("noticed", "silent", "not_run")}


def main(arguments: Sequence[str]) -> int:
    """Read, run, print each finding with its line, write evidence; exit code 1 where there is one, 2 for bad input."""
    options, start = _options(arguments), time.perf_counter()
    sources = digests(options.sources or options.paths)
    files = [path for name in options.paths for path in find_tests_in(Path(name))]
    try:
        read = {str(path): path.read_text(encoding="utf-8") for path in files}
        findings = [finding for path, source in read.items() for finding in read_file(path, source)]
        stubbed = _run(options.run, options.sample) if options.run is not None else None
    except (ReadError, RunError) as error:
        print(f"vacuous: {error}")
        return 2
    findings += stubbed.findings if stubbed else []
    print("".join(f"{finding}\n" for finding in findings), end="")
    tests = sum(map(count_tests, read.values()))
    print(f"{len(findings)} of {tests} tests cannot fail" + (f"; {_summary(stubbed)}" if stubbed else ""))
    command = "python -m andon.gates.measures.vacuous " + " ".join(arguments)
    seconds = time.perf_counter() - start
    write_evidence(Evidence(options.evidence, command, seconds, sources, metrics_of(tests, findings, stubbed)))
    return int(bool(findings) or not tests)


def _run(arguments: list[str], count: int) -> Stubbed:
    """Run all tests, or as many as `count`, chosen by the commit."""
    if not count:
        return run_stubbed(arguments)
    return run_stubbed(sample(collect(arguments), count, head() or ""))


def _summary(stubbed: Stubbed) -> str:
    return (
        f"with the code stubbed out {stubbed.noticed} fail, {stubbed.silent} would fail by exceptions alone, "
        f"{stubbed.not_run} call none of it in this process"
    )


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m andon.gates.measures.vacuous", description=main.__doc__)
    parser.add_argument("paths", nargs="+", help="folders of tests")
    parser.add_argument("--evidence", default="vacuous", metavar="NAME", help="under what name evidence is left")
    parser.add_argument(
        "--sources", nargs="+", metavar="PATH", help="the sources of the evidence, if not the tests alone"
    )
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="run N tests, chosen by the commit")
    parser.add_argument(
        "--run", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="also run the tests, with these arguments of pytest"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
