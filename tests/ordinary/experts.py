"""Mixtures of experts: one or two of many, shared ones, and four ways to keep the load even."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from andon.verify import Subject

SOURCE = "written for this corpus"
VOCAB, DIM, LENGTH = 47, 24, 16


class Expert(nn.Module):
    """A gated MLP."""

    def __init__(self, inner: int = 32) -> None:
        super().__init__()
        self.w1, self.w3 = nn.Linear(DIM, inner, bias=False), nn.Linear(DIM, inner, bias=False)
        self.w2 = nn.Linear(inner, DIM, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return self.w2(fn.silu(self.w1(x)) * self.w3(x))


@dataclass
class Output:
    """What the model returns."""

    logits: Tensor
    aux_loss: Tensor


class SparseLM(nn.Module):
    """A causal decoder whose MLPs are mixtures. A mixture returns its output and its part of the loss."""

    def __init__(self, mixture: Any, layers: int = 2) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(VOCAB, DIM), nn.Embedding(LENGTH, DIM)
        self.attentions = nn.ModuleList(nn.MultiheadAttention(DIM, 4, batch_first=True) for _ in range(layers))
        self.mixtures = nn.ModuleList(mixture() for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(DIM) for _ in range(2 * layers + 1))
        self.head = nn.Linear(DIM, VOCAB, bias=False)

    def forward(self, ids: Tensor) -> Output:
        """Logits (B, T, V) and the routers' part of the loss."""
        x = self.embed(ids) + self.position.weight[: ids.shape[1]]
        ahead = nn.Transformer.generate_square_subsequent_mask(ids.shape[1], device=x.device)
        aux = x.new_zeros(())
        for i, (attention, mixture) in enumerate(zip(self.attentions, self.mixtures, strict=True)):
            h = self.norms[2 * i](x)
            x = x + attention(h, h, h, attn_mask=ahead, need_weights=False, is_causal=True)[0]
            mixed, part = mixture(self.norms[2 * i + 1](x))
            x, aux = x + mixed, aux + part
        return Output(self.head(self.norms[-1](x)), aux)


def rows(generator: torch.Generator) -> dict[str, Tensor]:
    """Tokens, and what follows."""
    ids = torch.randint(VOCAB, (6, LENGTH + 1), generator=generator)
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}


def predicted(output: Output, labels: Tensor) -> Tensor:
    """Cross-entropy."""
    return fn.cross_entropy(output.logits.flatten(0, 1), labels.flatten())


def mixture_subject(name: str, mixture: Any, weight: float = 0.0, **parts: Any) -> Subject:
    """A language model with this mixture, whose part of the loss has this weight."""

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        output = model(batch["input_ids"])
        return predicted(output, batch["labels"]) + weight * output.aux_loss

    return Subject(
        name=name,
        model=lambda: SparseLM(mixture),
        batch=rows,
        loss=loss,
        logits=lambda model, batch: model(batch["input_ids"]).logits,
        mixture_of_experts=True,
        **parts,
    )


# ---------------------------------------------------------------------------- one expert, with a capacity (Switch)
class Switch(nn.Module):
    """Each token goes to one expert; what exceeds an expert's capacity passes by on the residual stream."""

    def __init__(self, experts: int = 4, capacity_factor: float = 1.25) -> None:
        super().__init__()
        self.router = nn.Linear(DIM, experts, bias=False)
        self.experts = nn.ModuleList(Expert() for _ in range(experts))
        self.capacity_factor = capacity_factor
        nn.init.trunc_normal_(self.router.weight, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Output, and experts * sum(share of tokens * mean probability)."""
        tokens = x.reshape(-1, x.shape[-1])
        probabilities = self.router(tokens).softmax(-1)
        gate, chosen = probabilities.max(-1)
        count = len(self.experts)
        capacity = int(self.capacity_factor * len(tokens) / count)
        out = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            mine = (chosen == number).nonzero().squeeze(-1)[:capacity]
            out[mine] = gate[mine, None] * expert(tokens[mine])
        share = fn.one_hot(chosen, count).float().mean(0)
        return out.view_as(x), count * (share * probabilities.mean(0)).sum()


# ------------------------------------------------------------------------------------------- two experts (Mixtral)
class TopTwo(nn.Module):
    """The two best, their weights a softmax over the two."""

    def __init__(self, experts: int = 4) -> None:
        super().__init__()
        self.gate = nn.Linear(DIM, experts, bias=False)
        self.experts = nn.ModuleList(Expert() for _ in range(experts))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Output, and the load-balancing loss; the router computes in single precision."""
        flat = hidden.flatten(0, 1)
        logits = self.gate(flat).float()
        top, chosen = logits.topk(2, dim=-1)
        weights = top.softmax(-1).to(flat.dtype)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            token, rank = (chosen == number).nonzero(as_tuple=True)
            out.index_add_(0, token, expert(flat[token]) * weights[token, rank, None])
        taken = fn.one_hot(chosen, logits.shape[-1]).sum(1).float().mean(0)
        return out.view_as(hidden), logits.shape[-1] * (taken * logits.softmax(-1).mean(0)).sum()


# ------------------------------------------ a shared expert, and a bias that evens the load outside the gradient
class BiasBalanced(nn.Module):
    """Sigmoid scores; a bias joins them for choosing alone, and moves against each expert's load (DeepSeek-V3)."""

    bias: Tensor
    load: Tensor

    def __init__(self, experts: int = 6, chosen: int = 2, scale: float = 1.5) -> None:
        super().__init__()
        self.chosen, self.scale = chosen, scale
        self.centroids = nn.Parameter(torch.empty(experts, DIM))
        nn.init.kaiming_uniform_(self.centroids, a=5**0.5)
        self.experts = nn.ModuleList(Expert(16) for _ in range(experts))
        self.shared = Expert(16)
        self.register_buffer("bias", torch.zeros(experts))
        self.register_buffer("load", torch.zeros(experts), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Output; there is no part of the loss."""
        flat = x.flatten(0, 1)
        scores = fn.linear(flat, self.centroids).sigmoid()
        index = (scores + self.bias).topk(self.chosen, dim=-1).indices
        weights = scores.gather(-1, index)
        weights = self.scale * weights / weights.sum(-1, keepdim=True)
        if self.training:
            with torch.no_grad():
                self.load += torch.bincount(index.flatten(), minlength=len(self.experts))
        out = self.shared(flat)
        for number, expert in enumerate(self.experts):
            token, rank = torch.where(index == number)
            out = out.index_add(0, token, expert(flat[token]) * weights[token, rank].unsqueeze(-1))
        return out.view_as(x), x.new_zeros(())

    @torch.no_grad()
    def balance(self, speed: float = 1e-3) -> None:
        """After an update: a little more for experts below the mean load, a little less for those above."""
        self.bias += speed * torch.sign(self.load.mean() - self.load)
        self.load.zero_()


def balanced_step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
    """The update, and then the biases'."""
    optimizer.zero_grad()
    total = 0.0
    for batch in batches:
        loss = predicted(model(batch["input_ids"]), batch["labels"]) / len(batches)
        loss.backward()
        total += loss.item()
    optimizer.step()
    for module in model.modules():
        if isinstance(module, BiasBalanced):
            module.balance()
    return {"loss": total}


# ------------------------------------------------------------------- a loss that backward adds, and forward does not
class AddLoss(torch.autograd.Function):
    """Hands its first argument on; backward also gives the second, a loss, the gradient one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        """`x`, as it is."""
        ctx.like = torch.ones_like(loss)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient, and one."""
        return grads[0], ctx.like


class InjectedBalance(nn.Module):
    """As in DeepSeek-V2's code: the balancing loss of each sequence rides on the weights of the experts."""

    def __init__(self, experts: int = 4, alpha: float = 1e-2) -> None:
        super().__init__()
        self.alpha = alpha
        self.gate = nn.Linear(DIM, experts, bias=False)
        self.experts = nn.ModuleList(Expert() for _ in range(experts))
        self.shared_expert = Expert()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Output; the loss is in the graph already."""
        scores = self.gate(x).softmax(-1)
        weights, index = scores.topk(2, dim=-1, sorted=False)
        if self.training:
            count = scores.shape[-1]
            load = fn.one_hot(index, count).sum(2).float().mean(1) * count / 2
            weights = AddLoss.apply(weights, self.alpha * (load * scores.mean(1)).sum(-1).mean())
        out = self.shared_expert(x)
        for number, expert in enumerate(self.experts):
            share = (weights * (index == number)).sum(-1, keepdim=True)
            out = out + share * expert(x)  # so few tokens that all experts read all of them
        return out, x.new_zeros(())


# ---------------------------------------------------------------------------------------- soft choice and the z-loss
class NoisyTopK(nn.Module):
    """Shazeer et al. 2017: noise in training spreads the choice; experts as one stack of matrices, and a z-loss."""

    def __init__(self, experts: int = 5, k: int = 2) -> None:
        super().__init__()
        self.k = k
        self.w_gate = nn.Parameter(torch.randn(DIM, experts) * 0.02)
        self.w_noise = nn.Parameter(torch.zeros(DIM, experts))
        self.w_in = nn.Parameter(torch.randn(experts, DIM, 32) * DIM**-0.5)
        self.w_out = nn.Parameter(torch.randn(experts, 32, DIM) * 32**-0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Output, and the squares of the importance's variation and of the router's normalizers."""
        clean = x @ self.w_gate
        logits = clean
        if self.training:
            logits = clean + torch.randn_like(clean) * (fn.softplus(x @ self.w_noise) + 1e-2)
        kept, index = logits.topk(self.k, -1)
        gates = torch.zeros_like(logits).scatter(-1, index, kept.softmax(-1))
        hidden = torch.einsum("btd,edf->btef", x, self.w_in).relu()
        out = torch.einsum("btef,efd,bte->btd", hidden, self.w_out, gates)
        importance = gates.sum((0, 1))
        variation = importance.var() / (importance.mean() ** 2 + 1e-10)
        return out, variation + 0.1 * clean.logsumexp(-1).square().mean()


SUBJECTS = {
    "switch": lambda: mixture_subject("switch", Switch, 0.01),
    "top two": lambda: mixture_subject("top two", TopTwo, 0.02),
    "bias balanced": lambda: mixture_subject(
        "bias balanced", BiasBalanced, train_step=balanced_step,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1),
    ),
    "injected balance": lambda: mixture_subject("injected balance", InjectedBalance),
    "noisy top-k": lambda: mixture_subject("noisy top-k", NoisyTopK, 0.01),
}  # fmt: skip
