"""Adapters beside `peft`: the same files, the same targets, the same logits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from andon.core.adapters.lora import add_lora, lora_parameters, merge_lora, unwrap_lora
from andon.core.adapters.targets import LoraError
from andon.core.config import LoraConfig, ModelConfig
from andon.core.formats.huggingface_export import export_huggingface
from andon.core.formats.peft import load_adapter, save_adapter
from andon.core.formats.peft_config import ALLOWED_VALUES, INFORMATIONAL_FIELDS, OUR_KEYS
from andon.core.model.llama import Llama, build_model
from tests.core.shapes import SHAPE
from tests.tolerances import TOLERANCE, distance

pytestmark = [
    pytest.mark.slow,
    # peft asks transformers by a name that transformers is about to drop.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

FP32 = TOLERANCE[torch.float32]
SETTINGS: dict[str, dict[str, Any]] = {
    "usual": {"rank": 4},
    "rank-stabilized": {"rank": 4, "alpha": 3.5, "use_rslora": True, "dropout": 0.1},
    "all-linear": {"rank": 2, "target_modules": "all-linear"},
    "pattern": {"rank": 4, "target_modules": r".*layers\.1\..*(q|down)_proj"},
    "full name": {"rank": 2, "target_modules": ["model.layers.0.self_attn.q_proj", "mlp.up_proj"]},
    "own ranks": {
        "rank": 4,
        "alpha": 10,
        "target_modules": ["q_proj", "v_proj", "up_proj"],
        "rank_pattern": {r"layers\.1\.self_attn\.q_proj": 2, "q_proj": 3, "up_proj": 1},
        "alpha_pattern": {"0.self_attn.[qv]_proj": 12, "up_proj": 2.5},
        "use_rslora": True,
    },
}


@pytest.fixture(scope="module")
def peft() -> Any:
    """The reference."""
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'transformers>=5'")
    return pytest.importorskip("peft", reason="peft is not installed: pip install 'peft>=0.21,<0.22'")


@pytest.fixture
def base(peft: Any, tmp_path: Path) -> Path:
    """A small model as a Hugging Face directory."""
    del peft
    export_huggingface(llama(), tmp_path / "base")
    return tmp_path / "base"


def llama() -> Llama:
    """The same weights each time, larger than `init_weights` draws them, so that the layers matter."""
    model = build_model(ModelConfig.model_validate(SHAPE), 0)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data *= 8
    return model


def reference(base: Path) -> Any:
    """transformers' model of the directory."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def stir(factors: list[torch.nn.Parameter]) -> None:
    """As if trained."""
    for number, factor in enumerate(factors):
        torch.nn.init.normal_(factor, std=0.3, generator=torch.Generator().manual_seed(number))


def logits(model: Any) -> Tensor:
    """Of a few tokens, by our model or a reference, in evaluation."""
    model.eval()
    with torch.no_grad():
        output = model(torch.arange(20)[None] % SHAPE["vocab_size"])
    return output if isinstance(output, Tensor) else output.logits


def theirs(config: LoraConfig) -> dict[str, Any]:
    """Our configuration as arguments of PEFT's."""
    fields = {field: getattr(config, ours) for field, ours in OUR_KEYS.items()}
    return fields | {"lora_alpha": config.resolved_alpha, "task_type": "CAUSAL_LM"}


@pytest.mark.parametrize("keys", SETTINGS.values(), ids=SETTINGS)
def test_peft_reads_ours(peft: Any, base: Path, tmp_path: Path, keys: dict[str, Any]) -> None:
    """Reference: `peft` on the adapter saved here: equal logits, as adapter and merged."""
    model = llama()
    plain = logits(model)
    add_lora(model, LoraConfig.model_validate(keys), torch.Generator().manual_seed(1))
    stir(list(lora_parameters(model, "default").values()))
    save_adapter(model, tmp_path / "adapter", "default", str(base))
    loaded = peft.PeftModel.from_pretrained(reference(base), tmp_path / "adapter")
    expected = logits(loaded)
    assert distance(expected, plain) > 0.1
    assert distance(logits(model), expected) < FP32
    merge_lora(model, "default")
    unwrap_lora(model)
    assert distance(logits(model), logits(loaded.merge_and_unload())) < FP32


@pytest.mark.parametrize("keys", SETTINGS.values(), ids=SETTINGS)
def test_reads_pefts(peft: Any, base: Path, tmp_path: Path, keys: dict[str, Any]) -> None:
    """Reference: `peft`'s own adapter, saved by it: the same modules, scales and logits here, and back again."""
    config = LoraConfig.model_validate(keys)
    adapted = peft.get_peft_model(reference(base), peft.LoraConfig(**theirs(config)))
    stir([parameter for parameter in adapted.parameters() if parameter.requires_grad])
    adapted.save_pretrained(tmp_path / "adapter")
    model = llama()
    names = load_adapter(model, tmp_path / "adapter")
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in adapted.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }
    assert set(layers) == set(names)
    for name, layer in layers.items():
        adapter = model.get_submodule(f"{name}.adapters.default")
        assert layer.scaling["default"] == pytest.approx(adapter.scale)
        assert layer.r["default"] == lora_parameters(model, "default")[f"{name}.lora_A.weight"].shape[0]
    assert distance(logits(model), logits(adapted)) < FP32
    save_adapter(model, tmp_path / "again", "default", str(base))
    again = peft.PeftModel.from_pretrained(reference(base), tmp_path / "again")
    assert distance(logits(again), logits(adapted)) < FP32


def test_training_agrees_with_peft(peft: Any, base: Path, tmp_path: Path) -> None:
    """Reference: `peft`: equal gradients of both factors in every adapted module, from the same adapter."""
    model = llama()
    add_lora(model, LoraConfig(rank=3, target_modules="all-linear"), torch.Generator().manual_seed(1))
    stir(list(lora_parameters(model, "default").values()))
    save_adapter(model, tmp_path / "adapter", "default", str(base))
    loaded = peft.PeftModel.from_pretrained(reference(base), tmp_path / "adapter", is_trainable=True)
    tokens_BT = torch.arange(20)[None] % SHAPE["vocab_size"]
    model(tokens_BT).log_softmax(-1)[..., 3].sum().backward()
    loaded(tokens_BT).logits.log_softmax(-1)[..., 3].sum().backward()
    grads = {name: p.grad for name, p in loaded.named_parameters() if p.grad is not None}
    for name, factor in lora_parameters(model, "default").items():
        assert factor.grad is not None
        expected = grads[f"base_model.model.{name.removesuffix('.weight')}.default.weight"]
        assert distance(factor.grad, expected) < 10 * FP32, name
    assert 2 * 7 * 2 == len(grads)


def test_initial_values_are_distributed_as_pefts(peft: Any, base: Path) -> None:
    """Reference: `peft`'s own initial A: the same bound and, within a few percent, the same deviation; B zero."""
    config = LoraConfig(rank=16, target_modules=["q_proj", "down_proj"])
    adapted = peft.get_peft_model(reference(base), peft.LoraConfig(**theirs(config)))
    model = llama()
    add_lora(model, config, torch.Generator().manual_seed(1))
    own = lora_parameters(model, "default")
    for name, parameter in adapted.named_parameters():
        if "lora_" not in name:
            continue
        ours = own[name.removeprefix("base_model.model.").replace(".default", "")]
        assert ours.shape == parameter.shape
        if "lora_B" in name:
            assert ours.abs().max() == parameter.abs().max() == 0
        else:
            assert ours.std().item() == pytest.approx(parameter.std().item(), rel=0.15)
            assert max(ours.abs().max(), parameter.abs().max()) <= parameter.shape[1] ** -0.5


def test_every_field_of_peft_is_known(peft: Any, tmp_path: Path) -> None:
    """Reference: `peft`'s dataclass: each field, and no other, is honored, noted or refused; defaults are neutral."""
    peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM").save_pretrained(tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    fields = set(peft.LoraConfig.__dataclass_fields__)
    assert {*ALLOWED_VALUES, *OUR_KEYS, *INFORMATIONAL_FIELDS} == fields
    assert written.keys() <= fields
    for field, value in written.items():
        assert field not in ALLOWED_VALUES or value in ALLOWED_VALUES[field], field
    defaults = peft.LoraConfig()
    assert (8, 8, 0.0, False) == (defaults.r, defaults.lora_alpha, defaults.lora_dropout, defaults.use_rslora)


@pytest.mark.parametrize("targets", [["query"], ["embed_tokens"], "q_proj", r".*self_attn.*"])
def test_refuses_with_peft(peft: Any, base: Path, targets: list[str] | str) -> None:
    """Reference: what `peft` cannot adapt either, or what would be an embedding's adapter there."""
    config = LoraConfig.model_validate({"rank": 2, "target_modules": targets})
    with pytest.raises(LoraError):
        add_lora(llama(), config, torch.Generator().manual_seed(1))
    if targets != ["embed_tokens"]:
        with pytest.raises(ValueError, match=r"not found in the base model|not supported|No modules were targeted"):
            peft.get_peft_model(reference(base), peft.LoraConfig(**theirs(config)))
