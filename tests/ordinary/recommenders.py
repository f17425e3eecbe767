"""Who likes what, and which words stand together: factors, towers, rankings, negative samples."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid, normalize

from andon.verify import Subject

SOURCE = "written for this corpus"
USERS, ITEMS = 25, 40


class Ratings(NamedTuple):
    """Who gave what how many stars."""

    user: Tensor
    item: Tensor
    stars: Tensor


def ratings(generator: torch.Generator) -> Ratings:
    """Users and items have a level each."""
    user, item = torch.randint(USERS, (48,), generator=generator), torch.randint(ITEMS, (48,), generator=generator)
    return Ratings(user, item, (1 + (user % 3) + (item % 3)).float())


# ------------------------------------------------------------------------------------------------ matrix factorization
class BiasedMF(nn.Module):
    """The mean, a bias each, and a product of factors."""

    def __init__(self, factors: int = 8, mean: float = 3.0) -> None:
        super().__init__()
        self.mean = mean
        self.user, self.item = nn.Embedding(USERS, factors), nn.Embedding(ITEMS, factors)
        self.user_bias, self.item_bias = nn.Embedding(USERS, 1), nn.Embedding(ITEMS, 1)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.1)
        for table in (self.user_bias, self.item_bias):
            nn.init.zeros_(table.weight)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Stars."""
        product = (self.user(user) * self.item(item)).sum(-1)
        return self.mean + self.user_bias(user).squeeze(-1) + self.item_bias(item).squeeze(-1) + product


def mf_loss(model: Any, batch: Ratings, decay: float = 0.02) -> Tensor:
    """Squares of the errors, and of the factors that were used."""
    error = (model(batch.user, batch.item) - batch.stars).square().mean()
    used = model.user(batch.user).square().sum(-1) + model.item(batch.item).square().sum(-1)
    return error + decay * used.mean()


# ---------------------------------------------------------------------------------------------------------- two towers
class TwoTower(nn.Module):
    """Users by what they saw (a bag), items by number and kind."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.seen = nn.EmbeddingBag(ITEMS, width, mode="mean")
        self.item, self.kind = nn.Embedding(ITEMS, width), nn.Embedding(5, width)
        self.query = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, width))
        self.key = nn.Sequential(nn.Linear(2 * width, 32), nn.ReLU(), nn.Linear(32, width))

    def forward(self, seen: Tensor, offsets: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of both."""
        keys = self.key(torch.cat([self.item(item), self.kind(item % 5)], -1))
        return normalize(self.query(self.seen(seen, offsets)), dim=-1), normalize(keys, dim=-1)


def visits(generator: torch.Generator) -> dict[str, Tensor]:
    """Bags of several sizes, and what was taken next, with how often it is taken at all."""
    sizes = torch.randint(1, 6, (10,), generator=generator)
    return {
        "seen": torch.randint(ITEMS, (int(sizes.sum()),), generator=generator),
        "offsets": sizes.cumsum(0) - sizes,
        "item": torch.randperm(ITEMS, generator=generator)[:10],
        "frequency": 0.005 + 0.05 * torch.rand(10, generator=generator),
    }


def in_batch_softmax(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The others' items are negatives; frequent ones are corrected for (Yi et al. 2019)."""
    users, items = model(batch["seen"], batch["offsets"], batch["item"])
    logits = users @ items.T / 0.1 - batch["frequency"].log()
    return cross_entropy(logits, torch.arange(len(logits)))


# --------------------------------------------------------------------------------------------------- rankings, pairwise
class Ranker(nn.Module):
    """Dot products alone; gradients of tables are sparse."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.users = nn.Embedding(USERS, width, sparse=True)
        self.items = nn.Embedding(ITEMS, width, sparse=True)
        nn.init.normal_(self.users.weight, std=0.1)
        nn.init.normal_(self.items.weight, std=0.1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Scores."""
        return torch.einsum("bd,bd->b", self.users(user), self.items(item))


def preferences(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A user, what was liked, what was not seen."""
    user = torch.randint(USERS, (32,), generator=generator)
    liked = 2 * torch.randint(ITEMS // 2, (32,), generator=generator)
    return user, liked, (liked + 1 + 2 * torch.randint(ITEMS // 2, (32,), generator=generator)) % ITEMS


def bpr_loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Rendle et al. 2009."""
    user, liked, other = batch
    return -logsigmoid(model(user, liked) - model(user, other)).mean()


# ---------------------------------------------------------------------------------------------- factorization machines
class FactorizationMachine(nn.Module):
    """All pairs of features at once, as half of the square of the sum less the sum of the squares."""

    offsets: Tensor

    def __init__(self, fields: tuple[int, ...] = (10, 7, 4), width: int = 6, deep: bool = True) -> None:
        super().__init__()
        self.register_buffer("offsets", torch.tensor([0, *fields[:-1]]).cumsum(0))
        self.linear, self.bias = nn.Embedding(sum(fields), 1), nn.Parameter(torch.zeros(1))
        self.embedding = nn.Embedding(sum(fields), width)
        nn.init.xavier_uniform_(self.embedding.weight)
        size = width * len(fields)
        self.deep = nn.Sequential(nn.Linear(size, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1)) if deep else None

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a click; x (B, fields)."""
        x = x + self.offsets
        e = self.embedding(x)
        pairs = 0.5 * (e.sum(1) ** 2 - (e**2).sum(1)).sum(1, keepdim=True)
        logit = self.bias + self.linear(x).sum(1) + pairs
        if self.deep is not None:
            logit = logit + self.deep(e.flatten(1))
        return logit.squeeze(1)


def clicks(generator: torch.Generator) -> dict[str, Tensor]:
    """Three fields; a click depends on two of them together."""
    fields = torch.stack([torch.randint(size, (32,), generator=generator) for size in (10, 7, 4)], 1)
    return {"fields": fields, "click": ((fields[:, 0] + fields[:, 1]) % 2).float()}


# ----------------------------------------------------------------------------------------------------- what comes next
class NextItem(nn.Module):
    """SASRec: a causal transformer over a user's visits; 0 pads on the left."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.items, self.places = nn.Embedding(ITEMS + 1, width, padding_idx=0), nn.Embedding(12, width)
        self.attention = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, width))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, visits: Tensor) -> Tensor:
        """States (B, T, D)."""
        real = (visits != 0)[..., None]
        x = (self.items(visits) * self.items.embedding_dim**0.5 + self.places.weight[: visits.shape[1]]) * real
        ahead = torch.ones(visits.shape[1], visits.shape[1], dtype=torch.bool, device=x.device).triu(1)
        q = self.norm1(x)
        x = (q + self.attention(q, x, x, attn_mask=ahead, need_weights=False)[0]) * real
        x = (x + self.feed(self.norm2(x))) * real
        return self.norm3(x)

    def score(self, states: Tensor, items: Tensor) -> Tensor:
        """How well items (B, T) follow."""
        return (states * self.items(items)).sum(-1)


def sessions(generator: torch.Generator) -> dict[str, Tensor]:
    """Visits, what came next, and another item for each."""
    lengths = torch.tensor([12, 9, 5, 12, 3, 7])
    real = torch.arange(12) >= 12 - lengths[:, None]
    visits, follow, other = (torch.randint(1, ITEMS + 1, (6, 12), generator=generator) * real for _ in range(3))
    follow[:, :-1] = visits[:, 1:] * real[:, :-1]
    other = torch.where(other == follow, other % ITEMS + 1, other) * real
    return {"visits": visits, "next": follow, "negative": other}


def next_item_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """A yes and a no for each real place."""
    states, real = model(batch["visits"]), batch["next"] != 0
    yes, no = model.score(states, batch["next"])[real], model.score(states, batch["negative"])[real]
    return binary_cross_entropy_with_logits(yes, torch.ones_like(yes)) + binary_cross_entropy_with_logits(
        no, torch.zeros_like(no)
    )


# ------------------------------------------------------------------------------------------------------------- word2vec
class SkipGram(nn.Module):
    """Vectors of words and of their contexts, which start at zero."""

    def __init__(self, words: int = 80, width: int = 16) -> None:
        super().__init__()
        self.center, self.context = nn.Embedding(words, width, sparse=True), nn.Embedding(words, width, sparse=True)
        nn.init.uniform_(self.center.weight, -0.5 / width, 0.5 / width)
        nn.init.zeros_(self.context.weight)

    def forward(self, center: Tensor, context: Tensor, noise: Tensor) -> Tensor:
        """The negative sampling loss (Mikolov et al. 2013)."""
        v = self.center(center)
        positive = logsigmoid((v * self.context(context)).sum(-1))
        negative = logsigmoid(-torch.bmm(self.context(noise), v.unsqueeze(2)).squeeze(2)).sum(-1)
        return -(positive + negative).mean()


def windows(generator: torch.Generator) -> dict[str, Tensor]:
    """Pairs that stand near each other, and five words of noise for each."""
    text = torch.randint(80, (40,), generator=generator)
    pairs = [(i, j) for i in range(40) for j in range(max(0, i - 2), min(40, i + 3)) if i != j]
    center, context = text[torch.tensor(pairs)].T
    popularity = torch.arange(1.0, 81.0) ** -0.75
    noise = torch.multinomial(popularity, 5 * len(pairs), replacement=True, generator=generator).view(-1, 5)
    return {"center": center, "context": context, "noise": noise}


SUBJECTS = {
    "matrix factorization": lambda: Subject(
        name="matrix factorization", model=BiasedMF, batch=ratings, loss=mf_loss, causal=False,
        optimizer=lambda model: torch.optim.Adagrad(model.parameters(), lr=0.1),
    ),
    "two towers": lambda: Subject(
        name="two towers", model=TwoTower, batch=visits, loss=in_batch_softmax, causal=False
    ),
    "bpr": lambda: Subject(
        name="bpr", model=Ranker, batch=preferences, loss=bpr_loss, causal=False,
        optimizer=lambda model: torch.optim.SparseAdam(list(model.parameters()), lr=0.01),
    ),
    "deep factorization machine": lambda: Subject(
        name="deep factorization machine", model=FactorizationMachine, batch=clicks, causal=False,
        loss=lambda model, batch: binary_cross_entropy_with_logits(model(batch["fields"]), batch["click"]),
    ),
    "next item": lambda: Subject(name="next item", model=NextItem, batch=sessions, loss=next_item_loss),
    "word2vec": lambda: Subject(
        name="word2vec", model=SkipGram, batch=windows, loss=lambda model, batch: model(**batch), causal=False,
        optimizer=lambda model: torch.optim.SparseAdam(list(model.parameters()), lr=0.025),
    ),
}  # fmt: skip
