"""`andon dev mutation` on a small project of its own: what its tests hold is killed, what they do not is not."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner

from andon.gates.measures.mutation.generate import Mutant
from andon.gates.measures.mutation.plan import Excuse, read_plan
from andon.gates.measures.mutation.results import metrics
from andon.verify.faults.jobs import Outcome
from andon.workshop import mutants, run_tests
from andon.workshop.mutation import PARTS, ShardError, command, parsed, parts, summary

ROOT = Path(__file__).parents[2]
RISKS = """
[mutation]
per_function = 6
marks = "tier1"
test_seconds = 5.0
function_seconds = 20.0
limit_seconds = 6.0

[[levels]]
name = "ordinary"
lines = 90
branches = 80
why = "w"

[[modules]]
modules = ["sums.py"]
level = "ordinary"
why = "w"
mutation = 1
tests = ["test_sums.py"]
"""
SUMS = """def add(a: int, b: int) -> int:
    return a + b


def countdown(steps: int) -> int:
    done = 0
    while steps != 0:
        steps -= 1
        done += 1
    return done
"""
REAL = """import pytest, sums

@pytest.mark.tier1
def test_add():
    assert sums.add(2, 3) == 5

@pytest.mark.tier1
def test_countdown():
    assert sums.countdown(3) == 3
"""
STUB = REAL.replace("assert sums.add(2, 3) == 5", "sums.add(2, 3)").replace("assert sums.countdown(3) == 3", "pass")


def andon(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "andon", "dev", "mutation", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)


def score(folder: Path) -> dict[str, float]:
    """What the last run's evidence says."""
    metrics = json.loads((folder / "reports/evidence/mutants.json").read_text(encoding="utf-8"))["metrics"]
    return {key: metric["value"] for key, metric in metrics.items()}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two functions, and a test of each."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/risk.toml").write_text(RISKS, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    tier1\npythonpath = .\n", encoding="utf-8")
    (tmp_path / "sums.py").write_text(SUMS, encoding="utf-8")
    (tmp_path / "test_sums.py").write_text(REAL, encoding="utf-8")
    return tmp_path


@pytest.mark.long
def test_a_removed_test_lowers_the_score_without_a_new_look_at_the_rest(project: Path) -> None:
    """Behavior: all but what hangs is killed; answers hold; a test that is gone is a change, of its function alone."""
    first = andon(folder=project)
    assert first.returncode == 0, first.stdout + first.stderr
    whole = score(project)
    assert whole["survived"] == whole["untested"] == 0
    assert whole["late"] > 0  # steps += 1 never comes to an end
    assert whole["killed"] + whole["late"] == whole["mutants"]
    assert "0 run now" in andon(folder=project).stdout

    (project / "test_sums.py").write_text(REAL.partition("@pytest.mark.tier1\ndef test_countdown")[0], encoding="utf-8")
    second = andon(folder=project)
    after = score(project)
    assert after["score"] < whole["score"]
    assert after["untested"] > 0
    assert "countdown" in second.stdout
    assert " 0 from earlier runs" not in second.stdout


@pytest.mark.long
def test_what_an_interruption_left_is_not_run_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: results are kept on the way, and the next run tests only what has no result there."""
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(project)
    monkeypatch.setattr(mutants, "KEEP_SECONDS", 0.0)
    left: list[Any] = []

    def interrupted(results: Any) -> None:
        left.append(results)
        if len(left) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mutants.measure(read_plan(), {}, workers=1, keep=interrupted)
    rest = mutants.measure(read_plan(), left[-1], workers=1)
    assert rest.fresh > 0
    assert rest.fresh + 2 == sum(len(each.rows) for each in rest.results["sums.py"].functions.values())


@pytest.mark.long
def test_a_suite_that_asserts_nothing_kills_nothing(project: Path) -> None:
    """Behavior: tests that run the code and look at nothing kill only what raises."""
    (project / "sums.py").write_text("def add(a: int, b: int) -> int:\n    return a + b\n", encoding="utf-8")
    (project / "test_sums.py").write_text(STUB, encoding="utf-8")
    result = andon(folder=project)
    assert score(project)["score"] == 0, result.stdout
    assert "-    return a + b\n    +    return a - b" in result.stdout


@pytest.mark.long
def test_shards_joined_are_the_whole(project: Path) -> None:
    """Behavior: parts of two shards make what one run makes; one part alone is refused."""
    (project / "sums.py").write_text("def add(a: int, b: int) -> int:\n    return abs(a + b) + 0\n", encoding="utf-8")
    (project / "test_sums.py").write_text(REAL.partition("@pytest.mark.tier1\ndef test_count")[0], encoding="utf-8")
    andon("--all", "--shard", "1/2", folder=project)
    alone = andon("--merge", folder=project)
    assert alone.returncode == 2
    assert "shards 2/2 are missing" in alone.stderr
    andon("--all", "--shard", "2/2", folder=project)
    assert andon("--merge", folder=project).returncode == 0
    joined = score(project)
    andon("--all", folder=project)
    assert {**joined, "fresh": 0} == {**score(project), "fresh": 0}
    assert joined["mutants"] > 1


@pytest.mark.long
def test_tests_that_are_red_already_are_not_a_measure(project: Path) -> None:
    """Behavior: exit 2 and the name of the red test, as every mutant would count as killed."""
    (project / "test_sums.py").write_text(REAL.replace("== 5", "== 6"), encoding="utf-8")
    result = andon(folder=project)
    assert result.returncode == 2
    assert "without any mutant (test_sums.py::test_add)" in result.stderr


@pytest.mark.tier2
def test_parts_of_another_run_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: none at all, those of two runs, and one that was measured on other files; the next step is said."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ShardError, match=r"holds shards of 0 runs; .* run --shard 1/N first"):
        parts({})
    PARTS.mkdir(parents=True)
    (PARTS / "1-of-1.json").write_text('{"sources": {"a.py": "1"}}')
    with pytest.raises(ShardError, match=r"1-of-1\.json was measured on other files; run its shard again"):
        parts({"a.py": "2"})
    (PARTS / "1-of-2.json").touch()
    with pytest.raises(ShardError, match="holds shards of 2 runs; delete all but one run's"):
        parts({"a.py": "1"})


@pytest.mark.tier2
def test_an_excuse_for_what_is_gone_is_to_be_deleted() -> None:
    """Behavior: a mutant that is excused and not there is counted, with what to do; a hashed one is not."""
    answers = mutants.Answers({}, 0, 0, 0)
    excuses = {"m": Excuse(id="m", function="a.py::f", reason="no input tells them apart")}
    told = summary(answers, metrics({}, excuses), excuses, quiet=True)
    assert "1 excuses name a mutant that is gone or killed" in told
    assert "excuses name" not in summary(answers, metrics({}, {}), {}, quiet=True)


@pytest.mark.tier2
def test_a_sample_of_no_seconds_is_refused() -> None:
    """Behavior: it would measure nothing, and must not pass for a whole run, which rewrites the baseline."""
    done = CliRunner().invoke(command, ["--sample", "0"])
    assert (2, True) == (done.exit_code, "--sample" in done.output)


@pytest.mark.tier2
def test_without_git_a_sample_is_drawn_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: where git is not installed the order is that of no commit, and there is no traceback."""
    monkeypatch.setenv("PATH", "")
    mutants.commit.cache_clear()
    assert "" == mutants.commit()
    mutants.commit.cache_clear()


@pytest.mark.tier2
def test_a_file_is_imported_by_the_link_that_a_package_has_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behavior: a mutant goes into the module that tests import, be its folder linked into a package or not."""
    monkeypatch.chdir(tmp_path)
    for folder in ("app", "core", "other"):
        (tmp_path / folder).mkdir()
    (tmp_path / "app" / "core").symlink_to("../core")
    (tmp_path / "core" / "a.py").write_text("x = 1\n")
    mutant = Mutant("m", "core/a.py", "<module>", "o", 1, "-x = 1\n+x = 2\n", "x = 2\n")
    assert ("app.core.a", "x = 1\n", "x = 2\n") == mutants.fault(mutant)[5:8]
    assert Path("other/a.py") == run_tests.import_path("other/a.py")


@pytest.mark.tier3
@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b"])
def test_a_shard_that_cannot_be_is_refused(shard: str) -> None:
    """Behavior: the message says how to write one."""
    with pytest.raises(ShardError, match="I from 1 to N"):
        parsed(shard)


@pytest.mark.tier2
@pytest.mark.parametrize(
    ("outcome", "state", "by"),
    [
        (Outcome(0, None, "killed: longer than 6 s", 6.0, "timed out"), "late", "killed: longer than 6 s"),
        (Outcome(0, None, "exited with -11", 1.0, "died"), "killed", "exited with -11"),
        (Outcome(0, None, "TestRunError: pytest exits with 3", 1.0), "error", "TestRunError: pytest exits with 3"),
        (Outcome(0, "test_sums.py::test_add", "", 1.0), "killed", "test_sums.py::test_add"),
        (Outcome(0, "", "", 1.0), "survived", ""),
    ],
    ids=["late", "died", "no answer", "red", "green"],
)
def test_what_became_of_a_mutant(outcome: Outcome, state: str, by: str) -> None:
    """Behavior: a hang has noticed nothing, a crash is loud; whoever lives keeps its diff."""
    job: Any = SimpleNamespace(mutant=SimpleNamespace(diff="-a\n+b"))
    assert (state, by, "" if state == "killed" else "-a\n+b") == mutants.verdict(job, outcome)


@pytest.mark.tier2
def test_a_sample_is_the_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: the same functions in the same order for the same commit, others for another; about one of eight."""
    jobs: list[Any] = [SimpleNamespace(mutant=SimpleNamespace(id=str(number))) for number in range(400)]

    def drawn(commit: str) -> tuple[list[Any], list[str]]:
        monkeypatch.setattr(mutants, "commit", lambda: commit)
        names = [job.mutant.id for job in jobs]
        return mutants.shuffled(jobs), [name for name in names if mutants.is_sampled("a.py", name)]

    (order, some), (again, same), (other, others) = drawn("a"), drawn("a"), drawn("b")
    assert (order, some) == (again, same)
    assert order != other
    assert some != others
    assert 20 < len(some) < 90


@pytest.mark.tier2
@pytest.mark.parametrize("scope", ["module", "function"])
def test_what_a_shared_fixture_runs_is_run_by_all_tests_of_its_file(scope: str) -> None:
    """Behavior: functions that a fixture for several tests calls belong to the file, and to the test that made it."""
    watcher = run_tests._Watcher("sums.py")
    watcher.seen = {"before"}
    node = SimpleNamespace(nodeid="test_sums.py::test_add")
    fixture: Any = SimpleNamespace(scope=scope)
    request: Any = SimpleNamespace(node=node)
    around = watcher.pytest_fixture_setup(fixture, request)
    next(around)
    for file, event in (("sums.py", "call"), ("other.py", "call"), ("sums.py", "return")):
        code = SimpleNamespace(co_filename=file, co_qualname=f"{file} {event}.<locals>.inner")
        watcher._note(cast("Any", SimpleNamespace(f_code=code)), event, None)
    assert [] == list(around)
    assert {"before", "sums.py call"} == watcher.seen
    assert ({"test_sums.py": {"sums.py call"}} if scope == "module" else {}) == watcher.shared


@pytest.mark.tier2
@pytest.mark.parametrize(("code", "red", "said"), [(0, "", ""), (1, "test_a", "test_a"), (2, "", "import")])
def test_who_killed_a_mutant(monkeypatch: pytest.MonkeyPatch, code: int, red: str, said: str) -> None:
    """Behavior: the first red test, the import where no test could be loaded, nobody where all are green."""

    def run(_arguments: list[str], watcher: Any) -> int:
        watcher.red = red
        return code

    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    monkeypatch.setattr(run_tests, "_pytest", run)
    assert said == run_tests.killer(None, ["test_sums.py"])


@pytest.mark.tier2
def test_pytest_that_gives_no_answer_kills_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: an internal error of pytest is not a red test."""
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    monkeypatch.setattr(run_tests, "_pytest", lambda *_: 3)
    with pytest.raises(run_tests.TestRunError, match="pytest exits with 3"):
        run_tests.killer(None, ["test_sums.py"])
