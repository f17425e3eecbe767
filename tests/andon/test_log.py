"""A run's log, read back."""

import json
from pathlib import Path

import pytest

from andon.log import LogError, of_kind, read_log

pytestmark = pytest.mark.tier1

RECORDS = [{"kind": "step", "step": 1, "loss": 3.0}, {"kind": "validation", "step": 1, "loss": 2.0}]


def test_records_come_back_in_order(tmp_path: Path) -> None:
    """Behavior: records come back as written, by kind where asked for; a torn last line is left out."""
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS)
    (tmp_path / "log.jsonl").write_text(lines + '{"kind": "st')
    assert RECORDS == read_log(tmp_path)
    assert [RECORDS[1]] == of_kind(read_log(tmp_path), "validation")


@pytest.mark.parametrize("bad", ["{", "[]", "{}", '{"kind":"step"}'])
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, bad: str) -> None:
    """Behavior: a line that is not a record, before the last, is an error that names file and line."""
    (tmp_path / "log.jsonl").write_text(json.dumps(RECORDS[0]) + f"\n{bad}\n")
    with pytest.raises(LogError, match=r"log\.jsonl line 2 is not a record"):
        read_log(tmp_path)


def test_a_folder_without_log_is_refused(tmp_path: Path) -> None:
    """Behavior: a folder that is not a run's is refused by name."""
    with pytest.raises(LogError, match="is not a run's folder"):
        read_log(tmp_path)
