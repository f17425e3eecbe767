"""lightning's Trainer on pictures of two shapes, with validation and a checkpoint."""

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Classifier(lightning.LightningModule):
    """A small convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(16, 4),
        )  # fmt: skip

    def forward(self, pictures: Tensor) -> Tensor:
        return self.net(pictures)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


lightning.seed_everything(0)
classes = torch.randint(4, (320,))
pictures = 0.3 * torch.randn(320, 1, 12, 12)
for row, kind in enumerate(classes.tolist()):
    pictures[row, 0, 3 * kind : 3 * kind + 3] += 1.0
train, held_out = TensorDataset(pictures[:256], classes[:256]), TensorDataset(pictures[256:], classes[256:])
trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False)
trainer.fit(Classifier(), DataLoader(train, 16, shuffle=True), DataLoader(held_out, 16))
