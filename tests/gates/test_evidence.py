"""Evidence: what is written is what is read, and an edit makes it stale."""

import json
import math
from pathlib import Path

import pytest

from andon.gates.evidence import (
    Evidence,
    EvidenceError,
    Metric,
    changed_sources,
    digest,
    digests,
    read_evidence,
    seal_evidence,
    write_evidence,
)
from andon.sealing import seal, unseal

pytestmark = pytest.mark.tier1


def evidence_of(sources: dict[str, str], **metrics: float | None) -> Evidence:
    """Evidence named "probe" with the metrics given."""
    return Evidence("probe", "make probe", 1.5, sources, {name: Metric(value, "%") for name, value in metrics.items()})


def test_reads_what_was_written(tmp_path: Path) -> None:
    """Behavior: evidence survives the file, nulls included."""
    written = evidence_of({"core": "ab"}, lines=97.5, branches=None)
    write_evidence(written, tmp_path)
    assert written == read_evidence("probe", tmp_path)
    assert [tmp_path / "probe.json"] == list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_a_value_that_is_not_a_number_is_null(tmp_path: Path, value: float) -> None:
    """Behavior: NaN and infinity are "not measured" and never compare."""
    write_evidence(evidence_of({}, lines=value), tmp_path)
    assert read_evidence("probe", tmp_path).metrics["lines"].value is None


WHOLE = '{"name": "%s", "command": "", "seconds": 1, "sources": {}, "metrics": {"lines": {"value": %s, "unit": ""}}}'
TORN = {
    "empty": "",
    "list": "[]",
    "nothing": "{}",
    "torn": '{"name": "probe"',
    "text": WHOLE % ("probe", '"97"'),
    "truth": WHOLE % ("probe", "true"),
    "nan": WHOLE % ("probe", "NaN"),
    "another": WHOLE % ("other", "97"),
}


@pytest.mark.parametrize("content", TORN.values(), ids=TORN)
def test_torn_or_foreign_evidence_is_refused(tmp_path: Path, content: str) -> None:
    """Behavior: a file that is not evidence of that name is refused by its name."""
    (tmp_path / "probe.json").write_text(content)
    with pytest.raises(EvidenceError, match=r"probe\.json"):
        read_evidence("probe", tmp_path)
    seal_evidence("probe", tmp_path)
    assert content == (tmp_path / "probe.json").read_text()


@pytest.mark.parametrize("content", [WHOLE % each for each in (("probe", '"97"'), ("probe", "true"), ("other", "97"))])
def test_a_seal_makes_no_evidence_of_what_is_none(tmp_path: Path, content: str) -> None:
    """Behavior: text, truth values and another name's evidence are refused though their seal fits."""
    (tmp_path / "probe.json").write_bytes(seal(json.loads(content)))
    with pytest.raises(EvidenceError, match=r"probe\.json"):
        read_evidence("probe", tmp_path)


def test_an_interrupted_write_leaves_the_old_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: evidence is replaced whole; what cannot be written leaves what was there."""
    write_evidence(evidence_of({}, lines=1.0), tmp_path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_evidence(evidence_of({}, lines=2.0), tmp_path)
    assert Metric(1.0, "%") == read_evidence("probe", tmp_path).metrics["lines"]
    assert [tmp_path / "probe.json"] == list(tmp_path.iterdir())


def test_evidence_holds_until_a_source_changes(tmp_path: Path) -> None:
    """Behavior: editing, adding, renaming and deleting make it stale; hidden files and caches do not."""
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a.py").write_text("a = 1\n")
    held = evidence_of(digests([str(folder)]))

    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").write_text("x")
    (folder / ".cache").write_text("x")
    assert [] == changed_sources(held)

    seen = {digest(folder)}
    (folder / "inner" / "a.py").write_text("a = 2\n")
    seen.add(digest(folder))
    (folder / "b.py").write_text("")
    seen.add(digest(folder))
    (folder / "b.py").rename(folder / "c.py")
    seen.add(digest(folder))
    assert 4 == len(seen)
    assert [str(folder)] == changed_sources(held)


def test_a_source_that_vanished_is_a_change(tmp_path: Path) -> None:
    """Behavior: a deleted file makes evidence stale, as it cannot be what was measured."""
    source = tmp_path / "a.py"
    source.write_text("")
    held = evidence_of(digests([str(source)]))
    source.unlink()
    assert [str(source)] == changed_sources(held)
    assert "absent" == digest(source)


def test_the_file_has_the_documented_keys(tmp_path: Path) -> None:
    """Behavior: the format is what another tool would write by hand."""
    path = write_evidence(evidence_of({"core": "ab"}, lines=97.5), tmp_path)
    expected = {
        "name": "probe",
        "command": "make probe",
        "seconds": 1.5,
        "sources": {"core": "ab"},
        "metrics": {"lines": {"value": 97.5, "unit": "%"}},
    }
    assert expected == unseal(path.read_bytes())
    path.write_text(json.dumps(expected))
    with pytest.raises(EvidenceError, match="does not match its own SHA-256"):
        read_evidence("probe", tmp_path)
    seal_evidence("probe", tmp_path)  # as the runner does once the measure has ended
    assert {"lines": Metric(97.5, "%")} == read_evidence("probe", tmp_path).metrics


def test_evidence_lies_where_it_is_asked_for_a_value_a_line(tmp_path: Path) -> None:
    """Behavior: folders are made, and a diff shows the value that changed."""
    path = write_evidence(evidence_of({}, lines=97.5), tmp_path / "new" / "folder")
    assert path.parent == tmp_path / "new" / "folder"
    assert path.read_text().startswith('{\n  "name": "probe",\n  "command": "make probe",\n')
