"""The pages of checks, which are made of their docstrings."""

import pytest

from tests import pages as check_pages
from tests.documents import ROOT

pytestmark = pytest.mark.tier2


def test_the_pages_of_checks_are_what_the_docstrings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: docs/checks holds a page an area, made of the docstrings as they are now, and no other."""
    monkeypatch.chdir(ROOT)
    assert [] == check_pages.stale(), "run `python -m tests.pages`"
