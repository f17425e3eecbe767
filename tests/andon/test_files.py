"""Files are written whole or not at all."""

from pathlib import Path

import pytest

from andon.files import write_whole

pytestmark = pytest.mark.tier1


def test_a_file_is_replaced_with_its_folders(tmp_path: Path) -> None:
    """Behavior: folders are made, the new text stands alone, and nothing else is left."""
    path = tmp_path / "a" / "b.json"
    write_whole(path, "old, and longer")
    write_whole(path, "new")
    assert ("new", [path]) == (path.read_text(), list(path.parent.iterdir()))


def test_what_cannot_be_written_leaves_the_old_text(tmp_path: Path) -> None:
    """Behavior: an error on the way leaves the file as it was, and no other file."""
    path = tmp_path / "a.json"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \ud800")
    assert ("old", [path]) == (path.read_text(), list(tmp_path.iterdir()))
