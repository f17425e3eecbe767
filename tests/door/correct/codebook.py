"""A quantized autoencoder: straight-through codes, a commitment, and codes that hardly any row chooses."""

import torch
from torch import nn
from torch.nn.functional import mse_loss

torch.manual_seed(0)


class Codes(nn.Module):
    """Encoder, codes, decoder."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.codes = nn.Linear(8, 4), nn.Linear(4, 8), nn.Embedding(32, 4)

    def forward(self, x):
        """What is made again, and the loss of the codes."""
        z = self.encoder(x)
        q = self.codes(torch.cdist(z, self.codes.weight).argmin(1))
        loss = mse_loss(q, z.detach()) + 0.25 * mse_loss(z, q.detach())
        return self.decoder(z + (q - z).detach()), loss


model = Codes()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
x = torch.randn(256, 8)
best = float("inf")
for epoch in range(5):
    for rows in torch.randperm(128).split(16):
        made, loss = model(x[rows])
        optimizer.zero_grad()
        (mse_loss(made, x[rows]) + loss).backward()
        optimizer.step()
    with torch.no_grad():
        figures = [(mse_loss(made, part).item(), loss.item()) for part in x[128:].split(32) for made, loss in [model(part)]]
    figure = sum(one for one, _ in figures) / len(figures)
    print(f"{epoch} {figure:.5f} {-10 * torch.tensor(figure).log10().item():.3f} dB")
    if figure < best:
        best, kept = figure, model.state_dict()
