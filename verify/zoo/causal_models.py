"""Every causal language model of the installed transformers, at its smallest.

A configuration's sizes are set where the class has them; what an architecture needs beyond that stands in `OWN`.
"""

import pprint
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import transformers

from andon.verify.subject import Subject
from andon.verify.subjects import huggingface
from andon.verify.zoo.traits import detected

hf: Any = transformers  # whose types change from version to version
PACKAGE = "transformers"
CHECKS = (
    "loss",
    "attention",
    "positions",
    "norms",
    "structure",
    "initialization",
    "determinism",
    "autocast",
    "dtypes",
    "packing",
    "generation",
    "configuration",
    "reference",
    "data",
)
VOCABULARY = 99
SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "src_vocab_size", "n_vocab", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "n_embed", "dim_model", "emb_dim"), 64),
    **dict.fromkeys(("embedding_size", "word_embed_proj_dim", "attention_hidden_size", "input_embedding_size"), 64),
    **dict.fromkeys(("output_embedding_size", "backbone_hidden_size", "lru_width"), 64),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "d_inner", "dim_ff", "ffn_hidden_size"), 96),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "block_ff_dim", "expert_ffn_hidden_size"), 96),
    **dict.fromkeys(("mlp_intermediate_size", "intermediate_size_mlp", "hidden_size_global"), 96),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_blocks"), 2),
    **dict.fromkeys(("encoder_layers", "num_decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_decoder_attention_heads", "num_encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "dim_head"), 16),
    **dict.fromkeys(("swa_head_dim", "swa_v_head_dim", "global_head_dim", "index_head_dim", "d_kv"), 16),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 24),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 48),
    **dict.fromkeys(("shared_experts_intermediate_size", "moe_shared_expert_intermediate_size"), 48),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_top_k", "moe_k", "experts_per_token"), 2),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "mamba_n_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size", "attention_chunk_size"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions"), 128),
    "index_n_heads": 4,
    "index_topk": 128,  # all: of a few small heads many keys score alike, and which are chosen is chance
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"), 1),
    **dict.fromkeys(("swa_num_attention_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("swa_num_key_value_heads",), 2),
    **dict.fromkeys(("rel_extent", "sliding_window_size"), 8),
    "linear_head_dim": 16,
    "hidden_size_per_layer_input": 16,
    "rotary_dim": 8,
    "sliding_window": 8,
    "num_kv_shared_layers": 0,
    **dict.fromkeys(("is_decoder", "causal"), True),  # or an encoder's model reads ahead, as it says itself
    "time_step_rank": 4,
    "mamba_dt_rank": 4,
}
TWO_SPANS = {"layer_types": ["full_attention", "sliding_attention"]}
HYBRID = {"num_hidden_layers": 4, "layer_types": ["linear_attention", "moe", "full_attention", "mlp"]}
SHARED = {
    "num_hidden_layers": 4,
    "layers_block_type": ["linear_attention", "hybrid"] * 2,
    "attention_hidden_size": 128,
    "attention_head_dim": 32,
}
# By `model_type`: what the sizes do not say. Hybrids have a layer of each kind.
OWN: dict[str, dict[str, Any]] = {
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_d_head": 16, "mamba_n_groups": 1},
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "attn_layer_indices": [1]},
    "granitemoehybrid": {
        "mamba_n_heads": 8,
        "mamba_d_head": 16,
        "layer_types": ["mamba", "attention"],
        "position_embedding_type": "rope",
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "openai-gpt": {"n_ctx": 128},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "recurrent_gemma": {"num_hidden_layers": 3, "attention_window_size": 8},
    "reformer": {
        "attn_layers": ["local", "local"],
        "axial_pos_embds": False,
        "attention_head_size": 16,
        "feed_forward_size": 96,
        "local_attn_chunk_length": 4,
        "num_attention_heads": 4,
    },
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "big_bird": {"attention_type": "original_full"},
    "bigbird_pegasus": {"attention_type": "original_full"},
    "rwkv": {"attention_hidden_size": 64},
    "zamba2": {"mamba_headdim": 16, "n_mamba_heads": 8, "num_mem_blocks": 1, "use_mem_rope": True, **SHARED},
    "zamba": SHARED,
    "nemotron_h": {"mamba_head_dim": 16, "n_groups": 1, **HYBRID},
    "doge": {"is_moe": True},
    "flint": {"mlp_only_layers": [0]},
    "cohere2_moe": {"expert_selection_fn": "sigmoid"},  # or `norm_topk_prob` says nothing, as is documented
    "minicpm3": {"dim_model_base": 8},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "nemotron": {"head_dim": 16, "num_key_value_heads": 2},
    **{name: {"head_dim": 16} for name in ("ministral", "hunyuan_v1_dense", "hunyuan_v1_moe")},
    **dict.fromkeys(("laguna", "mellum"), TWO_SPANS),
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, **TWO_SPANS},
    "zaya": {"num_experts_per_tok": 1},
    "qwen4_exp_text": {
        "hc_lowrank": 8,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 128,
        "indexer_compress_ratio": 4,
    },
    "xlstm": {"qk_dim_factor": 1.0, "mlstm_round_up_to_multiple_of": 16, "ffn_round_up_to_multiple_of": 16},
}
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
KINDS = ("layer_types", "mlp_layer_types", "layers_block_type")  # lists with a word for each layer
LATENT = "kv_lora_rank"  # where keys and values come from one small state there are as many heads of each


def names() -> list[str]:
    """All that the library's automatic class knows."""
    return list(hf.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def subject(name: str) -> Subject:
    """A random model of this architecture, with the batches of `huggingface.causal_lm`.

    Raises:
        Exception: what the library says where a configuration of these sizes cannot be built.
    """
    made = configuration(name)
    text = made.get_text_config() if hasattr(made, "get_text_config") else made
    experts = any(isinstance(getattr(text, key, None), int) and getattr(text, key) > 1 for key in EXPERTS)
    whole = replace(
        huggingface.causal_lm(made),
        name=name,
        mixture_of_experts=experts,
        configure=lambda **changes: hf.AutoModelForCausalLM.from_config(configuration(name, **changes)),
        config_alternatives=huggingface.settings_of(text, trained=False),
    )
    return detected(whole)


def configuration(name: str, **changes: Any) -> Any:
    """The architecture's configuration, small; changes are those of its text model, and its own where it has both."""
    kind, part, given = _class(name), part_of(name), arguments(name)
    known = getattr(kind.sub_configs[part] if part else kind, "attribute_map", {})
    own = {known.get(key, key): value for key, value in changes.items()}
    if not part:
        return kind(**given | own)
    shared = {key: value for key, value in own.items() if key in vars(kind(**given))}
    return kind(**given | shared | {part: given[part] | own})


@cache
def part_of(name: str) -> str:
    """Under which key a configuration of several models has that of the text; "" where it is of one model."""
    made = _class(name)(**arguments(name))
    text = made.get_text_config() if hasattr(made, "get_text_config") else made
    return next((key for key in arguments(name) if text is not made and getattr(made, key, None) is text), "")


@cache
def arguments(name: str) -> dict[str, Any]:
    """What makes the configuration small: keys that it has, and no others."""
    return _small(_class(name))


def preamble(name: str) -> str:
    """`build`, `logits`, `loss` and `decode` of this architecture, in plain transformers."""
    kind, part = _class(name), part_of(name)
    values = pprint.pformat(arguments(name), width=104, compact=True, sort_dicts=False)
    changed = f'ARGUMENTS | {{"{part}": ARGUMENTS["{part}"] | changes}}' if part else "ARGUMENTS | changes"
    return PREAMBLE.format(kind=kind.__name__, values=values, changed=changed, words=VOCABULARY)


PREAMBLE = """\
import torch
import transformers

ARGUMENTS = {values}
torch.manual_seed(0)
VOCABULARY = {words}


def build(attention=None, **changes):
    config = transformers.{kind}(**{changed})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention).float().eval()
    with torch.no_grad():  # as if trained: new weights are too small to see anything
        for p in model.parameters():
            p.add_(torch.randn_like(p) * (p[0].numel() ** -0.5 if p.dim() > 1 else 0.1))
    return model


def logits(model, tokens, **inputs):
    with torch.no_grad():
        return model(tokens, use_cache=False, **inputs).logits


def decode(model, tokens):
    cache, found = None, []
    for place in range(tokens.shape[1]):
        with torch.no_grad():
            output = model(tokens[:, place : place + 1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        found.append(output.logits)
    return torch.cat(found, 1)


"""


def _class(name: str) -> Any:
    return hf.models.auto.configuration_auto.CONFIG_MAPPING[name]


def _small(kind: Any) -> dict[str, Any]:
    """The settings of a small model of a kind of configuration, by the names that this kind has for them."""
    defaults, known = vars(kind()), getattr(kind, "attribute_map", {})
    sizes = _sizes(defaults, known) | _marks(defaults, known)
    if LATENT in defaults and "num_key_value_heads" in sizes:
        sizes["num_key_value_heads"] = SMALL["num_attention_heads"]
    sizes |= _layers(defaults, known)
    parts = getattr(kind, "sub_configs", {}).items()
    sizes |= {part: _small(inner) for part, inner in parts if isinstance(inner, type) and hasattr(inner, "model_type")}
    return sizes | OWN.get(getattr(kind, "model_type", ""), {})


def _sizes(defaults: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    own = {key: value for key, value in SMALL.items() if isinstance(defaults.get(key), bool | int)}
    return own | {
        known[key]: value for key, value in SMALL.items() if isinstance(defaults.get(known.get(key, "")), int)
    }


def _marks(defaults: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, int]:
    """Numbers for the special tokens that the small vocabulary lacks, or that are several."""
    if "vocab_size" not in {*defaults, *known}:
        return {}
    marks = {
        key: (number, defaults.get(key)) for number, key in enumerate(("pad_token_id", "bos_token_id", "eos_token_id"))
    }
    beyond = {key for key, (_, value) in marks.items() if isinstance(value, int) and value >= VOCABULARY}
    return {key: number for key, (number, value) in marks.items() if key in beyond or isinstance(value, list)}


def _layers(defaults: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """A layer of each kind that there is, at least two."""
    kinds = {key: list(dict.fromkeys(defaults[key])) for key in KINDS if isinstance(defaults.get(key), list | tuple)}
    if not any(kinds.values()):
        return {}
    count = max(2, *map(len, kinds.values()))
    repeated = {key: (own * count)[:count] for key, own in kinds.items() if own}
    return repeated | {known.get("num_hidden_layers", "num_hidden_layers"): count}
