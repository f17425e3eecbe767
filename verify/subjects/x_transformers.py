"""x-transformers' decoder, with its autoregressive wrapper's generation.

Legend: B batch, T time, V vocab.
"""

from typing import Any

import torch
import x_transformers
from torch import Tensor, nn

from andon.verify.access.roles import IGNORE
from andon.verify.subject import Batch, Documents, Subject

library: Any = x_transformers  # whose signatures change from version to version
WORDS, LONGEST = 67, 128
SHAPE: dict[str, Any] = {"dim": 48, "depth": 2, "heads": 4, "attn_dim_head": 12, "rotary_pos_emb": True}


def decoder(*, rows: int = 4, length: int = 16, **changes: Any) -> Subject:
    """A small decoder; `changes` are arguments of the library's `Decoder`."""
    shape = SHAPE | changes

    def build(**new: Any) -> nn.Module:
        return library.TransformerWrapper(
            num_tokens=WORDS, max_seq_len=LONGEST, attn_layers=library.Decoder(**shape | new)
        )

    return Subject(
        objective="cross_entropy",
        causal=True,
        name="x-transformers",
        model=build,
        batch=lambda generator: _batch(generator, rows, length),
        loss=loss,
        logits=logits,
        collate_padded=padded,
        generate=generate,
        configure=build,
        config_alternatives={"attn_dropout": 0.5, "ff_mult": 2, "use_rmsnorm": True, "attn_qk_norm": True},
    )


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """As the wrapper takes it: the word that follows, where it counts."""
    targets_BT = nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE)
    return nn.functional.cross_entropy(logits(model, batch).flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORE)


def logits(model: nn.Module, batch: Batch) -> Tensor:
    """(B, T, V)."""
    return model(batch["tokens"], mask=batch["attention_mask"].bool())


def padded(documents: Documents) -> Batch:
    """One document per row, padded on the right."""
    shape = len(documents), max(map(len, documents))
    batch = {"tokens": torch.zeros(shape, dtype=torch.int64), "attention_mask": torch.zeros(shape, dtype=torch.int64)}
    batch["labels"] = torch.full(shape, IGNORE)
    for row, document in enumerate(documents):
        batch["tokens"][row, : len(document)] = batch["labels"][row, : len(document)] = torch.tensor(document)
        batch["attention_mask"][row, : len(document)] = 1
    return batch


def generate(model: nn.Module, tokens_BT: Tensor, count: int) -> Tensor:
    """Greedy, with the cache that the wrapper keeps by itself."""
    wrapped = library.AutoregressiveWrapper(model).train(model.training)
    return torch.cat([tokens_BT, wrapped.generate(tokens_BT, count, temperature=0.0)], 1)


def _batch(generator: torch.Generator, rows: int, length: int) -> Batch:
    tokens_BT = torch.randint(1, WORDS, (rows, length), generator=generator)
    return {"tokens": tokens_BT, "attention_mask": torch.ones_like(tokens_BT), "labels": tokens_BT.clone()}
