"""`andon export` and `andon import`: thin, and one clear message where they refuse."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from andon.cli.main import cli
from andon.core.data.tokenizer import train_tokenizer
from andon.core.formats.huggingface_export import export_huggingface
from andon.core.formats.interchange import load_model
from tests.core.foreign import logits, new_model

pytestmark = pytest.mark.tier2


def andon(*arguments: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A Hugging Face directory with a tokenizer."""
    export_huggingface(new_model(vocab_size=280), tmp_path / "hf", train_tokenizer(["some words"], 280))
    return tmp_path / "hf"


@pytest.mark.parametrize("verb", [("export", "--format", "hf"), ("import",)])
def test_writes_a_directory_that_says_the_same(model: Path, tmp_path: Path, verb: tuple[str, ...]) -> None:
    """Behavior: weights and tokenizer come out as they went in, and the line says how much was written."""
    result = andon(*verb, "--model", model, "--out", tmp_path / "out")
    assert (0, "") == (result.exit_code, result.stderr)
    assert "12,496 parameters in float32" in result.stdout.replace(str(tmp_path), "")
    written, tokenizer = load_model(tmp_path / "out")
    assert torch.equal(logits(load_model(model)[0]), logits(written))
    assert tokenizer is not None


def test_casts_on_request(model: Path, tmp_path: Path) -> None:
    """Behavior: `--dtype bfloat16` halves the file, and the configuration says so."""
    assert 0 == andon("export", "--model", model, "--out", tmp_path / "out", "--dtype", "bfloat16").exit_code
    assert "bfloat16" == json.loads((tmp_path / "out" / "config.json").read_text())["dtype"]
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (model, tmp_path / "out")]
    assert sizes[0] > 1.8 * sizes[1]


def test_says_when_there_is_no_tokenizer(tmp_path: Path) -> None:
    """Behavior: the weights are written all the same, and the missing file is named."""
    export_huggingface(new_model(), tmp_path / "hf")
    result = andon("import", "--model", tmp_path / "hf", "--out", tmp_path / "out")
    assert 0 == result.exit_code
    assert "put the model's tokenizer.json there" in result.stderr
    told = andon("generate", "--model", tmp_path / "hf", "--prompt", "a")
    assert (2, True) == (told.exit_code, "hf: has no tokenizer; put its tokenizer.json there" in told.stderr)


def test_refuses_with_one_message(model: Path, tmp_path: Path) -> None:
    """Behavior: exit code 2, the rule on stderr, no traceback, and what is on disk stays."""
    before = (model / "model.safetensors").read_bytes()
    for result, complaint in [
        (andon("export", "--model", model, "--out", model), "is not an empty folder"),
        (andon("import", "--model", tmp_path / "nowhere.gguf", "--out", tmp_path / "out"), "cannot be read"),
        (
            andon("export", "--model", model, "--format", "onnx", "--out", tmp_path / "out"),
            "'onnx' is not one of 'hf', 'peft'",
        ),
    ]:
        assert 2 == result.exit_code
        assert complaint in result.stderr
        assert "Traceback" not in result.output
    assert before == (model / "model.safetensors").read_bytes()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["export", "import"])
def test_help_shows_an_example_and_needs_no_torch(verb: str) -> None:
    """Behavior: `--help` prints a command that starts with the verb, and imports no package of ours."""
    code = (
        "import sys; from click.testing import CliRunner; from andon.cli.main import cli\n"
        f"print(CliRunner().invoke(cli, ['{verb}', '--help']).stdout)\n"
        "assert not {'torch', 'core', 'rich'} & sys.modules.keys()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (0, "") == (result.returncode, result.stderr)
    assert f" andon {verb} --model" in result.stdout.partition("Example")[2]
