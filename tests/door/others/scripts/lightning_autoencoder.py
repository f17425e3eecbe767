"""lightning's Trainer on a variational autoencoder, with clipping and a schedule by step."""

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Autoencoder(lightning.LightningModule):
    """Points on a plane in sixteen dimensions, through four."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8))
        self.decode = nn.Sequential(nn.Linear(4, 32), nn.GELU(), nn.Linear(32, 16))

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        mean, log_variance = self.encode(batch[0]).chunk(2, -1)
        latent = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        apart = (self.decode(latent) - batch[0]).square().sum(-1)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
        return (apart + 0.1 * divergence).mean()

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=5e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 5e-3, total_steps=self.trainer.estimated_stepping_batches
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


lightning.seed_everything(0)
points = torch.randn(512, 2) @ torch.randn(2, 16) + 0.05 * torch.randn(512, 16)
trainer = lightning.Trainer(
    max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False, gradient_clip_val=1.0,
    enable_checkpointing=False,
)  # fmt: skip
trainer.fit(Autoencoder(), DataLoader(TensorDataset(points), 32, shuffle=True))
