"""`andon plan`."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from andon.cli.main import cli
from andon.cli.plan import EXAMPLES

pytestmark = pytest.mark.tier2
ROOT = Path(__file__).parents[2]

SMALL = """
[model]
vocab_size = 100
hidden_size = 8
intermediate_size = 24
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1

[training]
batch_size = 6
accumulation_steps = 2

[data]
sequence_length = 16
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The file of a model small enough to count by hand."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return path


def plan(*arguments: str | Path) -> Result:
    """Run the verb."""
    return CliRunner().invoke(cli, ["plan", *map(str, arguments)])


def test_json_holds_every_size_in_bytes(small: Path) -> None:
    """Reference: counted by hand. Attention is 2 x (8x8 + 2 x 8x4 + 8x8), the FFN 2 x 3 x 8x24, five norms of 8."""
    result = plan(small, "--json", "--memory", "1MB")
    assert result.exit_code == 0, result.output
    tokens, every, step_counts = 3 * 16, 3176 * 4, 21 * 4
    # a token: input, middle and both normed states, 4 x 8; q, k, v and y, 2 x (8 + 4); 3 x 24; two log-sum-exps
    kept = 2 * tokens * 4 * (4 * 8 + 2 * (8 + 4) + 3 * 24 + 2)
    batch_rotary_mask = tokens * (3 * 8 + 4 * 4 + 16 * 4)
    embedding = 100 * 8 * 4
    loss = {
        "when": "loss",
        "weights": every,
        "gradients": every,
        "optimizer": 2 * every + step_counts,
        "activations": kept + tokens * 8 * 4,
        "head": 2 * tokens * 100 * 4 + tokens * (3 * 8 * 4 + 8),
        "other": batch_rotary_mask + embedding,
    }
    loss["total"] = sum(size for size in loss.values() if isinstance(size, int))
    found = json.loads(result.stdout)
    when = [snapshot["when"] for snapshot in found.pop("snapshots")]
    assert ["loss", "backward, last block", "backward, first block", "backward, embedding", "optimizer"] == when
    working = 2 * tokens * 24 * 4 + tokens * 8 * 4
    assert {
        "method": "full",
        "rank": None,
        "rows": 3,
        "sequence_length": 16,
        "dtype": "float32",
        "activation_checkpointing": False,
        "accumulation_steps": 2,
        "parameters": {"embedding": 800, "attention": 384, "mlp": 1152, "norms": 40, "head": 800, "total": 3176},
        "trainable": 3176,
        "bytes": {
            "weights": every,
            "gradients": every,
            "optimizer": 2 * every + step_counts,
            "activations": kept + working,
            "head": loss["head"],
            "other": loss["other"],
        },
        "peak": loss,
        "memory": 1_000_000,
        "largest_rows": 28,
    } == found


def test_the_table_is_narrow_and_tells_gb_from_gib(small: Path) -> None:
    """Behavior: at most 100 columns; 10^9 is GB and 2^30 GiB; the same numbers as in the JSON."""
    result = plan(ROOT / "configs" / "7b.toml", "--memory", "141GB")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines[1:])) <= 100  # the first holds the file's name
    assert ["total", "6,738,415,616"] in [line.split() for line in lines]
    assert ["weights", "26,953,662,464", "26.954", "25.103", "26.954"] in [line.split() for line in lines]
    assert "141.000 GB (131.316 GiB): micro-batches of up to" in lines[-1]
    assert "memory" not in plan(small).stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("method", "config", "rank", "trainable", "share"),
    [("lora", "124m", 16, "1,179,648", "0.73%"), ("qlora", "7b", 64, "67,108,864", "1.00%")],
)
def test_trainable_parameters_are_printed(method: str, config: str, rank: int, trainable: str, share: str) -> None:
    """Reference: 2 r x (inputs + outputs) over q, k, v and o of every layer; and their share of all."""
    result = plan(ROOT / "configs" / f"{config}.toml", "--method", method)
    assert result.exit_code == 0, result.output
    assert ["trainable", trainable, share] in [line.split() for line in result.stdout.splitlines()]
    assert f"of rank {rank}" in result.stdout
    assert max(map(len, result.stdout.splitlines()[1:])) <= 100


def test_7b_qlora_of_rank_64_takes_at_most_6_gb() -> None:
    """Reference: the published claim: batch 1, length 512, activation checkpointing, bf16, double quantization."""
    changes = {
        "training.batch_size": "1",
        "training.accumulation_steps": "1",
        "training.dtype": "bfloat16",
        "training.activation_checkpointing": "true",
        "data.sequence_length": "512",
        "qlora.rank": "64",
        "qlora.double_quantization": "true",
    }
    overrides = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    found = json.loads(plan(ROOT / "configs" / "7b.toml", "--method", "qlora", *overrides, "--json").stdout)
    assert (64, 67_108_864, 1, 512) == tuple(found[key] for key in ("rank", "trainable", "rows", "sequence_length"))
    assert 5.0e9 < found["peak"]["total"] <= 6.0e9


def test_an_adapter_that_does_not_fit_is_refused(small: Path) -> None:
    """Behavior: an unknown target and too high a rank are mistakes of the configuration: exit code 2, one message."""
    unknown = plan(small, "--method", "lora", "--set", 'lora.target_modules=["c_attn"]')
    assert unknown.exit_code == 2
    assert "target_modules: 'c_attn' matches no module; the linear ones end in down_proj, gate_proj" in unknown.stderr
    high = plan(small, "--method", "qlora")
    assert high.exit_code == 2
    assert "rank=64 is above the smaller side of model.layers.0.self_attn.q_proj (8 x 8)" in high.stderr


def test_memory_too_small_for_a_row_says_what_helps() -> None:
    """Behavior: the remedy is one that is not in use already."""
    path = str(ROOT / "configs" / "7b.toml")
    assert "Try a smaller model" in plan(path, "--memory", "24GB").stdout
    off = plan(path, "--memory", "24GB", "--set", "training.activation_checkpointing=false").stdout
    assert "Try --set training.activation_checkpointing=true" in off


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24 * 10**9), ("80GiB", 80 * 2**30), ("512MB", 512 * 10**6), ("1.001 TB", 1001 * 10**9)]
)
def test_sizes_of_memory_are_read_exactly(text: str, size: int, small: Path) -> None:
    """Behavior: decimal and binary units, fractions without rounding."""
    assert size == json.loads(plan(small, "--json", "--memory", text).stdout)["memory"]


@pytest.mark.parametrize("text", ["24", "24gb", "GB", "-1GB", "0GB", "1e3GB", "24GB/s", "٣GB", ""])
def test_bad_sizes_of_memory_are_refused_with_the_rule(text: str, small: Path) -> None:
    """Behavior: exit code 2, the value, the rule, an example."""
    result = plan(small, "--memory", text)
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert f"{text!r} is not a size: write a positive number and one of B, kB, MB, GB" in said
    assert "for example 24GB" in said


def test_overrides_and_their_mistakes_are_those_of_the_configuration(small: Path) -> None:
    """Behavior: `--set` changes the plan; a bad file or key is one message and exit code 2."""
    assert json.loads(plan(small, "--json", "--set", "training.accumulation_steps=1").stdout)["rows"] == 6
    wrong = plan(small, "--set", "model.n_layer=3")
    assert (2, f"andon: {small}: model.n_layer=3: unknown key; the right key is 'model.num_hidden_layers'\n") == (
        wrong.exit_code,
        wrong.stderr,
    )
    missing = plan(small.with_name("missing.toml"))
    assert missing.exit_code == 2
    assert missing.stderr.startswith(f"andon: {small.with_name('missing.toml')}: cannot be read")


@pytest.mark.parametrize("example", [line.strip() for line in EXAMPLES.splitlines() if "andon plan" in line])
def test_the_examples_of_its_help_run(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: each line of the help works as it stands, from the repository's root."""
    assert example in plan("--help").stdout
    monkeypatch.chdir(ROOT)
    done = plan(*shlex.split(example)[2:])
    assert (0, True) == (done.exit_code, "peak" in done.stdout), done.output


def test_planning_imports_no_torch(small: Path) -> None:
    """Behavior: arithmetic alone; torch would cost more than a second."""
    code = "import sys, andon.cli.main as m; m.cli(sys.argv[1:], standalone_mode=False); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", small], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"
