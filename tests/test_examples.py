"""Every command that a page or a verb's `--help` shows is run, in order, in a folder such as a user would have.

Runs are made short by changing keys. Lines that are not `andon`'s are the business of tests/test_documents.py. Lines
that say that they are not run here have their options checked.
"""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
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
from tests.documents import NOT_RUN, ROOT, blocks, pages, shell_lines, text_of
from tests.otlp import endpoint
from tests.small_run import TABLES, write_corpus

pytestmark = pytest.mark.tier3
EXITS = {"gate judge": {1, 3}, "andon doctor": {0, 1}, "trace diff": {0, 1, 3}}  # of shown lines that may not pass here

SHORT = {"training.max_steps": "2", "schedule.warmup_steps": "1", "validation.max_sequences": "1"}
# CI runs these whole, through nox or on a clone with its history; here their options are checked. What needs
# transformers is run by tests/test_newcomer.py.
LARGE = (
    "demo",
    "dev",
    "gate claims",
    "gate compare",
    "gate run",
    "gate selftest",
    "init",
    "trace --",  # scripts as they are: tests/tracing/test_strangers.py
    "trace diff --pair",
    "zoo",
    "verify --",  # scripts as they are: tests/door
    "verify hf_checks:",
    "verify power",
    "watch",
)
ELSEWHERE = "from andon.verify.subjects import"  # such a block needs other libraries
NUMBER = re.compile(r"(?<![\w.])\d[\d.]*(?:e-?\d+)?")


def is_large(line: str) -> bool:
    """Whether a line is too large for a test, or says that it is not run here."""
    return line.removeprefix("andon ").startswith(LARGE) or NOT_RUN in line


def python_blocks(page: Path) -> list[str]:
    """A page's blocks of Python but those that stand in an example's file, or need other libraries."""
    examples = [text_of(path) for path in sorted((ROOT / "docs" / "examples").glob("*.py"))]
    found = [block for block in blocks(page, "python") if ELSEWHERE not in block]
    return [block for block in found if not any(block in example for example in examples)]


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
    lines = list(dict.fromkeys(line for line in [*shell_lines(), *from_help()] if line.startswith("andon ")))
    return sorted(lines, key=lambda line: "--resume" in line or not line.startswith("andon train"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: the shipped configurations, notes, a small corpus, a GGUF file."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "configs", home / "configs")
    shutil.copy(ROOT / "tests" / "my_project.py", home)
    (home / "my_checks.py").write_text(python_blocks(ROOT / "README.md")[0] + '\nSUBJECTS = {"small": subject}\n')
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
    arguments = [otlp if urlsplit(word).port == 4318 else word for word in split(line, comments=True)[1:]]
    if arguments[0] == "train" and "--data" not in arguments and "--resume" not in arguments:
        arguments += ["--data", "notes"]
    if arguments[0] in ("train", "finetune"):
        arguments += [word for key, value in SHORT.items() for word in ("--set", f"{key}={value}")]
    if "--profile" in arguments:
        arguments[arguments.index("--profile") + 1] = "3"
        arguments += ["--set", "training.max_steps=4"]
    if "--check" in arguments:
        arguments = arguments[: arguments.index("--check")]  # asks a Jaeger, which is not run here
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


def test_the_five_lines_are_five() -> None:
    """Behavior: README's first block that stands in no file has the five lines that it says."""
    assert 5 == len(python_blocks(ROOT / "README.md")[0].splitlines())


GUIDES = [page for page in pages() if page.parent.name != "checks" and python_blocks(page)]


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_shown_python_works(page: Path) -> None:
    """Behavior: a page's Python runs as it stands, block after block, beside a user's own module."""
    names = runpy.run_path("my_project.py")
    for block in python_blocks(page):
        exec(compile(block, str(page), "exec"), names)  # noqa: S102 - our own page
    if "test_training" in names:
        names["test_training"](lambda: None)


def test_the_shown_finding_is_what_the_example_prints(tmp_path: Path) -> None:
    """Behavior: the command of README's first screen prints those words; numbers agree to a part in a thousand."""
    script = shutil.copy(ROOT / "docs" / "examples" / "train.py", tmp_path)
    (line, shown), (loop, *_) = (
        blocks(ROOT / "README.md", "console")[0].split("\n", 1),
        blocks(ROOT / "README.md", "python"),
    )
    assert loop in text_of(Path(script))
    words = [sys.executable if word == "python" else word for word in split(line)[2:]]
    command, one_thread = [sys.executable, "-m", "andon", *words], os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=tmp_path, env=one_thread, text=True, capture_output=True, check=False)
    said = (ended.stdout + ended.stderr).replace(sys.executable, "python")
    assert 1 == ended.returncode, said
    without_seconds = re.compile(r"\(\d+\.\d s\)")
    shown, said = (without_seconds.sub("", text).strip() for text in (shown, said))
    assert NUMBER.sub("#", shown) == NUMBER.sub("#", said), f"paste into README:\n{said}"
    numbers = [[float(each) for each in NUMBER.findall(text)] for text in (shown, said)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-3)


@pytest.mark.usefixtures("at_home")
def test_shown_commands_work() -> None:
    """Behavior: every `andon` line that is shown works on a user's folder; a tier not yet measured is judged so."""
    lines = ["andon train configs/tiny.toml --out reports/runs/demo", *andon_lines()]
    lines = [line for line in lines if not is_large(line)]
    with endpoint() as server:
        for line in lines:
            result = CliRunner().invoke(cli, shortened(line, server.url))
            allowed = (exits for shown, exits in EXITS.items() if shown in line)
            expected = next(allowed, {0})
            assert result.exit_code in expected, f"{line}\n{result.output}"
    assert len(lines) > 15


@pytest.mark.parametrize("line", [line for line in andon_lines() if is_large(line)])
def test_large_commands_are_spelled_right(line: str) -> None:
    """Behavior: the options of a line too large for a test are ones its verb has, and its files are shipped."""
    command: click.Command | None = cli
    words = split(line, comments=True)[1:]
    while isinstance(command, click.Group):
        context = click.Context(command)
        known = words[0] in command.list_commands(context)
        command = command.get_command(
            context, words.pop(0) if known else "drive" if "--" in words else "run"
        )  # `verify`
    assert command
    context = command.make_context(command.name, words)
    read = {name: value for name, value in context.params.items() if name not in ("out", "output")}
    assert all((ROOT / value).exists() for value in read.values() if isinstance(value, Path))
