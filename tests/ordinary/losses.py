"""Losses by name: uncertainty weights, focal, smoothed, weighted by class and by token, distilled, several heads."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from torch import Tensor, nn

from andon.verify import Subject

SOURCE = "written for this corpus"


class Trunk(nn.Sequential):
    """An MLP with BatchNorm between."""

    def __init__(self, inp: int, hidden: int, out: int) -> None:
        super().__init__(nn.Linear(inp, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, out))


# -------------------------------------------------------------------------------------------------------- several tasks
class MultiTask(nn.Module):
    """A trunk, two heads, and a log variance for each task (Kendall et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 32), nn.GELU())
        self.value, self.kind = nn.Linear(32, 1), nn.Linear(32, 4)
        self.log_vars = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A number and logits."""
        h = self.trunk(x)
        return self.value(h).squeeze(-1), self.kind(h)


def multi_task() -> Subject:
    """Half the squared error and the cross-entropy, each over its variance."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        x = torch.randn(24, 8, generator=generator)
        return {"x": x, "value": 2 * x[:, 0] - x[:, 1], "kind": x[:, 2:6].argmax(1)}

    def loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
        value, kind = model(batch["x"])
        precision = torch.exp(-model.log_vars)
        regression = 0.5 * precision[0] * F.mse_loss(value, batch["value"]) + 0.5 * model.log_vars[0]
        return regression + precision[1] * F.cross_entropy(kind, batch["kind"]) + 0.5 * model.log_vars[1]

    return Subject(name="uncertainty weights", model=MultiTask, batch=batch, loss=loss, causal=False)


# ---------------------------------------------------------------------------------------------------------- many labels
def tags(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rare tags, several at once."""
    x = torch.randn(32, 10, generator=generator)
    return x, (x[:, :6] > 0.8).float()


def multi_label(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Rare positives count four times."""
    x, y = batch
    return nn.BCEWithLogitsLoss(pos_weight=torch.full((6,), 4.0))(model(x), y)


def focal(model: nn.Module, batch: tuple[Tensor, Tensor], alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Lin et al. 2017: easy ones count little; divided by the number of positives."""
    x, y = batch
    logits = model(x)
    ce = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    p = torch.sigmoid(logits)
    p_t = p * y + (1 - p) * (1 - y)
    alpha_t = alpha * y + (1 - alpha) * (1 - y)
    return (alpha_t * (1 - p_t) ** gamma * ce).sum() / y.sum().clamp(min=1.0)


class RetinaHead(nn.Module):
    """The last bias says that positives are rare."""

    def __init__(self, prior: float = 0.01) -> None:
        super().__init__()
        self.hidden, self.logits = nn.Linear(10, 32), nn.Linear(32, 6)
        nn.init.normal_(self.logits.weight, std=0.01)
        nn.init.constant_(self.logits.bias, -torch.logit(torch.tensor(1 - prior)).item())

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6)."""
        return self.logits(F.relu(self.hidden(x)))


# -------------------------------------------------------------------------------------------------------------- classes
def imbalanced(generator: torch.Generator) -> dict[str, Tensor]:
    """Class 0 is most of it."""
    y = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), 32, replacement=True, generator=generator)
    return {"features": torch.eye(3, 10)[y] * 2 + torch.randn(32, 10, generator=generator), "target": y}


def class_weighted(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Torch divides by the sum of the weights."""
    return F.cross_entropy(model(batch["features"]), batch["target"], weight=torch.tensor([0.5, 1.5, 3.0]))


def smoothed_by_hand(model: nn.Module, batch: dict[str, Tensor], smoothing: float = 0.1) -> Tensor:
    """As timm writes it."""
    logprobs = F.log_softmax(model(batch["features"]), dim=-1)
    nll = -logprobs.gather(dim=-1, index=batch["target"].unsqueeze(1)).squeeze(1)
    return ((1 - smoothing) * nll - smoothing * logprobs.mean(dim=-1)).mean()


def margin(model: Any, batch: dict[str, Tensor], scale: float = 10.0, angle: float = 0.3) -> Tensor:
    """ArcFace: the right class is turned away by an angle."""
    cosine = model(batch["features"]).clamp(-1 + 1e-6, 1 - 1e-6)
    right = F.one_hot(batch["target"], cosine.shape[1]).bool()
    return F.cross_entropy(scale * torch.where(right, torch.cos(torch.acos(cosine) + angle), cosine), batch["target"])


class CosineHead(nn.Module):
    """Cosines between features and classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes = Trunk(10, 24, 16), nn.Parameter(torch.empty(3, 16))
        nn.init.xavier_uniform_(self.classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3)."""
        return F.linear(F.normalize(self.body(x)), F.normalize(self.classes))


# --------------------------------------------------------------------------------------------------------- distillation
class Student(nn.Module):
    """A small model that also holds its frozen, larger teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = Trunk(10, 12, 5), Trunk(10, 64, 5)
        self.teacher.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Student":
        """The teacher's statistics stay."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of both."""
        with torch.no_grad():
            aim = self.teacher(x)
        return self.student(x), aim


def distillation(model: nn.Module, batch: tuple[Tensor, Tensor], temperature: float = 2.0) -> Tensor:
    """Hinton et al. 2015: soft targets, scaled by the temperature's square, and hard ones."""
    x, y = batch
    logits, aim = model(x)
    soft = F.kl_div(
        F.log_softmax(logits / temperature, -1), F.log_softmax(aim / temperature, -1), reduction="batchmean",
        log_target=True,
    )  # fmt: skip
    return 0.7 * temperature**2 * soft + 0.3 * F.cross_entropy(logits, y)


# ------------------------------------------------------------------------------------------------------ weighted tokens
class TinyLM(nn.Module):
    """Causal convolutions over tokens; a second head looks two ahead."""

    def __init__(self, vocab: int = 44, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.conv1, self.conv2 = nn.Conv1d(width, width, 3), nn.Conv1d(width, width, 3, dilation=2)
        self.norm = nn.LayerNorm(width)
        self.head, self.head2 = nn.Linear(width, vocab), nn.Linear(width, vocab)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the next and of the one after it, (B, T, V) each."""
        x = self.embed(tokens).transpose(1, 2)
        x = x + F.gelu(self.conv1(F.pad(x, (2, 0))))
        x = x + F.gelu(self.conv2(F.pad(x, (4, 0))))
        h = self.norm(x.transpose(1, 2))
        return self.head(h), self.head2(h)


def weighted_rows(generator: torch.Generator) -> dict[str, Tensor]:
    """A prompt has no weight, an answer has one, some of it less; each row's weights sum to at most its length."""
    tokens = torch.randint(44, (5, 20), generator=generator)
    weights = torch.rand(5, 20, generator=generator).clamp(min=0.2)
    prompt = torch.randint(3, 9, (5, 1), generator=generator)
    weights = torch.where(torch.arange(20) < prompt, 0.0, weights)
    return {"tokens": tokens, "weights": weights}


def token_weighted(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Divided by the weights' sum."""
    logits, _ = model(batch["tokens"][:, :-1])
    each = F.cross_entropy(logits.transpose(1, 2), batch["tokens"][:, 1:], reduction="none")
    weights = batch["weights"][:, 1:]
    return (each * weights).sum() / weights.sum()


def weighted_step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
    """All micro-batches are divided by the weights of all of them."""
    optimizer.zero_grad()
    total = sum(batch["weights"][:, 1:].sum() for batch in batches)
    logged = 0.0
    for batch in batches:
        loss = token_weighted(model, batch) * batch["weights"][:, 1:].sum() / total
        loss.backward()
        logged += loss.item()
    optimizer.step()
    return {"loss": logged}


def token_weights() -> Subject:
    """The second head is for later; it does not learn here."""
    return Subject(
        name="token weights", model=TinyLM, batch=weighted_rows, loss=token_weighted, train_step=weighted_step,
        logits=lambda model, batch: model(batch["tokens"])[0],
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01),
    )  # fmt: skip


def two_ahead(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """An auxiliary head with a weight of 0.3."""
    tokens = batch["tokens"]
    near, far = model(tokens)
    next_loss = F.cross_entropy(near[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    return next_loss + 0.3 * F.cross_entropy(far[:, :-2].flatten(0, 1), tokens[:, 2:].flatten())


def auxiliary_head() -> Subject:
    """Multi-token prediction."""
    return Subject(
        name="auxiliary head", model=TinyLM, loss=two_ahead, logits=lambda model, batch: model(batch["tokens"])[0],
        batch=lambda generator: {"tokens": torch.randint(44, (5, 20), generator=generator)},
    )  # fmt: skip


def by_class(name: str, loss: Any, model: Any = None) -> Subject:
    """Three classes of unequal size."""
    return Subject(name=name, model=model or (lambda: Trunk(10, 24, 3)), batch=imbalanced, loss=loss, causal=False)


def taught(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Five classes."""
    x = torch.randn(24, 10, generator=generator)
    return x, x[:, :5].argmax(1)


SUBJECTS = {
    "uncertainty weights": multi_task,
    "multi-label": lambda: Subject(
        name="multi-label", model=lambda: Trunk(10, 32, 6), batch=tags, loss=multi_label, causal=False
    ),
    "focal": lambda: Subject(name="focal", model=RetinaHead, batch=tags, loss=focal, causal=False),
    "class weights": lambda: by_class("class weights", class_weighted),
    "smoothed by hand": lambda: by_class("smoothed by hand", smoothed_by_hand),
    "angular margin": lambda: by_class("angular margin", margin, CosineHead),
    "distillation": lambda: Subject(
        name="distillation", model=Student, batch=taught, loss=distillation, causal=False,
        optimizer=lambda model: torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3),
    ),
    "token weights": token_weights,
    "auxiliary head": auxiliary_head,
}  # fmt: skip
