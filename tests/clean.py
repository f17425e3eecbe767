"""Correct code of many kinds, on which no check may find anything: ours, other people's, and other ways to write it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softmax

from andon.verify.subject import Batch, Subject
from andon.verify.subjects import module

STRIDE = 7919  # between the seeds of one subject's weights and another's


def reseeded(subject: Subject, seed: int) -> Subject:
    """The subject with other random weights and batches."""
    if not seed:
        return subject

    def model() -> nn.Module:
        torch.manual_seed(torch.initial_seed() + seed * STRIDE)
        return subject.model()

    def batch(generator: torch.Generator) -> Batch:
        return subject.batch(generator.manual_seed(generator.initial_seed() + seed * STRIDE))

    return replace(subject, model=model, batch=batch)


# ------------------------------------------------------------------------------------- not ours: other ways to write it
class Manual(nn.Module):
    """A decoder of plain operations: learned positions, fused projections, an explicit mask and softmax, LayerNorm."""

    def __init__(self, vocab: int = 53, width: int = 32, heads: int = 4, layers: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(64, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "before": nn.LayerNorm(width),
                    "qkv": nn.Linear(width, 3 * width),
                    "out": nn.Linear(width, width),
                    "between": nn.LayerNorm(width),
                    "up": nn.Linear(width, 4 * width),
                    "down": nn.Linear(4 * width, width),
                }
            )
            for _ in range(layers)
        )
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, vocab)
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        steps = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        x = self.drop(self.tokens(tokens_BT) + self.places(steps))
        for block in self.blocks:
            x = self._block(block, x)
        return self.head(self.last(x))

    def _block(self, block: Any, x: Tensor) -> Tensor:
        x = x + self.drop(self._attend(block, block["before"](x)))
        return x + self.drop(block["down"](nn.functional.gelu(block["up"](block["between"](x)))))

    def _attend(self, block: Any, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in block["qkv"](x).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        return block["out"]((softmax(scores.masked_fill(hidden, -torch.inf), -1) @ v).transpose(1, 2).flatten(2))


def pair(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens, and the tokens one ahead."""
    tokens_BT = torch.randint(53, (3, 18), generator=generator)
    return tokens_BT[:, :-1], tokens_BT[:, 1:]


def pair_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy."""
    return cross_entropy(model(batch[0]).flatten(0, 1).float(), batch[1].flatten(), ignore_index=-100)


def accumulated(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Batch]) -> dict[str, float]:
    """A step as scripts write it: the micro-batches' tokens weigh alike, then the clip."""
    optimizer.zero_grad()
    total, count = 0.0, sum(int((targets != -100).sum()) for _, targets in batches)
    for batch in batches:
        part = pair_loss(model, batch) * int((batch[1] != -100).sum()) / count
        part.backward()
        total += float(part.detach())
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return {"loss": total, "grad_norm": float(norm)}


def manual(optimizer: Callable[..., torch.optim.Optimizer] | None = None, **shape: Any) -> Callable[[], Subject]:
    """A subject of the manual decoder, in three arguments and with a step where an optimizer is given."""

    def made() -> Subject:
        subject = module(lambda: Manual(**shape), pair_loss, pair, name="manual")
        if optimizer is None:
            return subject
        settings = {"grad_clip": 1.0}
        return replace(
            subject, optimizer=lambda m: optimizer(m.parameters()), train_step=accumulated, hyperparameters=settings
        )

    return made


def adamw(**options: Any) -> Callable[..., torch.optim.Optimizer]:
    """Torch's AdamW with these options."""
    return lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, **options)


MANUAL: dict[str, Callable[[], Subject]] = {
    "manual": manual(),
    "manual dropout": manual(dropout=0.1),
    "manual wide": manual(width=48, heads=3, layers=1),
    "manual sgd": manual(lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)),
    "manual foreach": manual(adamw(foreach=True)),
    "manual amsgrad": manual(adamw(amsgrad=True)),
    "manual adafactor": manual(lambda parameters: torch.optim.Adafactor(parameters, lr=1e-2)),
    "manual rmsprop": manual(lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3)),
}


def ours() -> dict[str, Callable[[], Subject]]:
    """Our core in its kinds and in other shapes."""
    from tests.subjects import SUBJECTS, answering, new_model

    def shaped(name: str, **changes: Any) -> Callable[[], Subject]:
        return lambda: answering(name, lambda: new_model(**changes))

    return {
        **SUBJECTS,
        "multi-head": shaped("multi-head", num_key_value_heads=4),
        "multi-query": shaped("multi-query", num_key_value_heads=1),
        "deep": shaped("deep", num_hidden_layers=5),
        "wide": shaped("wide", hidden_size=64, intermediate_size=96, head_dim=16),
        "long base": shaped("long base", rope_theta=500000.0),
        "double": shaped("double", dtype=torch.float64),
    }


def subject(name: str) -> Subject:
    """A variant by its name; core is imported for its own alone."""
    from tests.third_party.subjects import SUBJECTS

    known = MANUAL | SUBJECTS
    return (known if name in known else {f"core {key}": make for key, make in ours().items()})[name]()
