"""Prove contracts: `python -m andon.gates.measures.symbolic PACKAGE` runs CrossHair on each, and on a mutant of it.

A contract is a function that calls the code run time calls: the assertions it begins with say what holds before, the
later ones what must hold after. CrossHair exits 0 for what it could not prove, so its verdicts are counted here. A
contract counts as confirmed only where its mutant is refuted by the same command.
"""

import argparse
import importlib
import inspect
import multiprocessing
import pkgutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from multiprocessing.connection import Connection
from types import FunctionType, ModuleType
from typing import Literal, NamedTuple

from andon.gates.evidence import Evidence, Metric, digests, write_evidence

SECONDS = 30.0  # in which one contract is proved
GRACE = 15.0  # beyond that, until its process is given up
State = Literal["confirmed", "unproved", "vacuous", "refuted"]
# By CrossHair's own names; the others are counterexamples: an assertion that fails, or what the code raises.
STATES: dict[str, State] = {
    "CONFIRMED": "confirmed",
    "CANNOT_CONFIRM": "unproved",
    "SYNTAX_ERR": "unproved",
    "IMPORT_ERR": "unproved",
    "PRE_UNSAT": "vacuous",
}


class Contract(NamedTuple):
    """What must hold of code in `module`, and a mutant of that code of which it must not."""

    holds: FunctionType
    module: ModuleType  # through which `holds` calls, so that the mutant takes effect
    before: str  # occurs exactly once in the module's source
    after: str

    @property
    def name(self) -> str:
        """Module and function, as an error names them."""
        return f"{self.holds.__module__}.{self.holds.__name__}"


class Found(NamedTuple):
    """What CrossHair says of a contract and of its mutant, each with its words."""

    name: str
    state: State
    words: str
    mutant: State
    seconds: float

    @property
    def judged(self) -> State:
        """A contract that holds of its mutant, too, says nothing."""
        return "vacuous" if self.state == self.mutant == "confirmed" else self.state


def main(arguments: Sequence[str]) -> int:
    """Prove the contracts; 0 where nothing is refuted, vacuous or without proof."""
    options = _options(arguments)
    if find_spec("crosshair") is None:
        print("not measured: crosshair-tool is not installed here")
        return 3
    importlib.import_module("crosshair.core_and_libs")  # once, and not in each process
    start = time.monotonic()
    measured = digests([*options.sources, options.package.replace(".", "/")])
    contracts = collect(options.package, options.only)
    found: list[Found] = []
    for contract in contracts:
        found.append(prove(contract, options.each))
        print(_line(found[-1]), flush=True)
    counts = Counter(each.judged for each in found)
    unrefuted = sum(each.mutant != "refuted" for each in found)
    metrics = {state: Metric(counts[state], "contracts") for state in ("confirmed", "unproved", "vacuous", "refuted")}
    metrics |= {
        "contracts": Metric(len(contracts), "contracts"),
        "mutants_unrefuted": Metric(unrefuted, "mutants"),
        "unconfirmed": Metric(len(found) - counts["confirmed"], "contracts"),
    }
    command = "python -m andon.gates.measures.symbolic " + " ".join(arguments)
    write_evidence(Evidence("symbolic", command, time.monotonic() - start, measured, metrics))
    print(
        f"{len(found)} contracts: {counts['confirmed']} confirmed, {counts['unproved']} unproved, "
        f"{counts['vacuous']} vacuous, {counts['refuted']} refuted; {len(found) - unrefuted} mutants refuted"
    )
    return int(not found or counts["confirmed"] < len(found) or unrefuted > 0)


def collect(package: str, only: Sequence[str] = ()) -> list[Contract]:
    """The `CONTRACTS` of a package's modules; `only` keeps those whose name holds one of these words."""
    folder = importlib.import_module(package).__path__
    names = sorted(module.name for module in pkgutil.iter_modules(folder) if not module.name.startswith("test_"))
    tables = [importlib.import_module(f"{package}.{name}").CONTRACTS for name in names]
    return [
        contract for table in tables for contract in table if not only or any(word in contract.name for word in only)
    ]


def prove(contract: Contract, seconds: float = SECONDS) -> Found:
    """Run CrossHair on a contract, and on the same contract of the mutant."""
    start = time.monotonic()
    state, words = _apart(contract, seconds, mutated=False)
    mutant, _ = _apart(contract, seconds, mutated=True)
    return Found(contract.name, state, words, mutant, time.monotonic() - start)


def mutate(contract: Contract) -> None:
    """From here on this process runs the mutant: for a process that ends after this one proof.

    Raises:
        ValueError: `before` does not occur exactly once in the module's source.
    """
    source = inspect.getsource(contract.module)
    if source.count(contract.before) != 1:
        raise ValueError(
            f"{contract.name}: {contract.before!r} occurs {source.count(contract.before)} times in "
            f"{contract.module.__name__}, and must occur once; copy it from the source as it is now"
        )
    code = compile(source.replace(contract.before, contract.after), f"<mutant of {contract.name}>", "exec")
    exec(code, contract.module.__dict__)  # noqa: S102 - the module's own source, but for the mutation


def _apart(contract: Contract, seconds: float, *, mutated: bool) -> tuple[State, str]:
    """In a process of its own, which a mutant may spoil or never leave."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, contract, seconds, mutated), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds + GRACE):
            return "unproved", f"no answer in {seconds + GRACE:g} s"
        answer = ours.recv()
    except EOFError:
        return "unproved", "its process died"
    else:
        process.join(GRACE)  # so that what measures it can write down what it saw
        return answer
    finally:
        process.kill()
        process.join()
        ours.close()


def _answer(connection: Connection, contract: Contract, seconds: float, mutated: bool) -> None:
    if mutated:
        mutate(contract)
    connection.send(_verdict(contract.holds, seconds))


def _verdict(holds: Callable[..., None], seconds: float) -> tuple[State, str]:
    """CrossHair's verdict: the worst of its messages, as it has one for each assertion."""
    from crosshair.core_and_libs import analyze_function, run_checkables  # late: a development tool
    from crosshair.options import AnalysisKind, AnalysisOptionSet

    options = AnalysisOptionSet(
        analysis_kind=[AnalysisKind.asserts],
        report_all=True,
        per_condition_timeout=seconds,
        per_path_timeout=seconds / 2,
    )
    messages = run_checkables(analyze_function(holds, options))
    return worst((each.state.name, each.message) for each in messages)


def worst(said: Iterable[tuple[str, str]]) -> tuple[State, str]:
    """Of states, by CrossHair's names, and words the worst; none at all says nothing."""
    found: dict[State, str] = {STATES.get(name, "refuted"): words for name, words in said}
    for state in ("refuted", "vacuous", "unproved", "confirmed"):
        if state in found:
            return state, found[state]
    return "vacuous", "CrossHair found no assertion in it"


def _line(found: Found) -> str:
    good = found.judged == "confirmed" and found.mutant == "refuted"
    why = "" if good else f"  (it: {found.words or found.state}; its mutant: {found.mutant})"
    return f"{found.judged:<10} {found.name}{why}  {found.seconds:.1f} s"


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m andon.gates.measures.symbolic", description=main.__doc__)
    parser.add_argument("package", help="whose modules hold a table CONTRACTS each")
    parser.add_argument("--each", type=float, default=SECONDS, help="seconds for one proof")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="contracts with one of these in their name"
    )
    parser.add_argument(
        "--sources", nargs="+", default=["core", "gates/measures/symbolic.py"], help="what the proofs are about"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
