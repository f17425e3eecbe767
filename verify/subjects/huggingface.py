"""Any causal language model of Hugging Face's transformers, from 4.36 on: a configuration, a folder, or a model.

Labels stand under their own tokens, the model's own loss shifts them, and training keeps no cache.
Legend: B batch, T time, V vocab.
"""

import importlib
import inspect
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from andon.verify.access.roles import IGNORE
from andon.verify.errors import NotApplicable
from andon.verify.subject import Batch, Documents, Subject

hf: Any = transformers  # whose types change from version to version
Build = Callable[[Any], nn.Module]  # a configuration to a model

RENAMED = 5  # from this version on torch_dtype is dtype
EPS, DROPOUT, SCALE = 1e-2, 0.5, 0.25
ACTIVATIONS = "relu", "gelu"  # the second for those who have the first


def _halved(value: float) -> float:
    return value / 2


def _negated(value: bool) -> bool:
    return not value


def _turned(rope: dict[str, Any]) -> dict[str, Any]:
    """RoPE's parameters, of one kind of layer or of each, with another base."""
    nested = {key: _turned(value) for key, value in rope.items() if isinstance(value, dict)}
    own = {"rope_theta": rope["rope_theta"] / 100} if "rope_theta" in rope else {}
    return rope | nested | own


# What a configuration may say, and another valid value of it. A key at None is left alone: the feature is off.
ALTERED: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(
        ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"), lambda _: EPS
    ),
    **dict.fromkeys(
        ("hidden_act", "activation_function", "hidden_activation"), lambda name: ACTIVATIONS[name == "relu"]
    ),
    **dict.fromkeys(("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop"), lambda _: DROPOUT),
    **dict.fromkeys(("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "norm_topk_prob"), _negated),
    **dict.fromkeys(("rotary_pct", "partial_rotary_factor"), _halved),
    **dict.fromkeys(
        ("query_pre_attn_scalar", "final_logit_softcapping", "attn_logit_softcapping", "attention_multiplier"),
        lambda value: type(value)(value * SCALE),
    ),
    **dict.fromkeys(("embedding_multiplier", "residual_multiplier", "logits_scaling"), _halved),
    "rope_theta": lambda value: value / 100,
    "rope_parameters": _turned,
    "sliding_window": lambda value: min(3, value),
    "num_experts_per_tok": lambda value: 1 if value > 1 else 2,
    "initializer_range": _halved,
    "tie_word_embeddings": _negated,
}
# Names of architectures, or parts of them, whose layers are not attention and who list no kinds of layers.
RECURRENT = ("mamba", "rwkv", "xlstm", "falcon_h1", "recurrent_gemma", "lfm2")
OFFSET = ("roberta", "camembert", "data2vec-text", "xmod")
OF_NEW_WEIGHTS = ("initializer_range", "tie_word_embeddings")  # say nothing where weights are read from a file


def causal_lm(
    source: Any,
    *,
    tokenizer: Any = None,
    attention: str | None = None,
    dtype: torch.dtype | None = None,
    rows: int = 4,
    length: int = 16,
    **options: Any,
) -> Subject:
    """A subject of a configuration (random weights), of a folder of weights, or of a model that you have built.

    `dtype` is that of the weights. `attention` is a backend ("eager", "sdpa", ...), by default the library's choice;
    where that is another than "eager", eager attention is the reference. With a tokenizer, its padding, chat template
    and marks are checked too. Random batches have `rows` rows of `length` tokens. `options` go to `from_pretrained`,
    for example `gguf_file`.
    """
    config, build = _source(source, _chosen(attention, dtype), options)
    takes = inspect.signature(_forward(source, config)).parameters
    is_model, is_config = isinstance(source, nn.Module), hasattr(source, "to_dict")
    adapted = hasattr(source, "peft_config")
    padding = _padding(config, tokenizer)
    return Subject(
        name=f"{config.model_type}{f' ({attention})' if attention else ''}",
        model=source if is_model else lambda: build(config),
        batch=lambda generator: random_batch(generator, config, rows, length),
        loss=loss,
        logits=logits,
        collate_padded=lambda documents: padded(documents, padding, tokenizer),
        collate_packed=partial(packed, start=_first_position(config)) if _packs(source, config) else None,
        generate=generate if hasattr(_class(source, config), "generate") else None,
        cached_logits=decode if "past_key_values" in takes else None,
        configure=None if adapted else lambda **changes: build(_changed(config, changes)),
        config_alternatives={} if adapted else settings_of(config, trained=not is_config),
        reference_logits=None if adapted or attention == "eager" else eager,
        recurrent=_recurrent(config),
        objective="cross_entropy",
        causal=True,
        **(_spoken(tokenizer) if tokenizer is not None else {}),
    )


def called(source: Any, **options: Any) -> Subject:
    """The subject of `causal_lm`, and as variants other calls that the library documents as the same."""
    subject = causal_lm(source, **options)
    pack = subject.collate_packed
    if pack is None:
        return subject

    def masked(documents: Documents) -> Batch:
        batch = pack(documents)
        return batch | {"attention_mask": torch.ones_like(batch["input_ids"])}

    return replace(
        subject,
        variants={
            "a mask of ones": replace(subject, collate_packed=masked),
            "its default cache": replace(subject, loss=cached_loss, logits=cached_logits),
        },
    )


def router(model_type: str = "mixtral", *, experts: int = 4, top: int = 2) -> Subject:
    """A router under nothing but the loss that is to balance it, as this architecture's module defines it."""
    home = importlib.import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    width, words, shape = 24, 67, (4, 16)
    return Subject(
        name=f"{model_type}'s router",
        model=lambda: nn.Sequential(nn.Embedding(words, width), nn.Linear(width, experts, bias=False)),
        batch=lambda generator: {"input_ids": torch.randint(words, shape, generator=generator)},
        loss=lambda model, batch: home.load_balancing_loss_func(
            (model(batch["input_ids"]).flatten(0, 1),), experts, top
        ),
        causal=False,
        mixture_of_experts=True,
    )


def random_batch(generator: torch.Generator, config: Any, rows: int, length: int) -> dict[str, Tensor]:
    """Random tokens, of which none is padding: an embedding gives that no gradient."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    tokens_BT = torch.randint(text.vocab_size, (rows, length), generator=generator)
    tokens_BT[tokens_BT == _padding(config, None)] = text.vocab_size - 1
    return {"input_ids": tokens_BT, "attention_mask": torch.ones_like(tokens_BT), "labels": tokens_BT.clone()}


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """The model's own."""
    return model(**batch, use_cache=False).loss


def cached_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The model's own, which keeps a cache where its configuration says so."""
    return model(**batch).loss


def cached_logits(model: nn.Module, batch: Batch) -> Tensor:
    """(B, T, V), of a call that keeps a cache where the configuration says so."""
    return model(**{key: value for key, value in batch.items() if key != "labels"}).logits


def logits(model: nn.Module, batch: Batch) -> Tensor:
    """(B, T, V), without labels."""
    return model(**{key: value for key, value in batch.items() if key != "labels"}, use_cache=False).logits


def padded(documents: Documents, padding: int, tokenizer: Any = None) -> dict[str, Tensor]:
    """One document per row: by the tokenizer and the library's collator, or padded on the right."""
    if tokenizer is not None and tokenizer.pad_token_id is not None:
        collator = hf.DataCollatorForLanguageModeling(tokenizer, mlm=False)
        return dict(collator([{"input_ids": list(document)} for document in documents]))
    shape = len(documents), max(map(len, documents))
    batch = {"input_ids": torch.full(shape, padding), "attention_mask": torch.zeros(shape, dtype=torch.int64)}
    batch["labels"] = torch.full(shape, IGNORE)
    for row, document in enumerate(documents):
        batch["input_ids"][row, : len(document)] = batch["labels"][row, : len(document)] = torch.tensor(document)
        batch["attention_mask"][row, : len(document)] = 1
    return batch


def packed(documents: Documents, start: int = 0) -> dict[str, Tensor]:
    """Documents end to end in one row, told apart by positions that start again: the library's own collator."""
    rows = [{"input_ids": list(document)} for document in documents]
    if hasattr(transformers, "DataCollatorWithFlattening"):  # since 4.44
        options = {"position_ids_start": start} if start else {}
        return dict(hf.DataCollatorWithFlattening(return_tensors="pt", **options)(rows))
    labels = [label for document in documents for label in (IGNORE, *document[1:])]
    positions = [position for document in documents for position in range(len(document))]
    tokens = [token for document in documents for token in document]
    return {
        "input_ids": torch.tensor([tokens]),
        "labels": torch.tensor([labels]),
        "position_ids": torch.tensor([positions]),
    }


def generate(model: Any, tokens_BT: Tensor, count: int) -> Tensor:
    """Greedy, `count` tokens whatever they mean: the end of a text ends nothing."""
    model.generation_config = hf.GenerationConfig(pad_token_id=0)
    ones_BT = torch.ones_like(tokens_BT)
    return model.generate(tokens_BT, attention_mask=ones_BT, max_new_tokens=count, do_sample=False)


def decode(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """Logits (B, T, V), a token at a time."""
    cache, found = None, []
    for position in range(tokens_BT.shape[1]):
        output = model(input_ids=tokens_BT[:, position : position + 1], past_key_values=cache, use_cache=True)
        if "past_key_values" not in output:
            raise NotApplicable("a model that returns its cache")
        cache = output.past_key_values
        found.append(output.logits)
    return torch.cat(found, 1)


def eager(model: nn.Module, batch: Batch) -> Tensor:
    """Logits of the model's weights under eager attention: plain matrix products and a softmax."""
    options = _chosen("eager", next(model.parameters()).dtype)
    kind: Any = type(model)  # for a part of a configuration, too, which the automatic class may not know
    other = kind._from_config(deepcopy(model.config), **options)  # noqa: SLF001 - as the automatic class does
    other.load_state_dict(model.state_dict())
    return logits(other.train(model.training), batch)


def _chosen(attention: str | None, dtype: torch.dtype | None) -> dict[str, Any]:
    """A backend and a dtype as `from_config` and `from_pretrained` take them."""
    name = "dtype" if int(hf.__version__.partition(".")[0]) >= RENAMED else "torch_dtype"
    return {key: value for key, value in {"attn_implementation": attention, name: dtype}.items() if value is not None}


def _source(source: Any, chosen: dict[str, Any], options: dict[str, Any]) -> tuple[Any, Build]:
    """The configuration, and how a model is made of it or of a changed one, with the source's weights if it has any."""
    auto = hf.AutoModelForCausalLM
    if isinstance(source, nn.Module):
        weights = source.state_dict()

        def rebuilt(config: Any) -> nn.Module:
            model = auto.from_config(config, **_chosen(None, next(source.parameters()).dtype) | chosen)
            model.load_state_dict(weights)
            return model.train(source.training)

        return source.config, rebuilt
    if isinstance(source, str | Path):
        folder = str(source)
        config = hf.AutoConfig.from_pretrained(folder, **options)
        return config, lambda config: auto.from_pretrained(folder, config=config, **chosen, **options)
    return source, lambda config: auto.from_config(deepcopy(config), **chosen)


def _class(source: Any, config: Any) -> Any:
    return type(source) if isinstance(source, nn.Module) else hf.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def _forward(source: Any, config: Any) -> Callable[..., Any]:
    own = source.get_base_model() if hasattr(source, "get_base_model") else source
    return _class(own, config).forward


def _changed(config: Any, changes: dict[str, Any]) -> Any:
    other = deepcopy(config)
    for key, value in changes.items():
        setattr(other, key, value)
    return other


def settings_of(config: Any, *, trained: bool) -> dict[str, Any]:
    """Settings of this configuration with other values; those that are computed from others are left out."""
    found = {}
    for key, alter in ALTERED.items():
        value, own = getattr(config, key, None), getattr(type(config), key, None)
        if value is None or isinstance(own, property) or (trained and key in OF_NEW_WEIGHTS):
            continue
        if alter(value) != value:
            found[key] = alter(value)
    if "rope_parameters" in found:
        found.pop("rope_theta", None)  # the same, under its older name
    return found


def _recurrent(config: Any) -> bool:
    """Whether any layer is not attention over keys, by the configuration's list of layers or its name."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ()
    other = [kind for kind in kinds if "attention" not in str(kind) or "linear" in str(kind)]
    return bool(other) or any(name in config.model_type for name in RECURRENT)


def _packs(source: Any, config: Any) -> bool:
    """Whether positions alone tell packed documents apart: not where a state runs through a row, as the library says.

    Its documentation of padding-free training: linear attention and causal convolutions have no such path.
    """
    takes = inspect.signature(_forward(source, config)).parameters
    own = source.get_base_model() if hasattr(source, "get_base_model") else source
    return (
        "position_ids" in takes and not getattr(_class(own, config), "_is_stateful", False) and not _recurrent(config)
    )


def _first_position(config: Any) -> int:
    """The first token's position: models of RoBERTa's kind count from their padding on, as the collator documents."""
    known = "position_ids_start" in inspect.signature(getattr(hf, "DataCollatorWithFlattening", object)).parameters
    return config.pad_token_id + 1 if known and any(name in config.model_type for name in OFFSET) else 0


def _padding(config: Any, tokenizer: Any) -> int:
    for owner in (tokenizer, config):
        found = getattr(owner, "pad_token_id", None)
        if isinstance(found, int) and found >= 0:
            return found
    return 0


def _spoken(tokenizer: Any) -> dict[str, Any]:
    """What a tokenizer adds: text to ids and back, its padding, and instructions where it has a chat template."""
    parts = {
        "encode": lambda text: tokenizer(text)["input_ids"],
        "decode": lambda tokens: tokenizer.decode(tokens, skip_special_tokens=True),
        "pad_id": tokenizer.pad_token_id,
    }
    if getattr(tokenizer, "chat_template", None):
        parts["encode_instruction"] = lambda prompt, answer: _instruct(tokenizer, prompt, answer)
    return parts


def _instruct(tokenizer: Any, prompt: str, answer: str) -> tuple[Sequence[int], Sequence[int]]:
    """Ids by the chat template; the labels are those after what the template says before an answer."""
    question = [{"role": "user", "content": prompt}]
    conversation = [*question, {"role": "assistant", "content": answer}]
    before = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
    tokens = tokenizer.apply_chat_template(conversation, return_dict=False)
    return tokens, [IGNORE] * len(before) + tokens[len(before) :]
