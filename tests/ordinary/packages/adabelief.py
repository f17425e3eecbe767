"""AdaBelief on a convolutional autoencoder, with the settings that its authors give for reconstruction."""

import torch
from adabelief_pytorch import AdaBelief
from torch import Tensor, nn

from andon.verify import Subject

SOURCE = "adabelief-pytorch 0.2.1"


class Autoencoder(nn.Module):
    """Down to eight numbers and up again."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(16 * 9, 8),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(8, 16 * 9), nn.ReLU(), nn.Unflatten(1, (16, 3, 3)),
            nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        """Logits of pixels."""
        return self.decoder(self.encoder(image))


def squares(generator: torch.Generator) -> Tensor:
    """White squares on black, 12 by 12."""
    corner = torch.randint(0, 8, (16, 2, 1, 1), generator=generator)
    y, x = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    inside = (y >= corner[:, 0]) & (y < corner[:, 0] + 4) & (x >= corner[:, 1]) & (x < corner[:, 1] + 4)
    return inside.float().unsqueeze(1)


def adabelief_squares() -> Subject:
    """Binary cross-entropy of pixels, summed over the picture and averaged over pictures."""

    def loss(model: nn.Module, image: Tensor) -> Tensor:
        each = nn.functional.binary_cross_entropy_with_logits(model(image), image, reduction="none")
        return each.sum(dim=(1, 2, 3)).mean()

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return AdaBelief(
            model.parameters(), lr=1e-3, eps=1e-16, betas=(0.9, 0.999), weight_decouple=True, rectify=False,
            print_change_log=False,
        )  # fmt: skip

    return Subject(
        name="adabelief-autoencoder",
        model=Autoencoder,
        batch=squares,
        loss=loss,
        optimizer=optimizer,
        causal=False,
    )


SUBJECTS = {"adabelief-autoencoder": adabelief_squares}
