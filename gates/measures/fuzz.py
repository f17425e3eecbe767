"""Fuzz parsers: `python -m andon.gates.measures.fuzz PACKAGE` runs atheris on each target for a bounded time.

A target is a module of the package with `one(data)`, which may raise nothing but its `REFUSALS`, and `PARSER`, by
module the names of the functions whose branches its inputs must cover. Committed seeds lie in
`<package>/seeds/<target>/`; with `--record`, an input that crashes a target is written there, for every later replay.
"""

import argparse
import importlib
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from andon.files import write_whole
from andon.gates.evidence import Evidence, Metric, digests, write_evidence

SECONDS = 900.0  # for all targets together
CORPUS = Path(".nox/fuzz")  # what fuzzing found worth keeping, between runs
GRACE = 60.0
ONE_INPUT_SECONDS, MEMORY_MB, LONGEST_BYTES = 10, 2048, 4096
FEEDBACK = re.compile(r"^#(\d+)\s+(\w+)\s+cov: (\d+)", re.MULTILINE)
EXECUTED = re.compile(r"^stat::number_of_executed_units:\s+(\d+)", re.MULTILINE)
BLIND = "no interesting inputs were found"  # libFuzzer's words for a target whose coverage never changes
# What libFuzzer counts of a target that is not instrumented: the harness's own edges, whatever the input is.
BLIND_EDGES = 2


class Run(NamedTuple):
    """What fuzzing one target for a while showed."""

    target: str
    executions: int
    seconds: float
    edges_at_seeds: int
    edges: int
    crashes: int
    said: str  # of the first crash, or why there is no result

    @property
    def blind(self) -> bool:
        """Whether nothing guided it: then it was not fuzzing."""
        return self.edges <= BLIND_EDGES


def main(arguments: Sequence[str]) -> int:
    """Fuzz every target, or `--replay` every committed seed; 0 where nothing crashed and all had feedback."""
    options = _options(arguments)
    package = importlib.import_module(options.package)
    folder = Path(os.path.relpath(next(iter(package.__path__))))
    targets = options.only or target_names(folder)
    if options.replay:
        return _replay(options, folder, targets)
    if find_spec("atheris") is None:
        print("not measured: atheris is not installed here (Linux only)")
        return 3
    start, measured = time.monotonic(), _digests(options.instrument, folder)
    runs = []
    for name in targets:
        seeds, corpus = folder / "seeds" / name, CORPUS / name
        share = options.seconds / len(targets)
        crashed = seeds if options.record else corpus  # what tier 3 measures must not change while it does
        runs.append(fuzz(f"{options.package}.{name}", (corpus, seeds), crashed, share, options.instrument))
        print(_line(runs[-1]), flush=True)
    if options.record:
        record(options.ledger, runs)
    ledger = read_ledger(options.ledger)
    metrics = run_metrics(runs, ledger)
    if options.branches:
        metrics |= branch_metrics(options.package, targets)
        for name in targets:
            print(f"{name}: {metrics[f'branches {name}'].value:.1f}% of the parser's branches")
    command = "python -m andon.gates.measures.fuzz " + " ".join(arguments)
    write_evidence(Evidence("fuzz", command, time.monotonic() - start, measured, metrics))
    return int(any(run.crashes or run.blind for run in runs))


def target_names(folder: Path) -> list[str]:
    """The package's modules that have a folder of seeds."""
    return sorted(
        module.name for module in pkgutil.iter_modules([str(folder)]) if (folder / "seeds" / module.name).is_dir()
    )


def fuzz(target: str, corpora: tuple[Path, Path], crashed: Path, seconds: float, instrument: Sequence[str]) -> Run:
    """Fuzz one target in a process of its own, and read what libFuzzer says.

    `corpora` are where new inputs go and where committed ones lie; one that crashes goes to `crashed`.
    """
    name = target.rpartition(".")[2]
    corpora[0].mkdir(parents=True, exist_ok=True)
    flags = [f"-max_total_time={max(1, round(seconds))}", f"-timeout={ONE_INPUT_SECONDS}", f"-rss_limit_mb={MEMORY_MB}"]
    flags += [f"-max_len={LONGEST_BYTES}", "-print_final_stats=1"]
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=_memory()) as scratch:
        command = [
            sys.executable,
            "-m",
            "andon.gates.measures.fuzz_target",
            target,
            ",".join(instrument),
            *map(str, corpora),
            *flags,
        ]
        process = subprocess.run(
            [*command, f"-artifact_prefix={scratch}/found-"],
            check=False,
            capture_output=True,
            env=os.environ | {"TMPDIR": scratch},
            timeout=seconds + GRACE,
            stdin=subprocess.DEVNULL,
        )
        found = [shutil.move(path, crashed / path.name) for path in Path(scratch).glob("found-*")]
    text = (process.stdout + process.stderr).decode(errors="replace")
    lines = FEEDBACK.findall(text)
    executed = EXECUTED.search(text)
    blind = BLIND in text
    failed = process.returncode != 0 and not blind
    return Run(
        target=name,
        executions=int(executed[1]) if executed else int(lines[-1][0]) if lines else 0,
        seconds=time.monotonic() - start,
        edges_at_seeds=next((int(edges) for _, kind, edges in lines if kind == "INITED"), 0),
        edges=0 if blind else max((int(edges) for _, _, edges in lines), default=0),
        crashes=max(len(found), int(failed)),
        said=" ".join([_complaint(text), *map(str, found)]) if failed else "",
    )


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """All runs on record; none where there is no record."""
    return json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []


def record(path: Path, runs: Sequence[Run]) -> None:
    """Add these runs to those on record."""
    rows = [
        {
            "target": run.target,
            "executions": run.executions,
            "seconds": round(run.seconds, 1),
            "edges_at_seeds": run.edges_at_seeds,
            "edges": run.edges,
            "crashes": run.crashes,
        }
        for run in runs
    ]
    lines = ",\n    ".join(json.dumps(row) for row in [*read_ledger(path), *rows])
    write_whole(path, f'{{\n  "runs": [\n    {lines}\n  ]\n}}\n')


def run_metrics(runs: Sequence[Run], ledger: Sequence[Mapping[str, Any]]) -> dict[str, Metric]:
    """What these runs showed, and executions summed over all runs on record."""
    sums = {run.target: sum(row["executions"] for row in ledger if row["target"] == run.target) for run in runs}
    metrics = {
        "targets": Metric(len(runs), "targets"),
        "crashes": Metric(sum(run.crashes for run in runs), "inputs"),
        "blind": Metric(sum(run.blind for run in runs), "targets without feedback"),
        "executions": Metric(sum(run.executions for run in runs), "executions"),
        "new_edges": Metric(sum(run.edges - run.edges_at_seeds for run in runs), "edges"),
        "least_executions_on_record": Metric(min(sums.values(), default=None), "executions"),
    }
    return metrics | {f"executions {name}": Metric(total, "executions") for name, total in sums.items()}


def branch_metrics(package: str, targets: Sequence[str]) -> dict[str, Metric]:
    """The share of its parser's branches that each target's committed seeds reach, and the least of them."""
    shares = {}
    for name in targets:
        parser = places(importlib.import_module(f"{package}.{name}").PARSER)
        with tempfile.TemporaryDirectory() as scratch:
            data = f"--data-file={scratch}/coverage"
            files = ",".join({place.partition(":")[0] for place in parser})
            tool = [sys.executable, "-m", "coverage"]
            replay = ["-m", "andon.gates.measures.fuzz", package, "--replay", "--only", name]
            options = [data, f"--rcfile={os.devnull}", f"--include={files}"]  # no settings of the project's own
            subprocess.run([*tool, "run", *options, "--branch", *replay], check=True, stdout=subprocess.DEVNULL)
            report = subprocess.run(
                [*tool, "json", *options, "-q", "-o", "-"], check=True, capture_output=True, text=True
            )
        shares[name] = branch_share(json.loads(report.stdout), parser)
    metrics = {f"branches {name}": Metric(share, "%") for name, share in shares.items()}
    return metrics | {"least_branches": Metric(min(shares.values(), default=None), "%")}


def places(parser: Mapping[ModuleType, Sequence[str]]) -> list[str]:
    """A target's functions as `path:function`, by the paths that coverage has for their modules."""
    paths = {module: os.path.relpath(os.path.realpath(module.__file__ or "")) for module in parser}
    return [f"{paths[module]}:{function}" for module, names in parser.items() for function in names]


def branch_share(report: Mapping[str, Any], parser: Sequence[str]) -> float:
    """Percent of the branches in these functions that `coverage json` saw taken.

    Raises:
        KeyError: a function that the report does not know.
    """
    taken = total = 0
    for place in parser:
        path, _, function = place.partition(":")
        summary = report["files"][path]["functions"][function]["summary"]
        taken, total = taken + summary["covered_branches"], total + summary["num_branches"]
    return 100 * taken / total


def _digests(packages: Sequence[str], folder: Path) -> dict[str, str]:
    """Of what is measured: the packages that give feedback, the targets with their seeds, and this file."""
    return digests([*(name.replace(".", "/") for name in packages), str(folder), os.path.relpath(__file__)])


def _replay(options: argparse.Namespace, folder: Path, targets: Sequence[str]) -> int:
    """Every seed once, in this process, which shows each crash and goes on; 0 where there is none, and no torch."""
    package, start, measured = options.package, time.monotonic(), _digests(options.instrument, folder)
    crashes: list[str] = []
    count, had_torch = 0, "torch" in sys.modules
    for name in targets:
        target = importlib.import_module(f"{package}.{name}")
        for path in sorted((folder / "seeds" / name).iterdir()):
            count += 1
            said = _outcome(target, path.read_bytes())
            crashes += [f"{path}: {said}"] if said else []
    heavy = "torch" in sys.modules and not had_torch
    for line in [*crashes, *["torch was imported, which costs each start a second and a half"] * heavy]:
        print(line)
    seconds = time.monotonic() - start
    print(f"{count} seeds of {len(targets)} targets in {seconds:.1f} s: {len(crashes)} crash")
    metrics = {"seeds": Metric(count, "inputs"), "crashes": Metric(len(crashes), "inputs")}
    if not options.only:
        write_evidence(
            Evidence("replay", f"python -m andon.gates.measures.fuzz {package} --replay", seconds, measured, metrics)
        )
    return int(bool(crashes) or heavy or not count)


def _outcome(target: ModuleType, data: bytes) -> str:
    """What a target raises beside its refusals; empty where nothing."""
    try:
        target.one(data)
    except target.REFUSALS:
        return ""
    except Exception as error:  # noqa: BLE001 - whatever else it raises is what is looked for
        return f"{type(error).__name__}: {error}"
    return ""


def _complaint(text: str) -> str:
    """The exception that ended a target, or the last words."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [
        line for line in lines if re.match(r"^(ERROR: libFuzzer|[\w.]*(Error|Exception|Interrupt|Warning)\b)", line)
    ]
    return (said or lines or ["nothing"])[0][:200]


def _line(run: Run) -> str:
    state = "CRASH" if run.crashes else "BLIND" if run.blind else "ok"
    rate = run.executions / run.seconds
    edges = f"{run.edges_at_seeds} edges by seeds, {run.edges} now"
    return f"{state:<6} {run.target:<11} {run.executions:>9,} executions, {rate:,.0f} a second, {edges}  {run.said}"


def _memory() -> str | None:
    """A folder in memory, where there is one: a target's files are written a million times."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a fresh folder inside it


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m andon.gates.measures.fuzz", description=main.__doc__)
    parser.add_argument("package", help="whose modules are targets")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all targets together")
    parser.add_argument("--only", nargs="+", default=[], metavar="TARGET", help="these targets alone")
    parser.add_argument("--replay", action="store_true", help="run every seed once, no more")
    parser.add_argument("--branches", action="store_true", help="measure the branches that the seeds reach, too")
    parser.add_argument("--record", action="store_true", help="add the runs to the ledger")
    parser.add_argument("--ledger", type=Path, default=Path("reports/baselines/fuzz.json"), help="the runs on record")
    parser.add_argument(
        "--instrument",
        nargs="+",
        default=["andon.core", "andon.tracing"],
        metavar="PACKAGE",
        help="packages whose branches guide it",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
