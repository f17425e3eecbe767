"""pytorch-metric-learning's own trainer, with a triplet loss and a miner."""

import torch
from pytorch_metric_learning import losses, miners, trainers
from torch import nn
from torch.utils.data import TensorDataset

torch.manual_seed(0)
labels = torch.randint(6, (384,))
points = torch.randn(6, 16)[labels] + 0.5 * torch.randn(384, 16)
trunk, embedder = nn.Sequential(nn.Linear(16, 32), nn.ReLU()), nn.Linear(32, 8)
optimizers = {
    "trunk_optimizer": torch.optim.Adam(trunk.parameters(), lr=1e-3),
    "embedder_optimizer": torch.optim.Adam(embedder.parameters(), lr=1e-3),
}
trainer = trainers.MetricLossOnly(
    models={"trunk": trunk, "embedder": embedder},
    optimizers=optimizers,
    batch_size=32,
    loss_funcs={"metric_loss": losses.TripletMarginLoss()},
    mining_funcs={"tuple_miner": miners.MultiSimilarityMiner()},
    dataset=TensorDataset(points, labels),
    data_device="cpu",
    dataloader_num_workers=0,
)
trainer.train(num_epochs=4)
