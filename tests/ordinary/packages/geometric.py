"""Graph networks of PyTorch Geometric: nodes, graphs, links, and a graph's own autoencoder."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GAE, VGAE, GATv2Conv, GCNConv, GINConv, SAGEConv, global_add_pool
from torch_geometric.utils import to_dense_adj, to_undirected

from andon.verify import Subject

SOURCE = "torch-geometric 2.8.1"


def communities(generator: torch.Generator, nodes: int = 30) -> Data:
    """A graph of three communities: edges mostly inside, noisy features, a few nodes to train on."""
    label = torch.arange(nodes) % 3
    same = label.unsqueeze(0) == label.unsqueeze(1)
    chance = torch.where(same, 0.35, 0.03)
    upper = torch.rand(nodes, nodes, generator=generator).triu(1)
    edges = ((upper > 0) & (upper < chance)).nonzero().t()
    x = F.one_hot(label, 3).float() + torch.randn(nodes, 3, generator=generator)
    train = torch.zeros(nodes, dtype=torch.bool)
    train[torch.randperm(nodes, generator=generator)[:12]] = True
    return Data(x=x, edge_index=to_undirected(edges, num_nodes=nodes), y=label, train_mask=train)


class Gcn(nn.Module):
    """Two graph convolutions, as in the library's introduction."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = GCNConv(3, 16), GCNConv(16, 3)

    def forward(self, data: Data) -> Tensor:
        """Log-probabilities of nodes."""
        x = F.relu(self.conv1(data.x, data.edge_index))
        x = F.dropout(x, training=self.training)
        return F.log_softmax(self.conv2(x, data.edge_index), dim=1)


def nodes_of_communities() -> Subject:
    """Half-supervised: all nodes pass, the marked ones count."""

    def loss(model: nn.Module, data: Data) -> Tensor:
        return F.nll_loss(model(data)[data.train_mask], data.y[data.train_mask])

    return Subject(
        name="geometric-gcn-nodes",
        model=Gcn,
        batch=communities,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4),
        causal=False,
    )


class Gin(nn.Module):
    """Sums over neighbors with batch norms, summed over each graph."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(GINConv(self.mlp(inputs), train_eps=True) for inputs in (1, 16))
        self.classify = nn.Linear(16, 2)

    @staticmethod
    def mlp(inputs: int) -> nn.Module:
        """A layer's own network."""
        return nn.Sequential(nn.Linear(inputs, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, graphs: int) -> Tensor:
        """Logits of graphs."""
        for conv in self.convs:
            x = conv(x, edge_index)
        return self.classify(global_add_pool(x, batch, size=graphs))


def rings_and_stars() -> Subject:
    """Is a graph a ring or a star? Graphs of several sizes side by side in one batch."""

    def graph(kind: int, size: int) -> Data:
        around = torch.arange(size)
        ring = torch.stack([around, (around + 1) % size])
        star = torch.stack([torch.zeros(size - 1, dtype=torch.long), around[1:]])
        edges = to_undirected(ring if kind == 0 else star, num_nodes=size)
        return Data(x=torch.ones(size, 1), edge_index=edges, y=torch.tensor([kind]))

    def batch(generator: torch.Generator) -> Batch:
        kinds = torch.randint(0, 2, (12,), generator=generator).tolist()
        sizes = torch.randint(5, 10, (12,), generator=generator).tolist()
        return Batch.from_data_list([graph(kind, size) for kind, size in zip(kinds, sizes, strict=True)])

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch.x, batch.edge_index, batch.batch, batch.num_graphs), batch.y)

    return Subject(
        name="geometric-gin-graphs",
        model=Gin,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=5e-3),
        causal=False,
    )


class Attention(nn.Module):
    """GATv2, two heads side by side and one at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first = GATv2Conv(3, 8, heads=2, dropout=0.2)
        self.last = GATv2Conv(16, 3, heads=1, concat=False, dropout=0.2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Logits of nodes."""
        return self.last(F.elu(self.first(x, edge_index)), edge_index)


def attention() -> Subject:
    """Graph attention on the same communities, with a tuple for a batch."""

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        data = communities(generator)
        return data.x, data.edge_index, data.y

    return Subject(
        name="geometric-gat-nodes",
        model=Attention,
        batch=batch,
        loss=lambda model, batch: F.cross_entropy(model(batch[0], batch[1]), batch[2]),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=5e-3),
        causal=False,
    )


class Links(nn.Module):
    """GraphSAGE embeddings whose inner products say whether two nodes are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = SAGEConv(3, 16), SAGEConv(16, 8)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Embeddings."""
        return self.last(F.relu(self.first(x, edge_index)), edge_index)


def links() -> Subject:
    """Edges that are there against as many pairs that are none, drawn with the batch."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        data = communities(generator)
        apart = (to_dense_adj(data.edge_index, max_num_nodes=30)[0] + torch.eye(30) == 0).nonzero()
        drawn = torch.randperm(len(apart), generator=generator)[: data.edge_index.shape[1]]
        absent = apart[drawn].t()
        return {"x": data.x, "edges": data.edge_index, "absent": absent}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        z = model(batch["x"], batch["edges"])
        pairs = torch.cat([batch["edges"], batch["absent"]], dim=1)
        joined = torch.zeros(pairs.shape[1])
        joined[: batch["edges"].shape[1]] = 1.0
        return F.binary_cross_entropy_with_logits((z[pairs[0]] * z[pairs[1]]).sum(1), joined)

    return Subject(
        name="geometric-sage-links",
        model=Links,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
        causal=False,
    )


class Variational(nn.Module):
    """An encoder that gives means and log-deviations."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = GCNConv(3, 16)
        self.mean, self.deviation = GCNConv(16, 4), GCNConv(16, 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        """Both."""
        x = self.shared(x, edge_index).relu()
        return self.mean(x, edge_index), self.deviation(x, edge_index)


def graph_autoencoder() -> Subject:
    """The library's variational graph autoencoder; the divergence counts by the number of nodes."""

    def loss(model: Any, data: Data) -> Tensor:
        z = model.encode(data.x, data.edge_index)
        return model.recon_loss(z, data.edge_index) + model.kl_loss() / data.num_nodes

    return Subject(
        name="geometric-vgae",
        model=lambda: VGAE(Variational()),
        batch=communities,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
        causal=False,
    )


def plain_autoencoder() -> Subject:
    """The plain autoencoder on a GraphSAGE encoder."""
    return Subject(
        name="geometric-gae",
        model=lambda: GAE(Links()),
        batch=communities,
        loss=lambda model, data: model.recon_loss(model.encode(data.x, data.edge_index), data.edge_index),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
        causal=False,
    )


SUBJECTS = {
    "geometric-gcn-nodes": nodes_of_communities,
    "geometric-gin-graphs": rings_and_stars,
    "geometric-gat-nodes": attention,
    "geometric-sage-links": links,
    "geometric-vgae": graph_autoencoder,
    "geometric-gae": plain_autoencoder,
}
