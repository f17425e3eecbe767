"""`python docs/build.py`: the pages as a site in build/docs/site. Needs zensical alone; `nox -s docs` has it.

README, the contributing guide and the changelog become pages, whose links lead where they lead on GitHub.
Exit code: 0 built, 1 a link leads nowhere, or a page would fetch something from elsewhere while it is read.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "docs"
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
FILES = {"LICENSE": "LICENSE.txt", "reports/baselines/report.png": "assets/report.png"}
NO_PAGES = ("build.py", "zensical.toml", "__pycache__")
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
# What a browser fetches by itself; links that a reader follows are none of it.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=["']?(?:https?:)?//[^\s"'>]+"""
    r"""|<link\b[^>]*\bhref=["']?(?:https?:)?//[^\s"'>]+"""
    r"""|url\(["']?(?:https?:)?//[^\s"')]+|@import[^;]*//[^;]+""",
    re.IGNORECASE,
)


def stage(folder: Path) -> None:
    """Write every page, and the files that they show, into `folder`."""
    shutil.copytree(ROOT / "docs", folder, ignore=shutil.ignore_patterns(*NO_PAGES))
    for path in folder.rglob("*.md"):
        path.write_text(beside(path.read_text(encoding="utf-8"), len(path.relative_to(folder).parts)), encoding="utf-8")
    for name, page in PAGES.items():
        (folder / page).write_text(inside((ROOT / name).read_text(encoding="utf-8")), encoding="utf-8")
    front = folder / "index.md"
    front.write_text(f"---\nhide: [navigation]\n---\n\n{front.read_text(encoding='utf-8')}", encoding="utf-8")
    for name, place in FILES.items():
        shutil.copy(ROOT / name, folder / place)


def inside(text: str) -> str:
    """A page of the repository's root as one of the site."""
    return LINK.sub(
        lambda link: f"]({(PAGES | FILES).get(link[1], link[1].removeprefix('docs/'))}{link[2] or ''})", text
    )


def beside(text: str, depth: int) -> str:
    """A page of docs, so many folders below the repository's root, whose links to pages there lead to those staged."""
    root = "../" * depth
    return LINK.sub(
        lambda link: (
            f"]({root.removesuffix('../')}{(PAGES | FILES)[name]}{link[2] or ''})"
            if (name := link[1].removeprefix(root)) in PAGES | FILES and link[1] != name
            else link[0]
        ),
        text,
    )


def fetches(site: Path) -> list[str]:
    """What reading the site would fetch from elsewhere, by page or style."""
    files = [path for path in sorted(site.rglob("*")) if path.suffix in (".html", ".css")]
    found = {path: FETCHED.search(path.read_text(encoding="utf-8")) for path in files}
    return [f"{path.relative_to(site)}: {match[0]}" for path, match in found.items() if match]


def main() -> int:
    """Stage, build, look."""
    shutil.rmtree(BUILD, ignore_errors=True)
    stage(BUILD / "pages")
    config = shutil.copy(ROOT / "docs" / "zensical.toml", BUILD)
    zensical = Path(sys.executable).with_name("zensical")
    built = subprocess.run([zensical, "build", "--strict", "--config-file", config], check=False)
    if built.returncode:
        return 1
    for line in fetches(BUILD / "site"):
        sys.stderr.write(f"reading the site would fetch {line}; put a copy into docs/assets\n")
    sys.stdout.write(f"{BUILD / 'site' / 'index.html'}\n")
    return int(bool(fetches(BUILD / "site")))


if __name__ == "__main__":
    sys.exit(main())
