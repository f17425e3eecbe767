"""The list of releases: whole, pinned, and compared without a false word."""

from pathlib import Path
from typing import Any

import pytest

from tests.known_bugs import subjects
from tests.known_bugs.__main__ import line, row
from tests.known_bugs.compare import Answer, Result, as_json, from_json, read
from tests.known_bugs.releases import InstallError, Release, releases, sharded


def release(**changes: Any) -> Release:
    """A release of the list, with some fields changed."""
    return releases()[0]._replace(**changes)


def answer(**findings: str) -> Answer:
    """An answer with these findings."""
    return Answer("1.0", {name.replace("_", "."): text for name, text in findings.items()}, {}, 9, 1.0)


@pytest.mark.tier2
def test_every_release_is_listed_once_pinned_and_has_its_subject() -> None:
    """Behavior: ids are unique, each version is pinned, subjects exist, and a living bug says what shows it."""
    listed = releases()
    assert len(listed) == len({each.id for each in listed}) == 21
    for each in listed:
        assert f"{each.package}=={each.wrong}" == each.pins["wrong"][0]
        assert [f"{each.package}=={each.right}"] * bool(each.right) == [*each.pins["right"][:1]]
        assert callable(getattr(subjects, each.subject)), each.id
        assert each.shows or each.right, each.id
        assert each.source.startswith("https://github.com/"), each.id
        for pins in each.pins.values():
            packages = [pin.split("==") for pin in pins]
            assert len(packages) == len({package for package, _ in packages}), each.id


@pytest.mark.tier2
def test_shards_are_all_of_it_once() -> None:
    """Behavior: the shards of any number are the list, each release in one; a wrong shard is refused."""
    listed = releases()
    for count in (1, 2, 5):
        shards = [sharded(listed, f"{number}/{count}") for number in range(1, count + 1)]
        assert sorted(each.id for shard in shards for each in shard) == sorted(each.id for each in listed)
    for wrong in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(ValueError, match="write i/n"):
            sharded(listed, wrong)


@pytest.mark.tier2
def test_a_bug_is_what_the_other_release_does_not_show() -> None:
    """Behavior: a finding counts where the right release was checked and is clean; the rest is reported."""
    both = Result("a", answer(loss_scale="2", norms_unit="3"), answer(norms_unit="3"))
    assert {"loss.scale": "2"} == both.found(release())
    assert {} == both.found(release(shows=("loss.precision", "norms.unit")))
    assert {"norms.unit": "3"} == both.others(release())
    unchecked = answer()._replace(mistakes={"loss.scale": "raised"})
    assert {} == Result("a", answer(loss_scale="2"), unchecked).found(release())
    assert "NOT FOUND" in line(release(), Result("a", answer(), answer()))
    assert both == from_json(as_json(both))
    assert {"loss.scale": "2"} == row(release(), both)["found"]


@pytest.mark.tier2
def test_a_living_bug_is_what_the_list_says_of_it() -> None:
    """Behavior: without a right release only the findings on the list are the bug; others stand beside it."""
    alive, result = release(right="", shows=("loss.scale",)), Result("a", answer(loss_scale="2", norms_unit="3"), None)
    assert {"loss.scale": "2"} == result.found(alive)
    assert {"norms.unit": "3"} == result.others(alive)


@pytest.mark.tier2
def test_an_answer_without_a_verdict_is_none() -> None:
    """Behavior: a subject that could not run is not measured, which is not a pass."""
    finding = {"check": "subject", "message": "no module peft", "mistake": True}
    with pytest.raises(InstallError, match="no module peft"):
        read("1.0", [{"subject": "a", "findings": [finding], "passed": []}], 1.0)
    reports = [{"subject": name, "findings": [], "passed": ["loss.scale"]} for name in ("a", "b")]
    assert 2 == read("1.0", reports, 1.0).checked


@pytest.mark.tier2
def test_nothing_that_is_ours_knows_a_case() -> None:
    """Behavior: no check and no ready-made subject names a release of the list, or its bug."""
    text = "".join(file.read_text(encoding="utf-8") for file in Path("verify").rglob("*.py"))
    for each in releases():
        assert each.id not in text
        assert f"{each.package}=={each.wrong}" not in text
