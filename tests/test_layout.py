"""The layout: contracts hold, every package lies in the wheel, and the wheel lives beside another project's `core`."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

# Libraries with ready-made subjects, which their users have and our environment may lack.
PRESENTED = (
    "accelerate", "bitsandbytes", "lightning", "litgpt", "peft", "torchao", "torchtune", "transformers", "triton",
    "x_transformers",
)  # fmt: skip
ROOT = Path(__file__).parents[1]
PACKAGES = ("core", "gates", "tracing", "verify")  # each a folder at the top and a link in andon
CODE = ("andon", *PACKAGES)


def project() -> dict[str, Any]:
    """The project's own file."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def copy_code(folder: Path) -> Path:
    """A copy of what the wheel is built from."""
    for name in (*CODE, "configs"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def install_wheel(folder: Path) -> Path:
    """Where the wheel is installed, built from a copy and without a network."""
    source, wheels, site = copy_code(folder / "code"), folder / "wheels", folder / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *offline, "-w", wheels, source], check=True)
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", site, *wheels.iterdir()], check=True)
    return site


def nodes(path: Path, pattern: str) -> list[ast.AST]:
    """All syntax of a module whose text matches; parsing the others would cost half a second."""
    text = path.read_text(encoding="utf-8")
    return list(ast.walk(ast.parse(text))) if re.search(pattern, text) else []


def imports_by_string(path: Path) -> list[str]:
    """Calls that import a module of ours by its name as text, which no type checker and no contract can follow."""
    calls = [node for node in nodes(path, "import_module|__import__") if isinstance(node, ast.Call)]
    named = [node for node in calls if ast.unparse(node.func).endswith(("import_module", "__import__")) and node.args]
    texts = [ast.unparse(node.args[0]).lstrip("f") for node in named]
    return [f"{path.relative_to(ROOT)}: {text}" for text in texts if text.strip("'\"").startswith("andon")]


@pytest.mark.tier1
def test_our_packages_are_imported_by_statements() -> None:
    """Behavior: no module of ours is imported by a string."""
    files = [path for name in CODE for path in (ROOT / name).rglob("*.py")]
    assert [] == [call for path in files for call in imports_by_string(path)]


def uses_of_tests(path: Path) -> list[str]:
    """Where a module imports `tests` or names a module or file of it as text."""
    imported, texts = [], []
    for node in nodes(path, r"\btests[.:/]|import tests"):
        imported += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        texts += [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
    found = [name for name in imported if name.partition(".")[0] == "tests"]
    found += [text for text in texts if re.fullmatch(r"tests[.:/]\S+", text)]
    return [f"{path.relative_to(ROOT)}: {name}" for name in found]


@pytest.mark.tier1
def test_what_ships_knows_nothing_of_our_tests() -> None:
    """Behavior: no module of the wheel imports `tests`, by a statement or by its name as text."""
    assert [] == [use for name in CODE for path in (ROOT / name).rglob("*.py") for use in uses_of_tests(path)]


@pytest.mark.tier1
@pytest.mark.parametrize("name", [*PACKAGES, "configs"])
def test_each_package_is_a_link_in_andon(name: str) -> None:
    """Behavior: `andon.core` and its siblings are the folders at the top, by links that git keeps."""
    assert f"../{name}" == os.readlink(ROOT / "andon" / name)  # noqa: PTH115 - the link as it is written


@pytest.mark.tier1
@pytest.mark.parametrize("name", [name for name in CODE if name != "verify"])
def test_no_two_modules_of_a_package_have_one_name(name: str) -> None:
    """Behavior: a module is named by its package and its stem, wherever it lies: tables, baselines and tests do so.

    In verify an area has one name in several folders; tables name those modules by their paths.
    """
    inside = [path for path in (ROOT / name).rglob("*.py") if not path.stem.startswith("__")]
    counts = Counter(path.stem for path in inside if not any(folder.is_symlink() for folder in path.parents))
    assert [] == [stem for stem, count in counts.items() if count > 1]


WRONG_CALLS = {
    "core": "from andon.core.config import load_config as called",
    "gates": "from andon.gates.judge import judge as called",
    "tracing": "from andon.tracing.send import replay as called",
    "verify": "from andon.verify.run.runner import check as called",
}


@pytest.mark.tier3
@pytest.mark.parametrize("package", PACKAGES)
def test_a_wrong_call_from_the_command_line_is_a_type_error(tmp_path: Path, package: str) -> None:
    """Behavior: what a verb calls with arguments that the package does not take is red, whichever package it is."""
    folder = copy_code(tmp_path)
    (folder / "andon" / "cli" / "wrong.py").write_text(f'"""Wrong."""\n\n{WRONG_CALLS[package]}\n\ncalled(no_such=1)\n')
    command = [Path(sys.executable).with_name("ty"), "check", "--python", sys.prefix, "andon/cli/wrong.py"]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert (1, True) == (done.returncode, "unknown-argument" in done.stdout), done.stdout


@pytest.mark.tier2
def test_what_commands_write_below_reports_is_ignored_by_git() -> None:
    """Behavior: each folder or file of results that a module names is ignored, but for the committed baselines."""
    ignored = {line.rstrip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()}
    code = "".join(
        path.read_text(encoding="utf-8") for name in (*CODE, "tests") for path in (ROOT / name).rglob("*.py")
    )
    named = set(re.findall(r'^[A-Z_]+ = Path\("(reports/[\w.]+)', code, flags=re.MULTILINE)) - {"reports/baselines"}
    assert {"reports/evidence", "reports/known_bugs"} <= named
    assert set() == named - ignored


@pytest.mark.tier1
def test_no_other_folder_stands_at_the_top() -> None:
    """Behavior: the folders that git tracks at the top are those of README's layout and hidden ones of tools."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    folders = {line.partition("/")[0] for line in listed.stdout.splitlines() if "/" in line and line[0] != "."}
    assert {*CODE, "configs", "docs", "reports", "tests"} == folders


@pytest.mark.tier1
def test_every_dependency_has_a_reason() -> None:
    """Behavior: each package that pyproject.toml asks for is explained in the decision record."""
    content = project()["project"]
    lines = [*content["dependencies"], *(line for lines in content["optional-dependencies"].values() for line in lines)]
    reasons = (ROOT / "docs" / "decisions" / "dependencies.md").read_text(encoding="utf-8")
    names = {line.split(";")[0].split("=")[0].split("<")[0].split(">")[0].strip() for line in lines}
    assert [] == sorted(name for name in names if f"| `{name}` |" not in reasons)


FAULTS = [
    ("core/config.py", "import torch", "Arithmetic, settings and files need no torch"),
    ("core/model/llama.py", "import andon.core.training.loop", "Core reads one way"),
    ("core/new.py", "", "Core reads one way"),
    ("core/training/loss.py", "import andon.gates", "verify, gates, tracing and core do not know one another"),
    ("verify/__init__.py", "import andon.core.config", "verify, gates, tracing and core do not know one another"),
    ("tracing/__init__.py", "import andon.gates", "verify, gates, tracing and core do not know one another"),
    ("gates/__init__.py", "import andon.cli.main", "The command line composes the packages below it"),
    ("gates/__init__.py", "import torch", "Gates judge without torch"),
    ("verify/subject.py", "import andon.verify.run.runner", "Verify reads one way"),
]


@pytest.mark.tier3
@pytest.mark.parametrize(("path", "fault", "sentence"), FAULTS, ids=[f"{path}: {fault}" for path, fault, _ in FAULTS])
def test_a_forbidden_import_breaks_its_contract(tmp_path: Path, path: str, fault: str, sentence: str) -> None:
    """Behavior: each contract goes red under the import it forbids, by its own sentence."""
    folder = copy_code(tmp_path)
    with (folder / path).open("a", encoding="utf-8") as file:
        file.write(f"\n{fault}\n")
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert 1 == done.returncode
    broken = " ".join(done.stdout.partition("Broken contracts")[2].split())
    assert sentence in broken


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed, built from a copy and without a network."""
    return install_wheel(tmp_path_factory.mktemp("site"))


@pytest.fixture
def project_folder(tmp_path: Path) -> Path:
    """A project whose own packages have the names of ours."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n")
    return tmp_path


def run_in(folder: Path, site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a project, with the wheel installed and this checkout out of sight."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment | {"PYTHONPATH": str(site)}, check=False, capture_output=True, text=True
    )


@pytest.mark.long
def test_the_wheel_holds_every_file(site: Path) -> None:
    """Behavior: each module, template and configuration of the checkout is installed, and nothing at the top level."""
    shipped = {path.relative_to(site / "andon") for path in (site / "andon").rglob("*") if path.suffix != ".pyc"}
    for name in (*CODE, "configs"):
        for path in [path for path in (ROOT / name).rglob("*") if path.is_file() and path.suffix != ".pyc"]:
            inside = path.relative_to(ROOT / "andon" if name == "andon" else ROOT)
            assert inside in shipped
    assert ["andon", "bin"] == sorted(path.name for path in site.iterdir() if ".dist-info" not in path.name)


@pytest.mark.long
def test_the_wheel_works_beside_a_project_with_the_same_names(site: Path, project_folder: Path) -> None:
    """Behavior: our packages come from the wheel, the project's own packages stay its own, and every module imports.

    A ready-made subject imports the library that it presents, which the user has.
    """
    (project_folder / "use.py").write_text(
        "import importlib, pathlib, pkgutil\n"
        "import core, gates, tracing, verify\n"
        "assert core.MINE and gates.MINE and tracing.MINE and verify.MINE\n"
        "import andon\n"
        "from andon import verify as ours\n"
        "import andon.core.config\n"
        "assert ours.__name__ == 'andon.verify' and not hasattr(ours, 'MINE')\n"
        "for module in pkgutil.walk_packages(andon.__path__, 'andon.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        try:\n"
        "            importlib.import_module(module.name)\n"
        "        except ModuleNotFoundError as error:\n"
        "            presenters = ('andon.tracing.trainer', 'andon.verify.subjects.', 'andon.verify.zoo.')\n"
        "            presents = module.name.startswith(presenters)\n"
        f"            assert presents and error.name in {PRESENTED!r}, error\n"
        "config = pathlib.Path(andon.__file__).parent / 'configs' / 'tiny.toml'\n"
        "print(andon.core.config.load_config(config).model.hidden_size > 0)\n"
    )
    done = run_in(project_folder, site, "use.py")
    assert (0, "True\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.tier3
def test_the_base_install_gates_without_torch(site: Path, project_folder: Path) -> None:
    """Behavior: without torch and OpenTelemetry the gates run and judge, and a verb says which extra it lacks."""
    (project_folder / "gates.toml").write_text(
        '[[tiers]]\nname = "t"\nsummary = "s"\n'
        f'[[measures]]\nname = "m"\ntier = "t"\nnext = "n"\ncommand = "{sys.executable} -c pass"\n'
    )
    absent = ("torch", "numpy", "safetensors", "tokenizers", "gguf", "opentelemetry")
    code = f"import sys\nsys.modules.update(dict.fromkeys({absent!r}))\nimport andon.cli.main as m\nm.cli()"
    ran = run_in(project_folder, site, "-c", code, "gate", "run", "t", "--config", "gates.toml", "--quiet")
    assert (0, "t PASS: all (1 of 1 checks pass)\n", "") == (ran.returncode, ran.stdout, ran.stderr)
    lacks = run_in(project_folder, site, "-c", code, "generate", "--model", "absent", "--prompt", "x")
    assert (2, "") == (lacks.returncode, lacks.stdout)
    assert lacks.stderr.startswith("andon: andon generate needs ")
    assert lacks.stderr.endswith("pip install 'andon[train]'\n")
