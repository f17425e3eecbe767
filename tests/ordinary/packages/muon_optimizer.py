"""Muon for the matrices of a small residual network, AdamW for the rest, as its README says."""

from typing import Any

import torch
from muon import SingleDeviceMuonWithAuxAdam
from torch import Tensor, nn

from andon.verify import Subject

SOURCE = "muon-optimizer 0.1.0"

VOCAB, WIDTH = 40, 32


class Block(nn.Module):
    """Attention and an MLP with squared ReLU; what goes back into the stream starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The stream after this block."""
        B, T, _ = x.shape
        q, k, v = self.qkv(norm(x)).view(B, T, 3, 4, WIDTH // 4).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(norm(q), norm(k), v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(B, T, WIDTH))
        return x + self.down(self.up(norm(x)).relu().square())


def norm(x: Tensor) -> Tensor:
    """RMS norm without a scale."""
    return nn.functional.rms_norm(x, (x.shape[-1],))


class Speedrun(nn.Module):
    """A small language model in the way of modded-nanogpt: the head starts at zero, its logits are capped."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.places = nn.Embedding(16, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        x = norm(self.embed(tokens) + self.places.weight[: tokens.shape[1]])
        for block in self.blocks:
            x = block(x)
        logits = self.head(norm(x)).float()
        return 15 * torch.tanh(logits / 15)


def muon_speedrun() -> Subject:
    """Hidden matrices by Muon, embeddings and head by Adam."""

    def batch(generator: torch.Generator) -> Tensor:
        start = torch.randint(0, VOCAB, (8, 1), generator=generator)
        return (start + torch.randint(1, 5, (8, 1), generator=generator) * torch.arange(17)) % VOCAB

    def loss(model: nn.Module, tokens: Tensor) -> Tensor:
        logits = model(tokens[:, :-1])
        return nn.functional.cross_entropy(logits.view(-1, VOCAB), tokens[:, 1:].reshape(-1))

    def optimizer(model: Any) -> torch.optim.Optimizer:
        hidden = [p for p in model.blocks.parameters() if p.ndim >= 2]
        others = [*model.embed.parameters(), *model.places.parameters(), *model.head.parameters()]
        return SingleDeviceMuonWithAuxAdam(
            [
                {"params": hidden, "use_muon": True, "lr": 0.02, "weight_decay": 0.01},
                {"params": others, "use_muon": False, "lr": 3e-3, "betas": (0.9, 0.95), "weight_decay": 0.01},
            ]
        )

    return Subject(name="muon-speedrun", model=Speedrun, batch=batch, loss=loss, optimizer=optimizer)


SUBJECTS = {"muon-speedrun": muon_speedrun}
