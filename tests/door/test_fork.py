"""What a copy of the process does with files that are open."""

from pathlib import Path

import pytest

from andon.door.fork import Fork

pytestmark = pytest.mark.tier2


def test_open_files_are_read_apart_and_written_by_the_script_alone(tmp_path: Path) -> None:
    """Behavior: a child reads on from where the script is, which reads on as if it were alone; it writes nothing."""
    (tmp_path / "rows").write_bytes(b"abcdef")
    fork = Fork(tmp_path, 5.0)
    with (tmp_path / "rows").open("rb", buffering=0) as rows, (tmp_path / "log").open("wb", buffering=0) as log:
        assert b"ab" == rows.read(2)
        if fork.begin():
            log.write(b"child")
            fork.end({"read": rows.read(2).decode()})
        log.write(b"script")
        assert [{"read": "cd"}] == fork.gather()
        assert b"cdef" == rows.read()
    assert b"script" == (tmp_path / "log").read_bytes()
