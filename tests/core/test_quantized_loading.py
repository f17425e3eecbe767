"""Loading in 4 bits: the same codes as of the loaded model, without ever holding that."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from andon.core.adapters.nf4 import NF4Linear, QuantError, quantize_model
from andon.core.config import QloraConfig
from andon.core.formats.huggingface_export import export_huggingface
from andon.core.formats.interchange import load_model
from andon.core.model.llama import Llama, build_model
from andon.verify.observation.tensor_memory import TensorMemory
from tests.core.foreign import logits, new_model, unsealed
from tests.core.test_gguf import write_gguf


def written(model: Llama, kind: str, folder: Path) -> Path:
    """The model in a file or directory of that kind."""
    if kind == "gguf":
        write_gguf(folder / "m.gguf", model)
        return folder / "m.gguf"
    export_huggingface(model, folder / "hf")
    return folder / "hf"


@pytest.mark.tier2
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("kind", ["directory", "gguf"])
def test_loading_quantized_is_quantizing_what_was_loaded(kind: str, double: bool, tmp_path: Path) -> None:
    """Behavior: the same codes and values, whatever holds the weights, in the requested dtype."""
    path = written(new_model(), kind, tmp_path)
    expected, _ = load_model(path, torch.bfloat16)
    quantize_model(expected, double)
    loaded, _ = load_model(path, torch.bfloat16, QloraConfig(double_quantization=double))
    theirs, ours = expected.state_dict(), loaded.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    assert torch.equal(logits(expected), logits(loaded))


@pytest.mark.tier3
@pytest.mark.parametrize("kind", ["directory", "gguf"])
def test_loading_quantized_never_holds_the_full_model(kind: str, tmp_path: Path) -> None:
    """Behavior: the most tensor bytes alive while loading are well below those of the unquantized model."""
    shape: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 6, "vocab_size": 100}
    model = build_model(new_model(**shape).config, 0)
    path = written(model, kind, tmp_path)
    full = sum(parameter.nbytes for parameter in model.parameters())
    with TensorMemory() as loading:
        quantized, _ = load_model(path, quantize=QloraConfig())
    assert loading.peak < full / 2
    assert loading.live < full / 5
    assert any(isinstance(module, NF4Linear) for module in quantized.modules())


@pytest.mark.tier2
def test_a_file_with_nan_is_refused_when_quantized(tmp_path: Path) -> None:
    """Behavior: by the tensor's name."""
    export_huggingface(new_model(), tmp_path / "hf")
    file = unsealed(tmp_path / "hf") / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.0.mlp.down_proj.weight"][0, 0] = math.inf
    save_file(weights, file)
    with pytest.raises(QuantError, match=r"model\.layers\.0\.mlp\.down_proj\.weight holds infinity or NaN"):
        load_model(tmp_path / "hf", quantize=QloraConfig())
