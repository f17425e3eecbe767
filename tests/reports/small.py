"""The small decoder that the cases share: attention over learned places, pre-norm blocks, an untied head."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

VOCAB, DIM, HEADS, LENGTH, ROWS = 37, 24, 3, 10, 5
Batch = dict[str, Tensor]


class Layer(nn.Module):
    """Attention, then a feed-forward network, each on the normed stream."""

    def __init__(self, feed_forward: nn.Module) -> None:
        super().__init__()
        self.norm_attn, self.norm_ff = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.query, self.key, self.value, self.out = (nn.Linear(DIM, DIM) for _ in range(4))
        self.feed_forward = feed_forward

    def attend(self, x: Tensor, visible: Tensor) -> Tensor:
        """Heads side by side; `visible` (B, 1, T, T) or (T, T) is True where a position may look."""
        q, k, v = (part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=visible).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """The stream after both."""
        x = x + self.attend(self.norm_attn(x), visible)
        return x + self.feed_forward(self.norm_ff(x))


def plain_feed_forward() -> nn.Module:
    """Two matrices and a GELU."""
    return nn.Sequential(nn.Linear(DIM, 3 * DIM), nn.GELU(), nn.Linear(3 * DIM, DIM))


class Decoder(nn.Module):
    """Two layers; real tokens alone are looked at where a mask says which are."""

    def __init__(self, feed_forward: Callable[[], nn.Module] = plain_feed_forward) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCAB, DIM), nn.Embedding(48, DIM)
        self.layers = nn.ModuleList(Layer(feed_forward()) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, VOCAB, bias=False)
        for table in (self.words, self.places):
            nn.init.normal_(table.weight, std=0.05)

    def states(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the head reads."""
        steps = torch.arange(ids.shape[1])
        visible = steps[:, None] >= steps
        if mask is not None:
            visible = visible & (mask.bool()[:, None, None, :] | torch.eye(len(steps), dtype=torch.bool))
        x = self.words(ids) + self.places(steps)
        for layer in self.layers:
            x = layer(x, visible)
        return self.norm(x)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, T, V)."""
        return self.head(self.states(ids, mask))


def draw(generator: torch.Generator, rows: int = ROWS) -> Batch:
    """Rows of words, each its own labels."""
    ids = torch.randint(4, VOCAB, (rows, LENGTH), generator=generator)
    return {"input_ids": ids, "labels": ids.clone()}


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the labels one ahead that are not -100."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """What a plain run trains on."""
    return next_token_loss(model(batch["input_ids"]), batch["labels"])
