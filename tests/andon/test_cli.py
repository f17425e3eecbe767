"""The command line: help is cheap, a user's mistake is one message, a bug keeps its traceback."""

import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from andon.cli.errors import DEVELOPMENT_TOOLS
from andon.cli.main import VERBS, cli
from tests.commands import bare

HEAVY = ("torch", "numpy", "pydantic", "rich", "tokenizers", "opentelemetry")


class ProbeError(ValueError):
    """An error as a package would define it."""


ProbeError.__module__ = "andon.core.probe"


def fail_with(monkeypatch: pytest.MonkeyPatch, verb: str, error: BaseException) -> None:
    """Put a verb in place that fails."""

    @click.command()
    def command() -> None:
        raise error

    module = types.ModuleType(f"andon.cli.{verb}")
    monkeypatch.setattr(module, "command", command, raising=False)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.tier1
def test_help_imports_nothing_heavy() -> None:
    """Behavior: help answers without importing torch or any other library that takes its time."""
    code = "import sys\nfrom andon.cli.main import cli\n"
    code += "for line in ('--help', '--version', 'gate --help', 'gate run --help'):\n"
    code += "    cli(line.split(), standalone_mode=False, prog_name='andon')\n"
    code += f"sys.exit(str([name for name in {HEAVY!r} if name in sys.modules] or ''))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "" == done.stderr.strip()
    assert "andon" in done.stdout


@pytest.mark.tier1
def test_help_lists_every_verb_on_a_line() -> None:
    """Behavior: all verbs show with a summary that fits a line of 80 columns."""
    text = CliRunner().invoke(cli, ["--help"]).output
    for name, verb in VERBS.items():
        assert any(line.split() == [name, *verb.summary.split()] for line in text.splitlines()), name


@pytest.mark.tier1
def test_a_package_s_error_is_one_message_and_exit_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: what a package refuses ends in its message on stderr, without a traceback."""
    fail_with(monkeypatch, "plan", ProbeError("tiny.toml: lr=1: unknown key"))
    result = CliRunner().invoke(cli, ["plan"])
    assert (2, "andon: tiny.toml: lr=1: unknown key\n", "") == (result.exit_code, result.stderr, result.stdout)


@pytest.mark.tier1
def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: a builtin error that escapes is not a user's mistake and is not dressed as one."""
    error = ValueError("a bug")
    fail_with(monkeypatch, "plan", error)
    result = CliRunner().invoke(cli, ["plan"])
    assert error is result.exception


@pytest.mark.tier1
def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: without an extra's package the message names verb, package and the command that installs it."""
    fail_with(monkeypatch, "train", ModuleNotFoundError("No module named 'torch'", name="torch.nn"))
    result = CliRunner().invoke(cli, ["train"])
    assert (2, "andon: andon train needs torch: pip install 'andon[train]'\n") == (result.exit_code, result.stderr)


@pytest.mark.tier1
@pytest.mark.parametrize("tool", DEVELOPMENT_TOOLS)
def test_a_missing_development_tool_names_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
    """Behavior: `andon dev` itself needs the extra `verify`, and its tools come with `dev`."""
    fail_with(monkeypatch, "dev", ModuleNotFoundError(f"No module named {tool!r}", name=tool))
    result = CliRunner().invoke(cli, ["dev"])
    assert (2, f"andon: andon dev needs {tool}: pip install 'andon[dev]'\n") == (result.exit_code, result.stderr)
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[^\w-]", each)[0] for each in project["optional-dependencies"]["dev"]]
    assert {tool, f"{tool}lib"} & set(names)


@pytest.mark.tier1
@pytest.mark.parametrize("name", ["andon.core.absent", "andon.absent"])
def test_a_missing_module_of_ours_is_a_bug(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Behavior: no extra brings a module of ours, so nobody is told to install one."""
    error = ModuleNotFoundError(f"No module named {name!r}", name=name)
    fail_with(monkeypatch, "train", error)
    assert error is CliRunner().invoke(cli, ["train"]).exception


@pytest.mark.tier1
def test_an_interruption_exits_as_by_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: Ctrl-C in a verb that has nothing to save exits with 128 + 2."""
    fail_with(monkeypatch, "plan", KeyboardInterrupt())
    assert 130 == CliRunner().invoke(cli, ["plan"]).exit_code


@pytest.mark.tier1
def test_an_unknown_verb_is_a_usage_error() -> None:
    """Behavior: a misspelled verb exits with 2 and names what was typed."""
    result = CliRunner().invoke(cli, ["trian"])
    assert 2 == result.exit_code
    assert "'trian'" in result.stderr


def leaves(name: str, command: click.Command) -> dict[str, click.Command]:
    """A verb's commands by what is typed: itself, or those of a group."""
    if not isinstance(command, click.Group):
        return {name: command}
    named = {name if each.hidden else f"{name} {inner}": each for inner, each in command.commands.items()}
    return {key: leaf for inner, each in named.items() for key, leaf in leaves(inner, each).items()}


@pytest.mark.tier2
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_examples(verb: str) -> None:
    """Behavior: the help of each verb, and of each command below one, shows how it is typed."""
    command = cli.get_command(click.Context(cli), verb)
    assert command
    for name, leaf in leaves(f"andon {verb}", command).items():
        text = leaf.get_help(click.Context(leaf, info_name=name, max_content_width=1000, terminal_width=1000))
        assert re.search(rf"{name}(\s|$)", text.partition("Example")[2]), name


@pytest.mark.tier2
@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_imports_no_torch(verb: str) -> None:
    """Behavior: no verb's help waits for torch."""
    code = "import sys\nfrom andon.cli.main import cli\ncli([sys.argv[1], '--help'], standalone_mode=False)\n"
    code += "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    done = subprocess.run([sys.executable, "-c", code, verb], check=False, capture_output=True, text=True)
    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.tier2
def test_runs_as_a_module_from_anywhere(tmp_path: Path) -> None:
    """Behavior: `python -m andon` answers beside another project's `core` package when the checkout is on the path."""
    (tmp_path / "core.py").write_text("raise SystemExit('another package was imported')")
    checkout = str(Path(__file__).parents[2])
    command = [sys.executable, "-P", "-m", "andon", "gate", "list", "--config", f"{checkout}/configs/gates.toml"]
    done = subprocess.run(
        command, cwd=tmp_path, env=bare(PYTHONPATH=checkout, PATH=""), check=False, capture_output=True, text=True
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith("tier1: ")
