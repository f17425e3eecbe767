"""Optimizers and losses of pytorch-optimizer on small models of several kinds."""

from typing import Any

import pytorch_optimizer
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Subject

SOURCE = "pytorch-optimizer 4.1.0"

VOCAB = 32


class TinyGPT(nn.Module):
    """Two of torch's own encoder layers under a causal mask."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, width)
        self.places = nn.Parameter(0.02 * torch.randn(16, width))
        layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCAB, bias=False)

    def forward(self, idx: Tensor) -> Tensor:
        """Logits."""
        length = idx.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        hidden = self.layers(self.tokens(idx) + self.places[:length], mask=mask, is_causal=True)
        return self.head(self.norm(hidden))


def copies(generator: torch.Generator) -> Tensor:
    """Eight random tokens, and the same again."""
    half = torch.randint(0, VOCAB, (8, 8), generator=generator)
    return torch.cat([half, half], dim=1)


def next_token(model: nn.Module, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of the next token."""
    logits = model(tokens[:, :-1])
    return F.cross_entropy(logits.reshape(-1, VOCAB), tokens[:, 1:].reshape(-1))


def adan_copies() -> Subject:
    """Adan on a small language model."""
    return Subject(
        name="pytorch-optimizer-adan",
        model=TinyGPT,
        batch=copies,
        loss=next_token,
        optimizer=lambda model: pytorch_optimizer.Adan(model.parameters(), lr=3e-3, weight_decay=0.02),
    )


def soap_copies() -> Subject:
    """SOAP: Adam in the eigenbasis of Shampoo's preconditioner, which it takes its first step to set up."""
    return Subject(
        name="pytorch-optimizer-soap",
        model=TinyGPT,
        batch=copies,
        loss=next_token,
        optimizer=lambda model: pytorch_optimizer.SOAP(
            model.parameters(), lr=3e-3, betas=(0.95, 0.95), weight_decay=0.01, precondition_frequency=10
        ),
    )


def regression(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A smooth function of four numbers."""
    x = torch.rand(64, 4, generator=generator) * 2 - 1
    return x, (torch.sin(3 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]) / 2


def mlp(inputs: int = 4, outputs: int = 1) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, outputs)
    )  # fmt: skip


def sam_regression() -> Subject:
    """Sharpness-aware minimization: up the gradient, a second gradient there, back, and a step with that."""

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.mse_loss(model(batch[0]), batch[1])

    def train_step(model: nn.Module, optimizer: Any, batches: list[Any]) -> dict[str, float]:
        def mean_loss() -> Tensor:
            return torch.stack([loss(model, batch) for batch in batches]).mean()

        first = mean_loss()
        first.backward()
        optimizer.first_step(zero_grad=True)
        mean_loss().backward()
        optimizer.second_step(zero_grad=True)
        return {"loss": first.item()}

    return Subject(
        name="pytorch-optimizer-sam",
        model=mlp,
        batch=regression,
        loss=loss,
        optimizer=lambda model: pytorch_optimizer.SAM(
            model.parameters(), base_optimizer=torch.optim.SGD, rho=0.05, lr=0.05, momentum=0.9
        ),
        train_step=train_step,
        causal=False,
    )


def lookahead_regression() -> Subject:
    """RAdam inside Lookahead: slow weights come after every five steps."""

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        fast = pytorch_optimizer.RAdam(model.parameters(), lr=3e-3)
        return pytorch_optimizer.Lookahead(fast, k=5, alpha=0.5)

    return Subject(
        name="pytorch-optimizer-lookahead",
        model=mlp,
        batch=regression,
        loss=lambda model, batch: F.smooth_l1_loss(model(batch[0]), batch[1]),
        optimizer=optimizer,
        causal=False,
    )


def focal_rare() -> Subject:
    """The focal loss on a rare positive class, with AdamP."""
    focal = pytorch_optimizer.BCEFocalLoss(alpha=0.75, gamma=2.0)

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        features = torch.randn(64, 6, generator=generator)
        rare = (features[:, 0] + features[:, 1] > 1.8).float()
        return {"features": features, "positive": rare}

    return Subject(
        name="pytorch-optimizer-focal",
        model=lambda: mlp(6),
        batch=batch,
        loss=lambda model, batch: focal(model(batch["features"]).squeeze(-1).sigmoid(), batch["positive"]),
        optimizer=lambda model: pytorch_optimizer.AdamP(model.parameters(), lr=5e-3),
        causal=False,
    )


SUBJECTS = {
    "pytorch-optimizer-adan": adan_copies,
    "pytorch-optimizer-soap": soap_copies,
    "pytorch-optimizer-sam": sam_regression,
    "pytorch-optimizer-lookahead": lookahead_regression,
    "pytorch-optimizer-focal": focal_rare,
}
