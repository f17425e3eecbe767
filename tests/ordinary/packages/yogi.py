"""Yogi of torch-optimizer on a matrix factorization of ratings."""

import torch
import torch_optimizer
from torch import Tensor, nn

from andon.verify import Subject

SOURCE = "torch-optimizer 0.3.0"

USERS, ITEMS = 24, 30


class Factors(nn.Module):
    """Inner products of users and items, with a bias each."""

    def __init__(self, rank: int = 8) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(USERS, rank), nn.Embedding(ITEMS, rank)
        self.user_bias, self.item_bias = nn.Embedding(USERS, 1), nn.Embedding(ITEMS, 1)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.1)
        for table in (self.user_bias, self.item_bias):
            nn.init.zeros_(table.weight)
        self.mean = nn.Buffer(torch.tensor(3.0))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Expected ratings."""
        product = torch.einsum("nd,nd->n", self.user(user), self.item(item))
        return self.mean + product + self.user_bias(user).squeeze(-1) + self.item_bias(item).squeeze(-1)


def ratings(generator: torch.Generator) -> Tensor:
    """One row a rating: user, item, stars from 1 to 5."""
    user = torch.randint(0, USERS, (64,), generator=generator)
    item = torch.randint(0, ITEMS, (64,), generator=generator)
    stars = 1 + ((user % 3 == item % 3) * 3 + (item % 2)).clamp(max=4)
    return torch.stack([user, item, stars], dim=1)


def yogi_ratings() -> Subject:
    """Squared error and a penalty on the factors that this batch touches."""

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        user, item, stars = batch.unbind(1)
        error = (model(user, item) - stars.float()).pow(2).mean()
        penalty = model.user(user).pow(2).sum(1).mean() + model.item(item).pow(2).sum(1).mean()
        return error + 0.01 * penalty

    return Subject(
        name="torch-optimizer-yogi-ratings",
        model=Factors,
        batch=ratings,
        loss=loss,
        optimizer=lambda model: torch_optimizer.Yogi(model.parameters(), lr=1e-2, eps=1e-3),
        causal=False,
    )


SUBJECTS = {"torch-optimizer-yogi-ratings": yogi_ratings}
