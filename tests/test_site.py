"""The built site: its navigation has every page, links lead where they lead on GitHub, reading it fetches nothing."""

import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.documents import ROOT

pytestmark = pytest.mark.tier1

BUILD = runpy.run_path(str(ROOT / "docs" / "build.py"))


def leaves(nav: Any) -> Iterator[str]:
    """The pages of a navigation."""
    for entry in nav if isinstance(nav, list) else nav.values():
        if isinstance(entry, str):
            yield entry
        else:
            yield from leaves(entry)


def test_the_navigation_has_every_page_once() -> None:
    """Behavior: what is staged as a page stands in docs/zensical.toml, once."""
    nav = tomllib.loads((ROOT / "docs" / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert sorted([*pages, *BUILD["PAGES"].values()]) == sorted(leaves(nav))


def test_staged_pages_lead_where_they_lead_on_github(tmp_path: Path) -> None:
    """Behavior: README's links to docs, to its siblings and its picture are the site's, the web's stay as they are."""
    BUILD["stage"](tmp_path / "pages")
    front = (tmp_path / "pages" / "index.md").read_text(encoding="utf-8")
    assert "](subject.md#ready-made-subjects)" in front
    assert "](contributing.md)" in front
    assert "](assets/report.png)" in front
    assert "](docs/" not in front
    assert (tmp_path / "pages" / "assets" / "report.png").exists()
    assert not (tmp_path / "pages" / "build.py").exists()
    assert "](contributing.md#a-check)" in (tmp_path / "pages" / "subject.md").read_text(encoding="utf-8")
    assert "[a](../contributing.md#b) [c](d.md)" == BUILD["beside"]("[a](../../CONTRIBUTING.md#b) [c](d.md)", 2)
    assert "](https://example.org/docs/a.md)" in BUILD["inside"]("[a](https://example.org/docs/a.md)")


@pytest.mark.parametrize(
    ("page", "fetched"),
    [
        ('<script src="https://cdn.example/a.js"></script>', True),
        ('<link rel="stylesheet" href="//fonts.example/css">', True),
        ("<img alt=a src=http://example.org/a.png>", True),
        ("<style>a { background: url(https://example.org/a.png) }</style>", True),
        ('<a href="https://example.org">a page to follow</a>', False),
        ('<link rel="stylesheet" href="assets/a.css"><script src="a.js"></script>', False),
    ],
)
def test_what_a_page_would_fetch_is_found(tmp_path: Path, page: str, fetched: bool) -> None:
    """Behavior: scripts, styles, fonts and pictures from elsewhere are named with their page; links are none."""
    (tmp_path / "a.html").write_text(page)
    assert fetched == bool(BUILD["fetches"](tmp_path))
