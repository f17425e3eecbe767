"""Directories in 4 bits: written, read, spoilt; and, where they are installed, beside bitsandbytes and transformers."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from andon.core.adapters.nf4 import (
    NF4Linear,
    bits_per_parameter,
    dequantize_nf4,
    dynamic_levels,
    nf4_levels,
    quantize_model,
    quantize_nf4,
)
from andon.core.formats.bitsandbytes import STATE, from_bitsandbytes, to_bitsandbytes
from andon.core.formats.huggingface_export import export_huggingface
from andon.core.formats.interchange import load_model
from andon.core.model.llama import Llama
from tests.core.foreign import assert_refused, logits, new_model, unsealed
from tests.core.stored import assert_same, normal
from tests.core.test_smollm2 import path  # noqa: F401 - a fixture
from tests.tolerances import TOLERANCE, distance

CPU = torch.device("cpu")
MATRIX = "model.layers.1.mlp.up_proj.weight"


def quantized_modules(model: nn.Module) -> dict[str, NF4Linear]:
    """The projections in 4 bits, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, NF4Linear)}


def assert_same_model(expected: Llama, actual: Llama) -> None:
    """Every part of every matrix in 4 bits, and the logits, to the bit."""
    theirs = quantized_modules(actual)
    for name, module in quantized_modules(expected).items():
        assert_same(module.quantized, theirs[name].quantized)
    assert torch.equal(logits(expected), logits(actual))


@pytest.mark.tier2
@pytest.mark.parametrize("double", [True, False])
def test_a_quantized_model_is_written_and_read(double: bool, tmp_path: Path) -> None:
    """Behavior: a directory with 4-bit tensors gives the same model, in 4 bits, and says so in its config.json."""
    model = new_model().bfloat16()
    quantize_model(model, double)
    export_huggingface(model, tmp_path / "hf")
    loaded, _ = load_model(tmp_path / "hf")
    assert {torch.bfloat16} == {parameter.dtype for parameter in loaded.parameters()}
    assert_same_model(model, loaded)
    table = json.loads((tmp_path / "hf" / "config.json").read_text())["quantization_config"]
    assert ("bitsandbytes", True, "nf4", double) == (
        table["quant_method"],
        table["load_in_4bit"],
        table["bnb_4bit_quant_type"],
        table["bnb_4bit_use_double_quant"],
    )


@pytest.mark.tier2
def test_a_damaged_4_bit_file_is_refused_by_folder_and_tensor(tmp_path: Path) -> None:
    """Behavior: a part that is missing, one too many, or a matrix that is never quantized."""
    model = new_model()
    quantize_model(model)
    export_huggingface(model, tmp_path / "hf")
    whole = load_file(unsealed(tmp_path / "hf") / "model.safetensors")

    def refused(tensors: dict[str, Tensor], complaint: str) -> None:
        save_file(tensors, tmp_path / "hf" / "model.safetensors")
        assert_refused(tmp_path / "hf", complaint)

    refused({name: part for name, part in whole.items() if name != f"{MATRIX}.absmax"}, f"{MATRIX}.absmax is absent")
    refused({name: part for name, part in whole.items() if name != MATRIX}, f"{MATRIX} is missing")
    refused(whole | {f"{MATRIX}.extra": torch.zeros(2)}, f"{MATRIX}.extra is unexpected")
    refused(whole | {f"lm_head.weight{STATE}": torch.zeros(2)}, "lm_head.weight is quantized; only the blocks'")


@pytest.fixture(scope="module")
def bitsandbytes() -> Iterator[Any]:
    """The reference, without the compiler, which would take a minute for each new size."""
    reason = "bitsandbytes is not installed: pip install 'bitsandbytes>=0.50'"
    with torch.compiler.set_stance("force_eager"):
        yield pytest.importorskip("bitsandbytes.functional", reason=reason)


def theirs(functional: Any, weight: Tensor, double: bool) -> tuple[Tensor, Any]:
    """Codes and state."""
    return functional.quantize_4bit(weight, blocksize=64, compress_statistics=double, quant_type="nf4")


def adversarial() -> dict[str, Tensor]:
    """Tensors that rounding, blocks and scales can go wrong on."""
    outlier = normal(40, 64)
    outlier[3, 7] = 3e38
    holes = normal(300, 64)
    holes[5:200] = 0
    middles = (nf4_levels(CPU)[:-1] + nf4_levels(CPU)[1:]) / 2
    return {
        "normal": normal(96, 640),
        "large": normal(1024, 3072) * 0.02,
        "cauchy": normal(64, 1024) / normal(64, 1025)[:, 1:],
        "zeros": torch.zeros(32, 64),
        "a few zero blocks": holes,
        "denormal": normal(16, 64) * 1e-41,
        "tiny": normal(16, 64) * 1e-37,
        "mixed scales": normal(512, 64) * torch.logspace(-44, 37, 512)[:, None],
        "one huge outlier": outlier,
        "constant": torch.full((8, 64), -0.3),
        "halfway between levels": torch.cat((torch.ones(1), middles, middles.nextafter(torch.ones(1))))
        .repeat(60)
        .view(30, 62),
        "a short last block": normal(7, 50),
        "a short last block of zeros": torch.cat((normal(128), torch.zeros(10))).view(6, 23),
        "a short last denormal block": torch.cat((normal(128), torch.full((10,), 1e-42))).view(6, 23),
        "odd": normal(5, 13),
        "one": normal(1, 1),
        "a block and one more": normal(13, 5),
        "256 blocks and one more": normal(257, 64),
        "256 blocks and a bit": normal(2, 256 * 32 + 1),
        "equal blocks": normal(1, 64).repeat(600, 1),
    }


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("double", [False, True], ids=["single", "double"])
@pytest.mark.parametrize("name", adversarial())
def test_codes_absmaxes_and_values_are_those_of_bitsandbytes(
    name: str, double: bool, dtype: torch.dtype, bitsandbytes: Any
) -> None:
    """Reference: bitsandbytes 0.50 on the same tensor: every part and every value, to the bit."""
    weight = adversarial()[name].to(dtype).nan_to_num()  # what float16 cannot hold is its largest number
    codes, state = theirs(bitsandbytes, weight, double)
    ours = quantize_nf4(weight, double=double)
    assert torch.equal(codes.flatten(), ours.codes)
    assert torch.equal(state.absmax, ours.absmax)
    if double:
        assert ours.nested is not None
        assert torch.equal(state.state2.absmax, ours.nested.absmax)
        assert torch.equal(state.state2.code, ours.nested.levels)
        assert torch.equal(state.offset, ours.nested.offset)
    expected, values = bitsandbytes.dequantize_4bit(codes, state), dequantize_nf4(ours)
    assert expected.dtype == values.dtype
    if dtype == torch.bfloat16:  # on processors with AVX512-BF16 it flushes what is denormal, on others it does not
        expected, values = (part.masked_fill(part.abs() < torch.finfo(dtype).tiny, 0) for part in (expected, values))
    assert torch.equal(expected, values)


@pytest.mark.slow
def test_both_level_tables_are_those_of_bitsandbytes(bitsandbytes: Any) -> None:
    """Reference: its tables, to the bit."""
    assert torch.equal(bitsandbytes.get_4bit_type("nf4", device="cpu"), nf4_levels(CPU))
    assert torch.equal(bitsandbytes.create_dynamic_map(), dynamic_levels(CPU))


@pytest.mark.slow
@pytest.mark.parametrize("double", [False, True], ids=["single", "double"])
def test_files_are_those_of_bitsandbytes(double: bool, bitsandbytes: Any) -> None:
    """Reference: its own dictionary of tensors, byte for byte; each reads the other's."""
    weight = normal(48, 128).bfloat16()
    codes, state = theirs(bitsandbytes, weight, double)
    expected = {"w": codes} | {f"w.{part}": tensor for part, tensor in state.as_dict(packed=True).items()}
    ours = quantize_nf4(weight, double=double)
    written = to_bitsandbytes("w", ours)
    assert expected.keys() == written.keys()
    for part, tensor in expected.items():
        assert torch.equal(tensor, written[part]), part
    assert_same(ours, from_bitsandbytes("w", expected, (48, 128)))
    packed = {part.removeprefix("w."): tensor for part, tensor in written.items() if part != "w"}
    read = bitsandbytes.QuantState.from_dict(packed, device=CPU)
    assert torch.equal(dequantize_nf4(ours), bitsandbytes.dequantize_4bit(written["w"], read))


@pytest.mark.slow
@pytest.mark.parametrize("double", [False, True], ids=["single", "double"])
def test_transformers_reads_our_4_bit_directory(double: bool, tmp_path: Path, bitsandbytes: Any) -> None:
    """Reference: `transformers` with bitsandbytes: equal values, and logits as far off as its products in bf16."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = new_model(hidden_size=64, intermediate_size=128, vocab_size=100)
    quantize_model(model, double)
    export_huggingface(model, tmp_path / "ours")
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", device_map="cpu")
    for name, module in quantized_modules(model).items():
        weight = reference.get_submodule(name).weight
        assert torch.equal(bitsandbytes.dequantize_4bit(weight.data, weight.quant_state), module.dequantize()), name
    with torch.no_grad():  # last: bitsandbytes repacks its codes for its kernel
        found = reference(torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])).logits
    assert distance(found, logits(model)) < TOLERANCE[torch.bfloat16]


@pytest.mark.slow
@pytest.mark.parametrize("double", [False, True], ids=["single", "double"])
def test_reads_what_transformers_quantizes_and_writes(double: bool, tmp_path: Path, bitsandbytes: Any) -> None:
    """Reference: a directory that `transformers` quantized with bitsandbytes: our codes of the same weights."""
    del bitsandbytes
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = new_model(hidden_size=64, intermediate_size=128, vocab_size=100)
    export_huggingface(model, tmp_path / "ours")
    table = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double
    )
    transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", dtype=torch.float32, device_map="cpu", quantization_config=table
    ).save_pretrained(tmp_path / "theirs")
    quantize_model(model, double)
    loaded, _ = load_model(tmp_path / "theirs")
    assert_same_model(model, loaded)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("double", "bits", "file_bits", "error"), [(False, 4.5, 4.51, 0.0935), (True, 4.127, 4.16, 0.0936)]
)
def test_published_weights_take_the_published_bits(
    double: bool,
    bits: float,
    file_bits: float,
    error: float,
    path: Path,  # noqa: F811 - the fixture
    tmp_path: Path,
    bitsandbytes: Any,
) -> None:
    """Reference: SmolLM2-135M's blocks: relative error; bits per weight, also of the file; codes of bitsandbytes."""
    model, _ = load_model(path)
    weights = {name: weight.detach() for name, weight in model.named_parameters() if name.endswith("_proj.weight")}
    stored = {name: quantize_nf4(weight, double=double, name=name) for name, weight in weights.items()}
    for name, weight in weights.items():
        codes, state = theirs(bitsandbytes, weight, double)
        assert torch.equal(codes.flatten(), stored[name].codes), name
        assert torch.equal(state.absmax, stored[name].absmax), name
        assert torch.equal(bitsandbytes.dequantize_4bit(codes, state), dequantize_nf4(stored[name])), name
    assert bits_per_parameter(stored.values()) == pytest.approx(bits, abs=5e-4)
    off = sum(
        float((dequantize_nf4(stored[name]) - weight).double().square().sum()) for name, weight in weights.items()
    )
    whole = sum(float(weight.double().square().sum()) for weight in weights.values())
    assert math.sqrt(off / whole) <= error
    parts = {part: tensor for name, weight in stored.items() for part, tensor in to_bitsandbytes(name, weight).items()}
    save_file(parts, tmp_path / "model.safetensors")
    count = sum(weight.numel() for weight in weights.values())
    assert 8 * (tmp_path / "model.safetensors").stat().st_size / count <= file_bits
