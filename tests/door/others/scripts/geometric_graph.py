"""torch_geometric's graph network on nodes of one made-up graph, with a mask for those that are held out."""

import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv

torch.manual_seed(0)
labels = torch.randint(3, (120,))
alike = (labels[:, None] == labels[None]) & (torch.rand(120, 120) < 0.08)
edges = (alike | (torch.rand(120, 120) < 0.01)).nonzero().t()
data = Data(torch.randn(3, 16)[labels] + torch.randn(120, 16), edges, y=labels)
train = torch.rand(120) < 0.6


class Network(nn.Module):
    """Two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = GCNConv(16, 16), GCNConv(16, 3)

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        x = nn.functional.dropout(self.first(x, edge_index).relu(), 0.3, self.training)
        return self.second(x, edge_index)


model = Network()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
for epoch in range(60):
    model.train()
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(data.x, data.edge_index)[train], data.y[train])
    loss.backward()
    optimizer.step()
    if epoch % 20 == 0:
        model.eval()
        with torch.no_grad():
            right = model(data.x, data.edge_index).argmax(-1) == data.y
        print(f"epoch {epoch}: loss {loss.item():.3f}, held out {right[~train].float().mean():.2f}")
