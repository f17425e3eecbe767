"""torchtune's Llama with its packed data sets and LoRA, from 0.1 on.

Labels stand under their own tokens; its recipes shift them after packing, and so does the loss here.
Legend: B batch, T time, V vocab.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor.runtime import runtime_utils

if not hasattr(runtime_utils, "do_bench"):
    vars(runtime_utils)["do_bench"] = None  # torchao of torchtune 0.2 imports it, and calls it on GPUs alone

from torchtune import datasets
from torchtune.models import llama2
from torchtune.modules import peft

from andon.verify.access.roles import IGNORE
from andon.verify.subject import Adapters, Batch, Documents, Subject

library: Any = llama2  # whose signatures change from version to version
SHAPE: dict[str, Any] = {
    "vocab_size": 67,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "embed_dim": 32,
    "max_seq_len": 128,
    "intermediate_dim": 48,
}
ADAPTED = ["q_proj", "k_proj", "v_proj", "output_proj"]


def llama(*, rows: int = 4, length: int = 16, **changes: Any) -> Subject:
    """A small Llama 2; `changes` are further arguments of the library's builder, such as `attn_dropout`."""
    shape = SHAPE | changes
    return Subject(
        objective="cross_entropy",
        causal=True,
        name="torchtune llama2",
        model=lambda: library.llama2(**shape),
        batch=lambda generator: _batch(generator, shape["vocab_size"], rows, length),
        loss=loss,
        logits=logits,
        collate_packed=packed,
        configure=lambda **new: library.llama2(**shape | new),
        config_alternatives={"attn_dropout": (1 + shape.get("attn_dropout", 0.0)) / 2, "norm_eps": 1e-2},
    )


def with_lora(*, dropout: float = 0.0, mlp: bool = True, **changes: Any) -> Subject:
    """LoRA on every projection of it."""
    shape = SHAPE | changes

    def add(base: nn.Module, rank: int, alpha: float) -> nn.Module:
        given = {"lora_rank": rank, "lora_alpha": alpha, "lora_dropout": dropout, "apply_lora_to_mlp": mlp}
        model = library.lora_llama2(lora_attn_modules=ADAPTED, **shape, **given)
        model.load_state_dict(base.state_dict(), strict=False)
        peft.set_trainable_params(model, peft.get_adapter_params(model))
        return model

    return replace(
        llama(**changes),
        name="torchtune llama2 + LoRA",
        adapters=Adapters(add=add),
        hyperparameters={"lora_dropout": dropout},
    )


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """As a recipe takes it: labels shifted by one, the mean over those that count."""
    targets_BT = nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE)
    return nn.functional.cross_entropy(logits(model, batch).flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORE)


def logits(model: nn.Module, batch: Batch) -> Tensor:
    """(B, T, V)."""
    return model(batch["tokens"], **{key: batch[key] for key in ("mask", "input_pos") if key in batch})


def packed(documents: Documents) -> Batch:
    """One row, by the library's data set, with the mask that its collator makes of the lengths."""
    rows = _Samples(documents)
    made = dict(datasets.PackedDataset(rows, max_seq_len=sum(map(len, documents)))[0])
    lengths = [len(document) for document in documents]
    made.pop("seq_lens", None)
    mask = torch.block_diag(*(torch.ones(n, n).tril() for n in lengths)).bool()
    return {key: value[None] for key, value in made.items()} | {"mask": mask[None]}


class _Samples(torch.utils.data.Dataset[dict[str, list[int]]]):
    """What a text completion data set of the library yields: the labels are the tokens."""

    def __init__(self, documents: Sequence[Sequence[int]]) -> None:
        self.documents = documents

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        if index >= len(self):
            raise IndexError(index)  # the library iterates
        tokens = list(self.documents[index])
        return {"tokens": tokens, "labels": list(tokens)}


def _batch(generator: torch.Generator, words: int, rows: int, length: int) -> Batch:
    tokens_BT = torch.randint(words, (rows, length), generator=generator)
    return {"tokens": tokens_BT, "labels": tokens_BT.clone()}
