"""Pages: links lead somewhere, commands are of a known kind, what is shown of other libraries is what there is."""

import ast
import inspect
import json
import re
import tomllib
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from shlex import split
from urllib.parse import urlsplit

import pytest
import yaml

from andon.cli.main import cli
from andon.core.config import known_keys
from andon.gates.config import Gates
from andon.verify.vocabulary import keys_of
from tests import pages as check_pages
from tests.documents import ROOT, anchors, blocks, links, pages, prose, shell_lines, text_of

pytestmark = pytest.mark.tier1

LONGEST_README = 160


def noxfile() -> dict[str, str | None]:
    """The sessions and their docstrings."""
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    return {
        function.name: ast.get_docstring(function)
        for function in tree.body
        if isinstance(function, ast.FunctionDef) and any("session" in ast.unparse(d) for d in function.decorator_list)
    }


def leads_nowhere(page: Path) -> list[str]:
    """The links of a page to files or headings of this repository that are not there."""
    found = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(f"{page.relative_to(ROOT)}: {link}")
    return found


def test_every_link_leads_somewhere() -> None:
    """Behavior: each file, picture and heading of the repository that a page links to is there."""
    assert [] == [link for page in pages() for link in leads_nowhere(page)]
    assert 100 < sum(len(links(page)) for page in pages())


def test_every_page_is_reached() -> None:
    """Behavior: each page is linked from another one."""
    linked = {(page.parent / link.partition("#")[0]).resolve() for page in pages() for link in links(page)}
    assert [] == [str(page) for page in pages() if page not in linked and page.name != "README.md"]


def test_readme_is_a_front_page() -> None:
    """Behavior: README has at most 160 lines."""
    assert LONGEST_README >= len(text_of(ROOT / "README.md").splitlines())


def test_every_key_stands_on_its_page() -> None:
    """Behavior: docs/subject.md names hyperparameters, roles and logged values; docs/train.md each setting."""
    subject, train = (text_of(ROOT / "docs" / f"{page}.md") for page in ("subject", "train"))
    names = [key for field in ("hyperparameters", "roles", "loop") for key in keys_of(field)]
    settings = [f"{table}.{key}" for table, keys in known_keys().items() for key in keys]
    assert min(len(names), len(settings)) > 15
    assert [] == [name for name in names if f"| `{name}` " not in subject]
    assert [] == [name for name in settings if f"| `{name}` " not in train]


def test_the_first_sentence_is_the_product() -> None:
    """Behavior: the package's description and the command's help begin with what README promises."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for said in (project["description"], cli.help or ""):
        assert re.match(r"Finds? silent bugs in PyTorch training code before the run", said), said


def test_every_area_is_in_one_group() -> None:
    """Behavior: README's list of areas has each area of the checks once."""
    grouped = [area for group in check_pages.GROUPS.values() for area in group]
    assert sorted(check_pages.areas()) == sorted(grouped)


def test_every_line_of_shell_is_of_a_known_kind() -> None:
    """Behavior: blocks of shell hold nothing that no test looks at; extras and files that they name are there."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    files = [line.split()[3] for line in shell_lines() if line.startswith("python -m pytest ")]
    kinds: dict[str, Callable[[str], bool]] = {
        "andon": lambda line: line.startswith("andon "),  # tests/test_examples.py
        "nox": lambda line: "nox -s" in line,
        "docker": lambda line: line.split("#")[0].strip() == "docker compose up -d",
        "pip": lambda line: (
            line
            in [
                f"pip install 'andon[{','.join(some)}]'"
                for some in (*combinations(extras, 1), *combinations(extras, 2))
            ]
        ),
        "git": lambda line: line.startswith("git clone REPOSITORY "),
        "pytest": lambda line: line.startswith("python -m pytest "),
        "others": lambda line: line in (". .venv/bin/activate", "pipx run pre-commit install"),
    }
    assert [] == [line for line in shell_lines() if not any(is_kind(line) for is_kind in kinds.values())]
    assert [] == [name for name in files if not (ROOT / name).is_file()]


def test_nox_lines_name_sessions() -> None:
    """Behavior: every `nox -s` that a page shows is a session of the noxfile, with a line for `nox -l`."""
    sessions = noxfile()
    shown = {name for page in pages() for name in re.findall(r"nox -s (\w+)", text_of(page))}
    assert {"demo", "tests", "tier1", "tier2", "tier3", "bench", "docs"} <= shown
    assert set() == shown - set(sessions)
    assert all(line and "\n" not in line for line in sessions.values())


def test_docker_line_starts_what_the_replay_expects() -> None:
    """Behavior: compose.yaml pins Jaeger 2 and opens, to this machine only, the port that pages send a run to."""
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    ports = {urlsplit(word).port for line in shell_lines() for word in split(line) if word.startswith("http://")}
    assert re.search(r"image: jaegertracing/jaeger:2\.(19|[2-9]\d)\.\d+\n", text)  # older ones ignore a search's tags
    storage = yaml.safe_load((ROOT / "jaeger.yaml").read_text(encoding="utf-8"))["extensions"]["jaeger_storage"]
    assert ["badger"] == [kind for backend in storage["backends"].values() for kind in backend]  # keeps a span once
    mounted = re.findall(r"- \./([\w.-]+):", text)
    assert ["jaeger.yaml", "jaeger-ui.json"] == mounted
    assert json.loads((ROOT / "jaeger-ui.json").read_text(encoding="utf-8"))["linkPatterns"]
    assert all(f'"127.0.0.1:{port}:{port}"' in text for port in ports)
    assert len(re.findall(r'- "127\.0\.0\.1:', text)) == len(re.findall(r'^ +- "', text, re.MULTILINE))


def test_ready_made_subjects_are_as_shown() -> None:
    """Behavior: each factory that the table of docs/subject.md names exists and takes the arguments that it shows."""
    from andon.verify import subjects

    table = re.findall(r"^\| (`.*?) \|", prose(ROOT / "docs" / "subject.md"), re.MULTILINE)
    shown = [call for cell in table for call in re.findall(r"`([\w.]+\(.*?\))`", cell)]
    assert 15 < len(shown)
    for call in shown:
        node = ast.parse(call, mode="eval").body
        assert isinstance(node, ast.Call)
        home, _, name = ast.unparse(node.func).rpartition(".")
        if not home:
            inspect.signature(getattr(subjects, name)).bind(*node.args)
            continue
        tree = ast.parse((ROOT / "verify" / "subjects" / f"{home}.py").read_text(encoding="utf-8"))
        function = next(each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == name)
        assert len(node.args) <= len(function.args.args), call


def test_the_gate_that_is_shown_can_be_read() -> None:
    """Behavior: the tables that docs/gates.md adds to an andon.toml are valid."""
    (text,) = blocks(ROOT / "docs" / "gates.md", "toml")
    gates = Gates.model_validate({"tiers": [{"name": "tier2", "summary": "s"}], **tomllib.loads(text)})
    assert (1, 1) == (len(gates.measures), len(gates.thresholds))
