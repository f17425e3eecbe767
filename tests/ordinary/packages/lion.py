"""Lion on a convolutional model of characters that looks only backward."""

import torch
from lion_pytorch import Lion
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Subject

SOURCE = "lion-pytorch 0.2.5"

ALPHABET = 30


class CausalConv(nn.Module):
    """Embedding, two dilated convolutions padded on the left, a head."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(ALPHABET, width)
        self.near = nn.Conv1d(width, width, 3)
        self.far = nn.Conv1d(width, width, 3, dilation=3)
        self.head = nn.Linear(width, ALPHABET)

    def forward(self, text: Tensor) -> Tensor:
        """Scores of the next character at every place."""
        x = self.embed(text).transpose(1, 2)
        x = x + F.gelu(self.near(F.pad(x, (2, 0))))
        x = x + F.gelu(self.far(F.pad(x, (6, 0))))
        return self.head(x.transpose(1, 2))


def characters(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows that fall by a stride of their own, and the same one later."""
    stride = torch.randint(1, 4, (8, 1), generator=generator)
    text = (torch.randint(0, ALPHABET, (8, 1), generator=generator) - stride * torch.arange(17)) % ALPHABET
    return text[:, :-1], text[:, 1:]


def lion_characters() -> Subject:
    """A third of Adam's rate and three times its decay, as the paper advises; the gradient is clipped."""

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        text, following = batch
        return F.cross_entropy(model(text).flatten(0, 1), following.flatten())

    def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list) -> dict[str, float]:
        losses = [loss(model, batch) for batch in batches]
        mean = torch.stack(losses).mean()
        optimizer.zero_grad(set_to_none=True)
        mean.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return {"loss": mean.item()}

    return Subject(
        name="lion-characters",
        model=CausalConv,
        batch=characters,
        loss=loss,
        optimizer=lambda model: Lion(model.parameters(), lr=5e-4, weight_decay=1e-2),
        train_step=train_step,
    )


SUBJECTS = {"lion-characters": lion_characters}
