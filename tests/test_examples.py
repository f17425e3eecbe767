"""Every command that README or a verb's `--help` shows is run, in order, in a folder such as a user would have.

Runs are made short by changing keys; `nox` lines are compared with the sessions there are, since CI runs those; Docker
lines cannot run here: what they start is compared with what the other lines expect of it.
"""

import ast
import json
import re
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import split
from typing import Any
from urllib.parse import urlsplit

import click
import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from tokenizers import pre_tokenizers

from andon.cli.main import VERBS, cli
from tests.otlp import endpoint
from tests.small_run import TABLES, write_corpus

pytestmark = pytest.mark.tier3

ROOT = Path(__file__).parents[1]
SHORT = {"training.max_steps": "2", "schedule.warmup_steps": "1", "validation.max_sequences": "1"}
# CI runs these whole, through nox or on a clone with its history; here their options are checked.
LARGE = ("demo", "faults", "gate claims", "gate compare", "gate run", "gate selftest", "init", "mutation", "zoo")


def from_readme() -> list[str]:
    """The lines of README's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def python_blocks() -> list[str]:
    """README's blocks of Python."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def from_help() -> list[str]:
    """The examples of every verb's help, sub-commands too."""
    return [line for name in VERBS for line in _examples(cli.get_command(click.Context(cli), name))]


def _examples(command: click.Command | None) -> Iterator[str]:
    assert command
    text = f"{command.help}\n{command.epilog}"
    found = re.findall(r"(?:^\s*|Example: )(andon .*)$", text, re.MULTILINE)
    subcommands = list(command.commands.values()) if isinstance(command, click.Group) else []
    assert found or subcommands, f"{command.name} shows no example"
    yield from found
    for subcommand in subcommands:
        yield from _examples(subcommand)


def andon_lines() -> list[str]:
    """Each shown `andon` line once; those that make what others read come first."""
    lines = list(dict.fromkeys(line for line in [*from_readme(), *from_help()] if line.startswith("andon ")))
    return sorted(lines, key=lambda line: "--resume" in line or not line.startswith("andon train"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: the shipped configurations, notes, a small corpus, a GGUF file."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "configs", home / "configs")
    shutil.copy(ROOT / "tests" / "my_project.py", home)
    (home / "my_checks.py").write_text(python_blocks()[0])
    write_corpus(home / "notes", documents=40)
    write_gguf(home / "smollm2.gguf")
    shutil.copy(home / "smollm2.gguf", home / "SmolLM2-135M-Instruct.Q4_1.gguf")
    write_lines(home / "questions.jsonl", [{"prompt": f"What is {n}? ", "completion": f"It is {n}."} for n in range(9)])
    talks = [[{"role": role, "content": f"{n}"} for role in ("user", "assistant")] for n in range(9)]
    write_lines(home / "chats.jsonl", [{"messages": talk} for talk in talks])
    (home / "chat.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    return home


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """A JSONL file."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_gguf(path: Path) -> None:
    """A LLaMA of two layers with a byte tokenizer, as llama.cpp would write it."""
    shape, writer = TABLES["model"], gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(shape["hidden_size"])
    writer.add_feed_forward_length(shape["intermediate_size"])
    writer.add_block_count(1)
    writer.add_head_count(shape["num_attention_heads"])
    writer.add_head_count_kv(shape["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "<|endoftext|>"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(257)
    hidden, ffn, keys = shape["hidden_size"], shape["intermediate_size"], shape["hidden_size"] // 2
    shapes = {
        "token_embd": (len(tokens), hidden),
        "output": (len(tokens), hidden),
        "output_norm": (hidden,),
        "blk.0.attn_norm": (hidden,),
        "blk.0.ffn_norm": (hidden,),
        "blk.0.attn_q": (hidden, hidden),
        "blk.0.attn_k": (keys, hidden),
        "blk.0.attn_v": (keys, hidden),
        "blk.0.attn_output": (hidden, hidden),
        "blk.0.ffn_gate": (ffn, hidden),
        "blk.0.ffn_up": (ffn, hidden),
        "blk.0.ffn_down": (hidden, ffn),
    }
    generator = np.random.default_rng(0)
    for name, size in shapes.items():
        writer.add_tensor(f"{name}.weight", generator.normal(0, 0.02, size).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def shortened(line: str, otlp: str) -> list[str]:
    """The line's arguments, with a short run and the loopback endpoint of this test in place of Jaeger's."""
    arguments = [otlp if urlsplit(word).port == 4318 else word for word in split(line)[1:]]
    if arguments[0] == "train" and "--data" not in arguments and "--resume" not in arguments:
        arguments += ["--data", "notes"]
    if arguments[0] in ("train", "finetune"):
        arguments += [word for key, value in SHORT.items() for word in ("--set", f"{key}={value}")]
    if arguments[0] == "verify" and any(":" in word for word in arguments):
        arguments += ["--tier", "1"]
    return arguments


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside the user's folder; what was imported from it is forgotten afterwards."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", [str(home), *sys.path])
    yield
    for name in ("my_checks", "my_project"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("at_home")
def test_shown_python_works() -> None:
    """Behavior: README's Python runs as it stands, and its first block has the five lines that it says."""
    first, *others = python_blocks()
    assert 5 == len(first.splitlines())
    names = runpy.run_path("my_project.py") | runpy.run_path("my_checks.py")
    for block in others:
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102 - our own README
    names["test_training"](lambda: None)


@pytest.mark.usefixtures("at_home")
def test_shown_commands_work() -> None:
    """Behavior: every `andon` line that is shown works on a user's folder; a tier not yet measured is judged so."""
    lines = ["andon train configs/tiny.toml --out reports/runs/demo", *andon_lines()]
    lines = [line for line in lines if not line.removeprefix("andon ").startswith(LARGE)]
    with endpoint() as server:
        for line in lines:
            result = CliRunner().invoke(cli, shortened(line, server.url))
            expected = {1, 3} if "gate judge" in line else {0}
            assert result.exit_code in expected, f"{line}\n{result.output}"
    assert len(lines) > 15


@pytest.mark.parametrize("line", [line for line in andon_lines() if line.removeprefix("andon ").startswith(LARGE)])
def test_large_commands_are_spelt_right(line: str) -> None:
    """Behavior: the options of a line too large for a test are ones its verb has, and its files are shipped."""
    command: click.Command | None = cli
    words = split(line)[1:]
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), words.pop(0))
    assert command
    context = command.make_context(command.name, words)
    read = {name: value for name, value in context.params.items() if name != "output"}
    assert all((ROOT / value).exists() for value in read.values() if isinstance(value, Path))


def test_nox_lines_name_sessions() -> None:
    """Behavior: every `nox -s` that README shows is a session of the noxfile, with a line for `nox -l`."""
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    sessions = {
        function.name: ast.get_docstring(function)
        for function in tree.body
        if isinstance(function, ast.FunctionDef) and any("session" in ast.unparse(d) for d in function.decorator_list)
    }
    shown = set(re.findall(r"nox -s (\w+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {"demo", "tests", "tier1", "tier2", "tier3", "bench"} <= shown
    assert shown <= set(sessions)
    assert all(line and "\n" not in line for line in sessions.values())


def test_docker_line_starts_what_the_replay_expects() -> None:
    """Behavior: compose.yaml pins Jaeger 2 and opens, to this machine only, the port that README sends a run to."""
    lines = from_readme()
    assert "docker compose up -d" in lines  # not run here
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    port = urlsplit(next(word for line in lines for word in line.split() if word.startswith("http://"))).port
    assert re.search(r"image: jaegertracing/jaeger:2\.\d+\.\d+\n", text)
    assert f'"127.0.0.1:{port}:{port}"' in text
    assert len(re.findall(r'- "127\.0\.0\.1:', text)) == len(re.findall(r'^ +- "', text, re.MULTILINE))


def test_every_readme_line_is_of_a_known_kind() -> None:
    """Behavior: README's shell blocks hold andon, nox and docker lines and nothing that no test looks at."""
    kinds: dict[str, Callable[[str], bool]] = {
        "andon": lambda line: line.startswith("andon "),
        "nox": lambda line: "nox -s" in line,
        "docker": lambda line: line.startswith("docker compose "),
    }
    assert not [line for line in from_readme() if not any(is_kind(line) for is_kind in kinds.values())]


def test_files_that_readme_links_exist() -> None:
    """Behavior: every picture and file that README links to, the web aside, lies in the repository."""
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert len(local) >= 3
    assert [] == [link for link in local if not (ROOT / link).exists()]
