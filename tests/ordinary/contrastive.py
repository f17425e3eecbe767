"""Representations from pairs: InfoNCE, CLIP, triplets, SupCon, MoCo, BYOL, siamese twins, a mean teacher."""

import copy
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from torch import Tensor, nn

from andon.verify import Subject

SOURCE = "written for this corpus"


def small_encoder(out: int = 16, batch_norm: bool = True) -> nn.Sequential:
    """8 by 8 pictures of one channel to vectors."""
    norm = [nn.BatchNorm2d(8)] if batch_norm else []
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=not batch_norm), *norm, nn.ReLU(inplace=True),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, out),
    )  # fmt: skip


def learned(model: nn.Module) -> list[nn.Parameter]:
    """What an optimizer is given."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def pictures(generator: torch.Generator, count: int) -> Tensor:
    """Noise around a bright spot."""
    x = 0.1 * torch.randn(count, 1, 8, 8, generator=generator)
    spot = torch.randint(64, (count,), generator=generator)
    x.view(count, -1)[torch.arange(count), spot] += 3.0
    return x


def two_views(generator: torch.Generator, count: int = 12) -> tuple[Tensor, Tensor]:
    """Each picture twice, with other noise and other brightness."""
    x = pictures(generator, count)
    views = []
    for _ in range(2):
        bright = 0.8 + 0.4 * torch.rand(count, 1, 1, 1, generator=generator)
        views.append(x * bright + 0.1 * torch.randn(x.shape, generator=generator))
    return views[0], views[1]


# ---------------------------------------------------------------------------------------------------------- SimCLR
class SimCLR(nn.Module):
    """An encoder, and a projection that is thrown away after training."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = small_encoder(24)
        self.projector = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 12, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Unit vectors."""
        return F.normalize(self.projector(self.encoder(x)), dim=1)


def nt_xent(model: nn.Module, batch: tuple[Tensor, Tensor], temperature: float = 0.2) -> Tensor:
    """Of all others, which is my twin?"""
    z = model(torch.cat(batch))
    similarity = z @ z.T / temperature
    similarity = similarity.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -9e15)
    half = len(z) // 2
    positives = torch.cat([torch.arange(half, 2 * half), torch.arange(half)]).to(z.device)
    return F.cross_entropy(similarity, positives)


def simclr() -> Subject:
    """Contrast within the batch."""
    return Subject(
        name="simclr", model=SimCLR, batch=two_views, loss=nt_xent, causal=False, random_augmentation=True,
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, weight_decay=1e-4),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ CLIP
class CLIP(nn.Module):
    """Two towers and a learned temperature."""

    def __init__(self, words: int = 40, width: int = 24) -> None:
        super().__init__()
        self.visual = small_encoder(width, batch_norm=False)
        self.token_embedding = nn.Embedding(words, width)
        self.positional_embedding = nn.Parameter(torch.randn(12, width) * 0.01)
        layer = nn.TransformerEncoderLayer(width, 3, 48, 0.0, "gelu", batch_first=True, norm_first=True)
        self.transformer = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def encode_text(self, text: Tensor) -> Tensor:
        """From the state at the end token, which has the largest id."""
        x = self.token_embedding(text) + self.positional_embedding[: text.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(text.shape[1], device=text.device)
        x = self.ln_final(self.transformer(x, mask, is_causal=True))
        return x[torch.arange(len(x)), text.argmax(-1)] @ self.text_projection

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits, images by texts."""
        images, texts = F.normalize(self.visual(image), dim=-1), F.normalize(self.encode_text(text), dim=-1)
        return self.logit_scale.exp() * images @ texts.t()


def captioned(generator: torch.Generator) -> dict[str, Tensor]:
    """Pictures with texts; 39 ends a text, 0 fills up."""
    text = torch.randint(1, 39, (8, 10), generator=generator)
    ends = torch.randint(4, 10, (8,), generator=generator)
    text[torch.arange(8), ends] = 39
    text[torch.arange(10) > ends[:, None]] = 0
    return {"image": pictures(generator, 8), "text": text}


def clip_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Both directions."""
    logits = model(batch["image"], batch["text"])
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2


def clip_step(model: Any, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
    """All pairs are contrasted with each other, so batches are joined; the temperature stays within bounds."""
    optimizer.zero_grad()
    loss = clip_loss(model, {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]})
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, 4.6052)
    return {"loss": loss.item()}


def clip() -> Subject:
    """Pictures and texts."""

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        exclude = [p for p in model.parameters() if p.ndim < 2]
        include = [p for p in model.parameters() if p.ndim >= 2]
        groups = [{"params": exclude, "weight_decay": 0.0}, {"params": include, "weight_decay": 0.2}]
        return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-6)

    return Subject(
        name="clip", model=CLIP, batch=captioned, loss=clip_loss, causal=False, optimizer=optimizer,
        train_step=clip_step,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- triplets, twins, classes
def labeled(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Four classes of vectors, four of each."""
    y = torch.arange(16) % 4
    return torch.randn(4, 10, generator=generator)[y] + 0.5 * torch.randn(16, 10, generator=generator), y


def embedder(normalized: bool = True) -> nn.Module:
    """An MLP."""

    class Normalize(nn.Module):
        """To the sphere."""

        def forward(self, x: Tensor) -> Tensor:
            """The same shape."""
            return F.normalize(x, dim=-1)

    body = [nn.Linear(10, 32), nn.GELU(), nn.Linear(32, 8)]
    return nn.Sequential(*body, *([Normalize()] if normalized else []))


def hardest_triplets(model: nn.Module, batch: tuple[Tensor, Tensor], margin: float = 0.5) -> Tensor:
    """Batch-hard: the farthest of my class against the nearest of another."""
    x, y = batch
    z = model(x)
    squared = (z[:, None] - z[None]).square().sum(-1)
    distance = (squared + 1e-12).sqrt()
    same = y[:, None] == y
    positive = distance.masked_fill(~same, -1.0).amax(1)
    negative = distance.masked_fill(same, float("inf")).amin(1)
    return F.relu(margin + positive - negative).mean()


def supcon(model: nn.Module, batch: tuple[Tensor, Tensor], temperature: float = 0.1) -> Tensor:
    """Khosla et al. 2020: all of my class are positives."""
    x, y = batch
    z = model(x)
    others = ~torch.eye(len(y), dtype=torch.bool, device=z.device)
    logits = z @ z.T / temperature
    logits = logits - logits.amax(1, keepdim=True).detach()
    log_prob = logits - (logits.exp() * others).sum(1, keepdim=True).log()
    positives = (y[:, None] == y) & others
    return -((log_prob * positives).sum(1) / positives.sum(1)).mean()


def siamese() -> Subject:
    """Hadsell et al. 2006: pairs that are alike are drawn together, others pushed beyond a margin."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        (x, y), order = labeled(generator), torch.randperm(16, generator=generator)
        return {"left": x, "right": x[order], "alike": (y == y[order]).float()}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        distance = F.pairwise_distance(model(batch["left"]), model(batch["right"]))
        far = F.relu(1.0 - distance).pow(2)
        return torch.mean(batch["alike"] * distance.pow(2) + (1 - batch["alike"]) * far)

    return Subject(name="siamese", model=lambda: embedder(normalized=False), batch=batch, loss=loss, causal=False)


# ------------------------------------------------------------------------------------------------------------ MoCo
class MoCo(nn.Module):
    """Keys come from a slow copy of the encoder; negatives from a queue of earlier keys."""

    queue: Tensor
    queue_ptr: Tensor

    def __init__(self, dim: int = 12, size: int = 48, momentum: float = 0.99, temperature: float = 0.2) -> None:
        super().__init__()
        self.momentum, self.T = momentum, temperature
        self.encoder_q = small_encoder(dim, batch_norm=False)  # a batch's statistics would tell which keys are whose
        self.encoder_k = copy.deepcopy(self.encoder_q)
        self.encoder_k.requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(dim, size), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def _keys(self, images: Tensor) -> Tensor:
        for slow, fast in zip(self.encoder_k.parameters(), self.encoder_q.parameters(), strict=True):
            slow.mul_(self.momentum).add_(fast, alpha=1 - self.momentum)
        return F.normalize(self.encoder_k(images), dim=1)

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        place = int(self.queue_ptr)
        self.queue[:, place : place + len(keys)] = keys.T
        self.queue_ptr[0] = (place + len(keys)) % self.queue.shape[1]

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Logits; the first is the positive's."""
        q = F.normalize(self.encoder_q(query), dim=1)
        k = self._keys(key)
        positive = torch.einsum("nc,nc->n", q, k).unsqueeze(-1)
        negative = torch.einsum("nc,ck->nk", q, self.queue.clone())
        self._enqueue(k)
        return torch.cat([positive, negative], dim=1) / self.T


def moco() -> Subject:
    """The queue's size is a multiple of the batch's."""
    return Subject(
        name="moco", model=MoCo, batch=two_views, causal=False, random_augmentation=True,
        loss=lambda model, batch: F.cross_entropy(model(*batch), torch.zeros(len(batch[0]), dtype=torch.long)),
        optimizer=lambda model: torch.optim.SGD(learned(model), lr=0.06, momentum=0.9, weight_decay=1e-4),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ BYOL
class BYOL(nn.Module):
    """No negatives: the online net predicts what a moving average of itself says of the other view."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        hidden = lambda out: [nn.Linear(dim, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, out)]  # noqa: E731
        self.online = nn.Sequential(small_encoder(dim), *hidden(dim))
        self.predictor = nn.Sequential(*hidden(dim))
        self.target = copy.deepcopy(self.online)
        for parameter in self.target.parameters():
            parameter.requires_grad = False

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        """The loss, of both directions."""
        with torch.no_grad():
            aims = self.target(two), self.target(one)
        guesses = self.predictor(self.online(one)), self.predictor(self.online(two))
        losses = [2 - 2 * F.cosine_similarity(g, a) for g, a in zip(guesses, aims, strict=True)]
        return losses[0].mean() + losses[1].mean()

    @torch.no_grad()
    def update_target(self, tau: float = 0.99) -> None:
        """After each step of the optimizer."""
        for slow, fast in zip(self.target.parameters(), self.online.parameters(), strict=True):
            slow.lerp_(fast, 1 - tau)


def byol() -> Subject:
    """The target moves after the update."""

    def train_step(model: Any, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
        optimizer.zero_grad()
        loss = sum(model(*batch) for batch in batches) / len(batches)
        loss.backward()
        optimizer.step()
        model.update_target()
        return {"loss": loss.item()}

    return Subject(
        name="byol", model=BYOL, batch=two_views, loss=lambda model, batch: model(*batch), causal=False,
        random_augmentation=True, train_step=train_step,
        optimizer=lambda model: torch.optim.Adam(learned(model), lr=2e-3),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- a mean teacher
class MeanTeacher(nn.Module):
    """A student, and a teacher that is the average of past students."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        """The student's logits."""
        return self.student(x)


def mean_teacher() -> Subject:
    """Cross-entropy where there are labels (-1 where not), agreement with the teacher everywhere."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        x, y = labeled(generator)
        return {"x": x, "y": torch.where(torch.arange(16) < 8, y, -1)}

    def loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
        logits = model(batch["x"])
        with torch.no_grad():
            aim = model.teacher(batch["x"]).softmax(-1)
        supervised = F.cross_entropy(logits, batch["y"], ignore_index=-1)
        return supervised + 3.0 * F.mse_loss(logits.softmax(-1), aim)

    def train_step(model: Any, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
        optimizer.zero_grad()
        losses = [loss(model, batch) / len(batches) for batch in batches]
        torch.stack(losses).sum().backward()
        optimizer.step()
        model.steps += 1
        decay = min(1 - 1 / (model.steps + 1), 0.99)
        with torch.no_grad():
            for slow, fast in zip(model.teacher.parameters(), model.student.parameters(), strict=True):
                slow.mul_(decay).add_(fast, alpha=1 - decay)
        return {"loss": sum(each.item() for each in losses)}

    return Subject(
        name="mean teacher", model=MeanTeacher, batch=batch, loss=loss, causal=False, train_step=train_step,
        optimizer=lambda model: torch.optim.Adam(learned(model), lr=3e-3),
    )  # fmt: skip


SUBJECTS = {
    "simclr": simclr,
    "clip": clip,
    "triplets": lambda: Subject(
        name="triplets", model=embedder, batch=labeled, loss=hardest_triplets, causal=False,
    ),
    "supcon": lambda: Subject(name="supcon", model=embedder, batch=labeled, loss=supcon, causal=False),
    "siamese": siamese,
    "moco": moco,
    "byol": byol,
    "mean teacher": mean_teacher,
}  # fmt: skip
