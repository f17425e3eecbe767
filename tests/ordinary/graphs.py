"""Sets, points and graphs: GCN, attention on edges, messages by index_add, DeepSets, PointNet, a set transformer."""

from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor, nn

from andon.verify import Subject

SOURCE = "written for this corpus"


# --------------------------------------------------------------------------------------------- one graph, some labels
@dataclass
class Graph:
    """Features of nodes, edges (2, E) from and to, labels, and which nodes are trained on."""

    x: Tensor
    edge_index: Tensor
    y: Tensor
    train_mask: Tensor


def communities(generator: torch.Generator, nodes: int = 30) -> Graph:
    """Three groups, with edges within and few between."""
    y = torch.arange(nodes) % 3
    chance = torch.where(y[:, None] == y, 0.4, 0.03)
    upper = (torch.rand(nodes, nodes, generator=generator) < chance).triu(1)
    edges = (upper | upper.T).nonzero().T.contiguous()
    x = nn.functional.one_hot(y, 8).float() + torch.randn(nodes, 8, generator=generator)
    return Graph(x, edges, y, torch.arange(nodes) % 2 == 0)


class GCNConv(nn.Module):
    """Kipf and Welling 2017: neighbors and oneself, weighted by the roots of their degrees."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.lin, self.bias = nn.Linear(inp, out, bias=False), nn.Parameter(torch.zeros(out))
        nn.init.xavier_uniform_(self.lin.weight)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """(N, out)."""
        loops = torch.arange(len(x), device=x.device)
        source, target = torch.cat([edge_index, torch.stack([loops, loops])], dim=1)
        degree = torch.bincount(target, minlength=len(x)).to(x.dtype)
        weight = (degree[source] * degree[target]).rsqrt()
        out = torch.zeros(len(x), self.lin.out_features, dtype=x.dtype, device=x.device)
        return out.index_add(0, target, weight[:, None] * self.lin(x)[source]) + self.bias


class GCN(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = GCNConv(8, 16), GCNConv(16, 3)

    def forward(self, data: Graph) -> Tensor:
        """Log probabilities of nodes."""
        x = self.conv1(data.x, data.edge_index).relu()
        x = nn.functional.dropout(x, p=0.5, training=self.training)
        return nn.functional.log_softmax(self.conv2(x, data.edge_index), dim=1)


class GATConv(nn.Module):
    """Velickovic et al. 2018: a softmax over the edges that come in."""

    def __init__(self, inp: int, out: int, heads: int) -> None:
        super().__init__()
        self.heads, self.out = heads, out
        self.lin = nn.Linear(inp, heads * out, bias=False)
        self.att_src, self.att_dst = (nn.Parameter(torch.randn(heads, out) * out**-0.5) for _ in range(2))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """(N, heads, out)."""
        loops = torch.arange(len(x), device=x.device).expand(2, -1)
        source, target = torch.cat([edge_index, loops], 1)
        h = self.lin(x).view(-1, self.heads, self.out)
        score = (h * self.att_src).sum(-1)[source] + (h * self.att_dst).sum(-1)[target]
        score = nn.functional.leaky_relu(score, 0.2)
        where = target[:, None].expand_as(score)
        highest = torch.full_like(h[..., 0], -torch.inf).scatter_reduce(0, where, score.detach(), "amax")
        weight = torch.exp(score - highest[target])
        total = torch.zeros_like(h[..., 0]).scatter_add(0, where, weight)
        messages = (weight / total[target])[..., None] * h[source]
        return torch.zeros_like(h).index_add(0, target, messages)


class GAT(nn.Module):
    """Heads joined, then averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = GATConv(8, 6, heads=4), GATConv(24, 3, heads=2)

    def forward(self, data: Graph) -> Tensor:
        """Log probabilities of nodes."""
        x = nn.functional.elu(self.conv1(data.x, data.edge_index).flatten(1))
        return self.conv2(x, data.edge_index).mean(1).log_softmax(-1)


def node_loss(model: nn.Module, data: Graph) -> Tensor:
    """Of the nodes that are trained on."""
    return nn.functional.nll_loss(model(data)[data.train_mask], data.y[data.train_mask])


def nodes(name: str, model: type[nn.Module]) -> Subject:
    """Semi-supervised."""
    return Subject(
        name=name, model=model, batch=communities, loss=node_loss, causal=False,
        optimizer=lambda net: torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=5e-4),
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------- many molecules
class MessagePassing(nn.Module):
    """Gilmer et al. 2017: messages from atoms and bonds, a GRU keeps, a sum over each molecule reads out."""

    def __init__(self, atoms: int = 6, bonds: int = 3, width: int = 24, rounds: int = 3) -> None:
        super().__init__()
        self.atom, self.bond = nn.Embedding(atoms, width), nn.Embedding(bonds, width)
        self.message = nn.Sequential(nn.Linear(3 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.update = nn.GRUCell(width, width)
        self.readout = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        self.rounds = rounds

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A number for each molecule."""
        h, (source, target) = self.atom(batch["atoms"]), batch["edges"]
        bonds = self.bond(batch["bonds"])
        for _ in range(self.rounds):
            sent = self.message(torch.cat([h[source], h[target], bonds], -1))
            h = self.update(torch.zeros_like(h).index_add_(0, target, sent), h)
        each = self.readout(h).squeeze(-1)
        return torch.zeros_like(batch["energy"]).index_add_(0, batch["molecule"], each)


def molecules(generator: torch.Generator) -> dict[str, Tensor]:
    """Rings of several sizes; an atom is of one molecule."""
    sizes = torch.randint(3, 8, (8,), generator=generator)
    molecule = torch.repeat_interleave(torch.arange(8), sizes)
    first = torch.cumsum(sizes, 0) - sizes
    place = torch.arange(len(molecule)) - first[molecule]
    following = first[molecule] + (place + 1) % sizes[molecule]
    here = torch.arange(len(molecule))
    kinds = torch.randint(3, (len(here),), generator=generator)
    atoms = torch.randint(6, (len(here),), generator=generator)
    energy = torch.zeros(8).index_add_(0, molecule, 0.3 * atoms - 0.5)
    return {
        "atoms": atoms,
        "edges": torch.stack([torch.cat([here, following]), torch.cat([following, here])]),
        "bonds": torch.cat([kinds, kinds]),
        "molecule": molecule,
        "energy": energy,
    }


def energies() -> Subject:
    """Mean absolute error a molecule."""
    return Subject(
        name="message passing", model=MessagePassing, batch=molecules, causal=False,
        loss=lambda model, batch: nn.functional.l1_loss(model(batch), batch["energy"]),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=2e-3),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98),
    )  # fmt: skip


class Equivariant(nn.Module):
    """EGNN of Satorras et al. 2021: places move along the differences; used for where bodies will be."""

    def __init__(self, width: int = 16, layers: int = 2) -> None:
        super().__init__()
        self.edge = nn.ModuleList(nn.Sequential(nn.Linear(2 * width + 1, width), nn.SiLU()) for _ in range(layers))
        self.node = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(layers - 1))  # none after the last push
        pushes = [nn.Linear(width, 1, bias=False) for _ in range(layers)]
        for push in pushes:
            nn.init.xavier_uniform_(push.weight, gain=0.001)
        self.push = nn.ModuleList(pushes)
        self.drift = nn.Parameter(torch.tensor(1.0))
        self.start = nn.Linear(1, width)

    def forward(self, charge: Tensor, place: Tensor, speed: Tensor) -> Tensor:
        """(B, N, 3)."""
        h, x = self.start(charge[..., None]), place + self.drift * speed
        count = h.shape[1]
        others = ~torch.eye(count, dtype=torch.bool, device=x.device)[..., None]
        for edge, push, node in zip_longest(self.edge, self.push, self.node):
            difference = x[:, :, None] - x[:, None]
            distance = difference.square().sum(-1, keepdim=True)
            pairs = [h[:, :, None].expand(-1, -1, count, -1), h[:, None].expand(-1, count, -1, -1), distance]
            message = edge(torch.cat(pairs, -1)) * others
            x = x + (difference * push(message)).sum(2) / (count - 1)
            if node is not None:
                h = h + node(torch.cat([h, message.sum(2)], -1)).tanh()
        return x


def bodies() -> Subject:
    """Charged bodies a moment later."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        charge = torch.where(torch.rand(6, 5, generator=generator) < 0.5, -1.0, 1.0)
        place, speed = torch.randn(2, 6, 5, 3, generator=generator)
        gap = place[:, :, None] - place[:, None]
        force = (charge[:, :, None] * charge[:, None])[..., None] * gap / (1 + gap.square().sum(-1, keepdim=True))
        return {"charge": charge, "place": place, "speed": speed, "later": place + speed + 0.5 * force.sum(2)}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        guess = model(batch["charge"], batch["place"], batch["speed"])
        return (guess - batch["later"]).square().mean()

    return Subject(name="equivariant bodies", model=Equivariant, batch=batch, loss=loss, causal=False)


# ------------------------------------------------------------------------------------------------------ sets and points
class DeepSets(nn.Module):
    """A function of each, summed over the real ones, a function of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(3, 32), nn.ELU(), nn.Linear(32, 32))
        self.rho = nn.Sequential(nn.ELU(), nn.Linear(32, 32), nn.ELU(), nn.Linear(32, 1))

    def forward(self, items: Tensor, real: Tensor) -> Tensor:
        """A number a set."""
        return self.rho((self.phi(items) * real[..., None]).sum(1) / 10)[:, 0]


def sets(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Sets of several sizes, padded; the mask; the sum of the squares."""
    sizes = torch.randint(2, 11, (16,), generator=generator)
    items, real = torch.randn(16, 10, 3, generator=generator), torch.arange(10) < sizes[:, None]
    return items, real.float(), (items.square().mean(-1) * real).sum(1)


def deep_sets() -> Subject:
    """Regression of sets."""
    return Subject(
        name="deepsets", model=DeepSets, batch=sets, causal=False,
        loss=lambda model, batch: nn.functional.huber_loss(model(batch[0], batch[1]), batch[2]),
    )  # fmt: skip


class PointNet(nn.Module):
    """Qi et al. 2017: a learned rotation, shared layers, the maximum over points; the rotation is kept orthogonal."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.tnet = nn.Sequential(nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU(), nn.AdaptiveMaxPool1d(1))
        self.turn = nn.Linear(16, 9)
        self.mlp = nn.Sequential(nn.Conv1d(3, 24, 1), nn.BatchNorm1d(24), nn.ReLU(), nn.Conv1d(24, 32, 1))
        self.bn, self.fc = nn.BatchNorm1d(32), nn.Linear(32, classes)
        nn.init.zeros_(self.turn.weight)
        with torch.no_grad():
            self.turn.bias.copy_(torch.eye(3).flatten())

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and how far the matrices are from rotations. Points are (B, 3, N)."""
        matrix = self.turn(self.tnet(points).squeeze(-1)).view(-1, 3, 3)
        features = self.bn(self.mlp(matrix @ points).amax(-1))
        excess = matrix @ matrix.mT - torch.eye(3, device=points.device)
        return self.fc(features.relu()), excess.square().sum((1, 2)).mean()


def clouds(generator: torch.Generator) -> dict[str, Tensor]:
    """Balls, discs and sticks."""
    label = torch.arange(9) % 3
    points = torch.randn(9, 3, 24, generator=generator)
    points[label >= 1, 2] *= 0.1
    points[label >= 2, 1] *= 0.1
    return {"points": points, "label": label}


def point_net() -> Subject:
    """Shapes."""

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits, excess = model(batch["points"])
        return nn.functional.cross_entropy(logits, batch["label"]) + 0.001 * excess

    return Subject(
        name="pointnet", model=PointNet, batch=clouds, loss=loss, causal=False,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=5e-3),
    )  # fmt: skip


SUBJECTS = {
    "gcn": lambda: nodes("gcn", GCN),
    "gat": lambda: nodes("gat", GAT),
    "message passing": energies,
    "equivariant bodies": bodies,
    "deepsets": deep_sets,
    "pointnet": point_net,
}
