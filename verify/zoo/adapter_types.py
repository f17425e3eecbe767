"""Every adapter type of the installed PEFT, on several base architectures of the installed transformers."""

import dataclasses
from collections.abc import Callable
from typing import Any

import peft
from torch import nn

from andon.verify.access.larger_weights import rescale
from andon.verify.subject import Subject
from andon.verify.subjects.peft import adapted
from andon.verify.zoo import causal_models as bases

library: Any = peft  # whose types change from version to version
PACKAGE = "peft"
WARM = ("transformers",)
CHECKS = ("adapters",)
# By base: the linear layers that get an adapter, those of them that lead back into the residual, and a norm.
LAYERS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "llama": (["q_proj", "v_proj", "down_proj"], ["down_proj"], ["input_layernorm"]),
    "gpt2": (["c_attn", "c_fc"], ["c_fc"], ["ln_1"]),
    "gpt_neox": (["query_key_value", "dense_4h_to_h"], ["dense_4h_to_h"], ["input_layernorm"]),
    "opt": (["q_proj", "v_proj", "fc2"], ["fc2"], ["self_attn_layer_norm"]),
}
EMBEDDINGS = {"llama": "embed_tokens", "gpt2": "wte", "gpt_neox": "embed_in", "opt": "embed_tokens"}
PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING")
# By type: what it needs beyond a rank, an alpha and the layers.
OWN: dict[str, Callable[[int, float], dict[str, Any]]] = {
    "ADALORA": lambda rank, alpha: {"init_r": rank, "target_r": rank, "lora_alpha": alpha, "total_step": 100},
    "BOFT": lambda rank, alpha: {"boft_block_size": 4},
    "OFT": lambda rank, alpha: {"r": 0, "oft_block_size": 4},
    "HRA": lambda rank, alpha: {"r": 2 * rank},
    "GRALORA": lambda rank, alpha: {"r": 2 * rank, "gralora_k": 2, "alpha": 2 * alpha},
    "WAVEFT": lambda rank, alpha: {"n_frequency": 50},
    "ROAD": lambda rank, alpha: {"group_size": 16},
    "VBLORA": lambda rank, alpha: {"r": rank, "num_vectors": 16, "vector_length": 16, "topk": 2},
    "ADAPTION_PROMPT": lambda rank, alpha: {"adapter_len": rank, "adapter_layers": 2},
    "TRAINABLE_TOKENS": lambda rank, alpha: {"token_indices": [3, 5, 7]},
    # These begin as their base where they are asked to, as their documents say.
    "C3A": lambda rank, alpha: {"block_size": 16, "init_weights": True},
    "FOURIERFT": lambda rank, alpha: {"n_frequency": 50, "init_weights": True},
    "ADAMSS": lambda rank, alpha: {"r": 8, "num_subspaces": 2, "subspace_rank": rank},
}


def names() -> list[str]:
    """TYPE/base, of each type and each base."""
    types = [kind.value for kind in library.PeftType]
    return [f"{kind}/{base}" for kind in types for base in LAYERS]


def subject(name: str) -> Subject:
    """An adapter of this type on a model of this architecture.

    Raises:
        Exception: what the library says where this type cannot be made so.
    """
    kind, _, base = name.partition("/")
    made = adapted(_trained(bases.subject(base)), lambda rank, alpha: configuration(kind, base, rank, alpha))
    assert made.adapters is not None
    made.adapters.add(made.model(), 4, 8.0)  # or each check would say anew that it is refused
    return dataclasses.replace(made, name=name)


def configuration(kind: str, base: str, rank: int, alpha: float) -> Any:
    """A configuration of this type, without dropout."""
    return _class(kind)(**arguments(kind, base, rank, alpha))


def arguments(kind: str, base: str, rank: int, alpha: float) -> dict[str, Any]:
    """What such a configuration is made with."""
    layers, inner, norms = LAYERS[base]
    if kind in PROMPTS:
        return {"task_type": "CAUSAL_LM", "num_virtual_tokens": rank}
    known = {field.name for field in dataclasses.fields(_class(kind))}
    given: dict[str, Any] = {"r": rank, "task_type": "CAUSAL_LM", "target_modules": layers}
    given |= dict.fromkeys(("lora_alpha", "alpha", "psoft_alpha", "randlora_alpha", "shadow_alpha"), alpha)
    given |= {"fan_in_fan_out": base == "gpt2", "feedforward_modules": inner}
    given = {key: value for key, value in given.items() if key in known}
    if kind == "LN_TUNING":
        given["target_modules"] = norms
    if kind == "TRAINABLE_TOKENS":
        given["target_modules"] = [EMBEDDINGS[base]]
    if kind == "ADAPTION_PROMPT":
        del given["target_modules"]
    return given | (OWN[kind](rank, alpha) if kind in OWN else {})


def preamble(name: str) -> str:
    """`build`, `logits` and `adapted`, in plain transformers and PEFT."""
    kind, _, base = name.partition("/")
    text = bases.preamble(base).replace("import torch\n", "import tempfile\n\nimport peft\nimport torch\n", 1)
    return text + PREAMBLE.format(kind=_class(kind).__name__, values=arguments(kind, base, 3, 12.0))


PREAMBLE = """\
def adapted(model, fill=True):
    torch.manual_seed(1)
    model = peft.get_peft_model(model, peft.{kind}(**{values})).eval()
    with torch.no_grad():  # as if trained
        for p in model.parameters():
            if fill and p.requires_grad:
                p.copy_(torch.randn_like(p) * 0.1)
    return model


"""


def _trained(base: Subject) -> Subject:
    """The base with weights as if trained: biases that are zero would hide what is multiplied by them."""

    def build() -> nn.Module:
        model = base.model()
        rescale(model)
        return model

    return dataclasses.replace(base, model=build)


def _class(kind: str) -> Any:
    return library.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[library.PeftType(kind)]
