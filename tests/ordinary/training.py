"""Optimizers, schedules and steps: Lion, Muon, SAM, Adafactor, averages, accumulation by tokens, bfloat16."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from andon.verify import Subject

SOURCE = "written for this corpus"
VOCAB, WIDTH, EOS, PAD = 53, 32, 1, 0


class Block(nn.Module):
    """Pre-norm, no biases."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(3 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        h = self.norm1(x)
        q, k, v = (f(h).unflatten(-1, (4, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class LM(nn.Module):
    """A decoder with learned positions."""

    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(VOCAB, WIDTH), nn.Embedding(32, WIDTH)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.position.weight, std=0.02)
        self.blocks = nn.Sequential(*(Block() for _ in range(depth)))
        self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        x = self.embed(input_ids) + self.position.weight[: input_ids.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def collate(documents: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Padded on the right; labels are one ahead, and -100 where there is none."""
    longest = max(map(len, documents)) - 1
    ids, labels = torch.full((len(documents), longest), PAD), torch.full((len(documents), longest), -100)
    for row, document in enumerate(documents):
        text = torch.as_tensor(document)
        ids[row, : len(text) - 1], labels[row, : len(text) - 1] = text[:-1], text[1:]
    return {"input_ids": ids, "labels": labels}


def batch(generator: torch.Generator) -> dict[str, Tensor]:
    """Documents of several lengths, each with its end."""
    lengths = torch.randint(6, 24, (4,), generator=generator).tolist()
    return collate([[*torch.randint(2, VOCAB, (n,), generator=generator).tolist(), EOS] for n in lengths])


def loss_sum(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Summed over real tokens."""
    return cross_entropy(model(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten(), reduction="sum")


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Their mean."""
    return loss_sum(model, batch) / (batch["labels"] != -100).sum()


def accumulate(model: nn.Module, batches: list[Any]) -> float:
    """Gradients of the mean over the real tokens of all micro-batches together; returns that mean."""
    count, total = sum(int((each["labels"] != -100).sum()) for each in batches), 0.0
    for each in batches:
        part = loss_sum(model, each) / count
        part.backward()
        total += part.item()
    return total


def plain_step(model: nn.Module, optimizer: Optimizer, batches: list[Any]) -> dict[str, float]:
    """Clipped at 1."""
    optimizer.zero_grad(set_to_none=True)
    total = accumulate(model, batches)
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return {"loss": total, "grad_norm": norm.item(), "learning_rate": optimizer.param_groups[0]["lr"]}


@torch.no_grad()
def validate(model: nn.Module, batches: list[Any]) -> float:
    """Over the real tokens of all batches."""
    was, count = model.training, sum(int((each["labels"] != -100).sum()) for each in batches)
    model.eval()
    total = sum(loss_sum(model, each).item() for each in batches)
    model.train(was)
    return total / count


def language_model(name: str, **parts: Any) -> Subject:
    """The same model, trained in another way."""
    given: dict[str, Any] = {
        "model": LM, "loss": loss, "train_step": plain_step, "logits": lambda model, batch: model(batch["input_ids"]),
    }  # fmt: skip
    return Subject(name=name, batch=batch, collate_padded=collate, pad_id=PAD, eos_id=EOS, **given | parts)


# ----------------------------------------------------------------------------------------------- decay of matrices only
def grouped_adamw(model: nn.Module) -> Optimizer:
    """Embeddings and norms are not decayed."""
    groups: dict[str, list[nn.Parameter]] = {"embedding": [], "norm": [], "matrix": []}
    for name, parameter in model.named_parameters():
        kind = "norm" if parameter.ndim < 2 else "embedding" if "embed" in name or "position" in name else "matrix"
        groups[kind].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups["matrix"], "weight_decay": 0.1},
            {"params": groups["embedding"], "weight_decay": 0.0},
            {"params": groups["norm"], "weight_decay": 0.0},
        ],
        lr=2e-3, betas=(0.9, 0.95),
    )  # fmt: skip


def warmup_cosine(step: int, peak: float = 2e-3, warmup: int = 10, steps: int = 100, least: float = 0.1) -> float:
    """Linear up, half a cosine down."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / (steps - warmup))
    return peak * (least + (1 - least) * 0.5 * (1 + math.cos(math.pi * progress)))


# ----------------------------------------------------------------------------------------------------------------- Lion
class Lion(Optimizer):
    """Chen et al. 2023: the sign of an interpolation."""

    def __init__(self, params: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), decay: float = 0.0):  # noqa: ANN204
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["exp_avg"] = torch.zeros_like(p)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(torch.lerp(p.grad, state["exp_avg"], beta1).sign_(), alpha=-group["lr"])
                state["exp_avg"].lerp_(p.grad, 1 - beta2)
        return result


# ----------------------------------------------------------------------------------------------------------------- Muon
def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """Newton and Schulz's iteration with Jordan's coefficients."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    if matrix.shape[0] > matrix.shape[1]:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class MuonWithAdam(Optimizer):
    """Hidden matrices by Muon, all else by Adam: `muon` in a group says which."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"momentum": 0.95, "betas": (0.9, 0.95), "eps": 1e-10, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.mul_(1 - group["lr"] * group["weight_decay"])
                update = self.muon if group["muon"] else self.adam
                p.add_(update(p, p.grad, group), alpha=-group["lr"])
        return result

    def muon(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> Tensor:
        """Nesterov's momentum, orthogonalized."""
        state = self.state[p]
        buffer = state.setdefault("momentum_buffer", torch.zeros_like(p))
        buffer.lerp_(grad, 1 - group["momentum"])
        update = orthogonalize(torch.lerp(grad, buffer, group["momentum"]))
        return update * max(1, p.shape[0] / p.shape[1]) ** 0.5

    def adam(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> Tensor:
        """With corrected bias."""
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        state["step"] += 1
        state["exp_avg"].lerp_(grad, 1 - beta1)
        state["exp_avg_sq"].lerp_(grad.square(), 1 - beta2)
        mean = state["exp_avg"] / (1 - beta1 ** state["step"])
        return mean / ((state["exp_avg_sq"] / (1 - beta2 ** state["step"])).sqrt() + group["eps"])


def muon(model: Any) -> Optimizer:
    """The blocks' matrices, and the rest."""
    hidden = [p for p in model.blocks.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if not any(p is other for other in hidden)]
    return MuonWithAdam(
        [
            {"params": hidden, "muon": True, "lr": 0.02, "weight_decay": 0.01},
            {"params": rest, "muon": False, "lr": 3e-3},
        ]
    )


# ------------------------------------------------------------------------------------------------------------------ SAM
def sharpness_aware_step(model: nn.Module, optimizer: Optimizer, batches: list[Any], rho: float = 0.05) -> Any:
    """Foret et al. 2021: the gradient is taken uphill, and applied where one was."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer.zero_grad()
    total = accumulate(model, batches)
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        for p in parameters:
            if p.grad is not None:
                p.add_(p.grad * (rho / (norm + 1e-12)))
    optimizer.zero_grad()
    accumulate(model, batches)
    with torch.no_grad():
        for p, old in zip(parameters, before, strict=True):
            p.copy_(old)
    optimizer.step()
    return {"loss": total}


# ------------------------------------------------------------------------------------------------------------- averages
class Averaged(nn.Module):
    """A model and its exponential average, which is what is evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.online = LM()
        self.average = copy.deepcopy(self.online).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        return (self.online if self.training else self.average)(input_ids)


def averaged_step(model: Any, optimizer: Optimizer, batches: list[Any]) -> dict[str, float]:
    """The average is warmed up."""
    logged = plain_step(model, optimizer, batches)
    model.updates += 1
    decay = min(0.99, (1 + model.updates.item()) / (10 + model.updates.item()))
    with torch.no_grad():
        for slow, fast in zip(model.average.parameters(), model.online.parameters(), strict=True):
            slow.sub_((1 - decay) * (slow - fast))
    return logged


class StochasticAverage(nn.Module):
    """Torch's averaged copy beside the model."""

    def __init__(self) -> None:
        super().__init__()
        self.model = LM(depth=1)
        self.swa_model = torch.optim.swa_utils.AveragedModel(self.model).requires_grad_(False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits of what learns."""
        return self.model(input_ids)


def swa_step(model: Any, optimizer: Optimizer, batches: list[Any]) -> dict[str, float]:
    """Each update is averaged with equal weight."""
    logged = plain_step(model, optimizer, batches)
    model.swa_model.update_parameters(model.model)
    return logged


# ------------------------------------------------------------------------------------------------------ mixed precision
def mixed_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Matrices multiply in bfloat16; the loss is taken in single precision."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(batch["input_ids"])
    return cross_entropy(logits.float().flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)


def mixed_step(model: nn.Module, optimizer: Optimizer, batches: list[Any]) -> dict[str, float]:
    """Micro-batches in proportion to their real tokens."""
    optimizer.zero_grad(set_to_none=True)
    counts = torch.tensor([float((each["labels"] != -100).sum()) for each in batches])
    total = 0.0
    for each, share in zip(batches, (counts / counts.sum()).tolist(), strict=True):
        part = mixed_loss(model, each) * share
        part.backward()
        total += part.item()
    optimizer.step()
    return {"loss": total}


def learned(model: nn.Module) -> list[nn.Parameter]:
    """What has a gradient."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


SUBJECTS = {
    "adamw groups": lambda: language_model(
        "adamw groups", optimizer=grouped_adamw, lr_at=warmup_cosine, validate=validate,
        hyperparameters={
            "learning_rate": 2e-3, "weight_decay": 0.1, "grad_clip": 1.0, "warmup_steps": 10, "steps": 100,
            "min_ratio": 0.1,
        },
    ),
    "lion": lambda: language_model("lion", optimizer=lambda model: Lion(model.parameters(), lr=3e-4, decay=0.1)),
    "muon": lambda: language_model("muon", optimizer=muon, validate=validate),
    "sharpness aware": lambda: language_model(
        "sharpness aware", optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        train_step=sharpness_aware_step,
    ),
    "adafactor": lambda: language_model(
        "adafactor", optimizer=lambda model: torch.optim.Adafactor(model.parameters(), lr=0.01), validate=validate
    ),
    "averaged sgd": lambda: language_model(
        "averaged sgd", optimizer=lambda model: torch.optim.ASGD(model.parameters(), lr=0.5)
    ),
    "exponential average": lambda: language_model(
        "exponential average", model=Averaged, train_step=averaged_step, validate=validate,
        optimizer=lambda model: torch.optim.Adam(learned(model), lr=2e-3),
    ),
    "swa": lambda: language_model(
        "swa", model=StochasticAverage, train_step=swa_step,
        optimizer=lambda model: torch.optim.SGD(learned(model), lr=0.2, momentum=0.9),
        lr_scheduler=lambda optimizer: torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.1, anneal_epochs=20),
    ),
    "mixed precision": lambda: language_model(
        "mixed precision", loss=mixed_loss, train_step=mixed_step,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True),
    ),
}  # fmt: skip
