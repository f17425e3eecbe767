"""Fault injection: a fault goes into one process's copy of one module, or is an error that says why not."""

import multiprocessing
from pathlib import Path

import pytest

from andon.verify.faults.inject import Fault, InjectionError, patched
from andon.verify.faults.jobs import Outcome, run_jobs
from tests.verify import jobs

SOURCE = '"""Module."""\n\nfrom package.constants import KEY\n\n\ndef answer():\n    return KEY + 1\n'
FAULT = Fault("off-by-one", "area", "pattern", "", "nothing is seen", "package.module", "KEY + 1", "KEY + 2")


@pytest.mark.tier1
def test_one_stretch_of_source_is_replaced() -> None:
    """Behavior: the fault's text stands where the old stood, and nothing else differs."""
    assert SOURCE.replace("+ 1", "+ 2") == patched(FAULT, SOURCE)


@pytest.mark.tier1
@pytest.mark.parametrize(("before", "count"), [("KEY + 3", 0), ("KEY", 2)])
def test_a_fault_whose_text_has_moved_on_is_an_error(before: str, count: int) -> None:
    """Behavior: text that stands nowhere, or more than once, is refused with fault, module and count."""
    with pytest.raises(InjectionError, match=f"off-by-one no longer applies.*{count} times in package.module"):
        patched(FAULT._replace(before=before), SOURCE)


@pytest.mark.tier1
def test_a_named_definition_is_changed_by_syntax() -> None:
    """Behavior: where a fault names a definition, neither spaces nor what stands outside of it matter."""
    fault = FAULT._replace(where="package:answer", before="KEY  +  1", after="KEY + 2")
    assert SOURCE.replace("KEY + 1", "(KEY + 2)") == patched(fault, SOURCE)
    with pytest.raises(InjectionError, match=r"off-by-one no longer applies.*0 times in answer"):
        patched(fault, SOURCE.replace("+ 1", "- 1") + "\n\ndef other():\n    return KEY + 1\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of two modules that can be imported."""
    folder = tmp_path
    monkeypatch.syspath_prepend(folder)
    (folder / "package").mkdir()
    (folder / "namespace").mkdir()
    (folder / "package" / "__init__.py").touch()
    (folder / "package" / "constants.py").write_text("KEY = 40\n", encoding="utf-8")
    (folder / "package" / "module.py").write_text(SOURCE, encoding="utf-8")
    return folder


def outcomes(*work: tuple[Fault | None, str], limit: float = 60.0) -> list[Outcome]:
    """What becomes of jobs, in their order."""
    return sorted(run_jobs(work, jobs.answer, limit=limit, warm=["torch"]))


@pytest.mark.long
def test_each_fault_is_alone_in_its_process(folder: Path) -> None:
    """Behavior: jobs side by side see their own fault only, and the files stay as they are."""
    elsewhere = FAULT._replace(id="key", where="package:KEY", before="40", after="50")
    found = outcomes((None, "answer"), (FAULT, "answer"), (elsewhere, "answer"), (None, "answer"))
    assert [(41, ""), (42, ""), (51, ""), (41, "")] == [(each.value, each.error) for each in found]
    assert SOURCE == (folder / "package" / "module.py").read_text(encoding="utf-8")


@pytest.mark.long
def test_a_job_ends_in_its_own_time(folder: Path) -> None:
    """Behavior: what a job's process does as it ends is done before its outcome is told; others are ended by hand."""
    left = folder / "left"
    assert [(41, True)] == [(found.value, left.exists()) for found in run_jobs([(None, f"leave {left}")], jobs.answer)]
    before = set(multiprocessing.active_children())
    running = run_jobs([(None, "hang"), (None, "answer")], jobs.answer)
    assert 41 == next(running).value
    hanging = set(multiprocessing.active_children()) - before
    running.close()
    for process in hanging:
        process.join()
    assert [-9] == [process.exitcode for process in hanging]


@pytest.mark.long
@pytest.mark.usefixtures("folder")
def test_a_job_that_fails_is_an_error_of_its_own_line() -> None:
    """Behavior: a death, a hang, an exception and a fault that does not apply are told apart, and the rest goes on."""
    moved = FAULT._replace(before="KEY + 3")
    found = outcomes(
        (None, "die"), (None, "hang"), (None, "raise"), (moved, "answer"), (None, "twice"), (None, "answer"),
        *(
            (FAULT._replace(where=name), "answer")
            for name in ("package.absent", "absent.module", "namespace", "package:question")
        ),
        limit=10.0,
    )  # fmt: skip
    assert [None] * 5 + [41, None, None, None, None] == [each.value for each in found]
    for outcome, said in zip(
        found,
        ["died: exit code 7", "longer than 10 s", "ValueError: as planned", "no longer applies", "imported already", "",
         "there is no module package.absent", "there is no module absent.module", "namespace has no Python source",
         "no module of package define question"],
        strict=True,
    ):  # fmt: skip
        assert said in outcome.error
