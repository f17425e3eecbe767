"""Run tests while the code that they test does nothing, in a process of their own."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from andon.gates.measures.vacuous import stubs
from andon.gates.measures.vacuous.finding import Finding


class Stubbed(NamedTuple):
    """How many tests failed, which did not, how many fail by exceptions alone, and how many say nothing."""

    noticed: int
    silent: int
    not_run: int
    findings: list[Finding]


class RunError(RuntimeError):
    """Tests that could not be run at all; the message is the end of what pytest printed."""


def run_stubbed(arguments: Sequence[str]) -> Stubbed:
    """Run pytest with these arguments, each test with its modules stubbed.

    Raises:
        RunError: no test gave an answer.
    """
    with tempfile.TemporaryDirectory(prefix="andon-vacuous-") as folder:
        output = Path(folder) / "answers.jsonl"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", stubs.__name__,
                   "-o", "enable_assertion_pass_hook=true", "--tb=no", "-rN", *arguments]  # fmt: skip
        # What pytest compiled before, it compiled without the hook that counts assertions.
        environment = os.environ | {stubs.OUTPUT: str(output), "PYTHONPYCACHEPREFIX": str(Path(folder) / "compiled")}
        code, said = _run(command, environment, Path(folder) / "said")
        if code not in (0, 1) or not output.exists():  # 1: tests failed, as they should
            raise RunError(f"pytest ended with {code}: {said[-2000:]}")
        answers = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    return sort_answers(answers)


def _run(command: Sequence[str], environment: Mapping[str, str], log: Path) -> tuple[int, str]:
    """Exit code and output; what tests left running, as their code could not end it, is killed."""
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment, start_new_session=True)
        try:
            code = process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):  # nothing is left
                os.killpg(process.pid, signal.SIGKILL)
    return code, log.read_text(encoding="utf-8", errors="replace")


def sort_answers(answers: Sequence[dict[str, Any]]) -> Stubbed:
    """What the tests' answers say of them; those that called none of the code's functions count as not run."""
    noticed = [answer for answer in answers if answer["outcome"] == "failed"]
    others = [answer for answer in answers if answer["outcome"] == "passed"]
    silent = [answer for answer in others if answer["calls"] and not answer["asserted"]]
    passed = [answer for answer in others if answer["calls"] and answer["asserted"]]
    findings = [_finding(answer) for answer in passed]
    return Stubbed(len(noticed), len(silent), len(answers) - len(noticed) - len(silent) - len(passed), findings)


def _finding(answer: dict[str, Any]) -> Finding:
    path, _, test = answer["test"].partition("::")
    why = (
        f"passes with its module's functions returning None ({answer['calls']} calls, {answer['asserted']} assertions)"
    )
    return Finding(path, answer["line"], test, "stubbed", why)


def sample(tests: Sequence[str], count: int, seed: str) -> list[str]:
    """So many tests, chosen by a text: the same for the same text, others for another."""
    return sorted(tests, key=lambda test: hashlib.sha256(f"{seed} {test}".encode()).hexdigest())[:count]


def collect(arguments: Sequence[str]) -> list[str]:
    """The tests that pytest would run.

    Raises:
        RunError: it could not collect.
    """
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RunError((done.stdout + done.stderr)[-2000:])
    return [line for line in done.stdout.splitlines() if "::" in line]
