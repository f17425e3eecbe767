"""Slopes: kinks, routing, injected and stopped gradients, state that moves, losses that differentiate themselves."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Subject
from tests.verify.kinds.asked import VOCAB, Pair, Smooth, TornGelu, accusations, language, named, words

pytestmark = pytest.mark.long
SLOPES = {"gradients.parameters", "gradients.inputs"}


class Encoder(nn.Module):
    """Torch's own layers under a causal mask."""

    def __init__(self, *, norm_first: bool) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCAB, 24), nn.Parameter(torch.randn(16, 24) * 0.02)
        layer = nn.TransformerEncoderLayer(24, 3, 40, dropout=0.0, batch_first=True, norm_first=norm_first)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(24, VOCAB)

    def forward(self, ids: Tensor) -> Tensor:
        """As the class says."""
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        return self.head(self.layers(self.words(ids) + self.places[: ids.shape[1]], mask=mask, is_causal=True))


class SquaredRelu(nn.Module):
    """Zero below zero, with a slope that is continuous."""

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        return x.relu().square()


def pictures(generator: torch.Generator) -> Pair:
    """Eight of three classes."""
    return torch.randn(8, 2, 10, 10, generator=generator), torch.randint(3, (8,), generator=generator)


def classes(model: nn.Module, batch: Pair) -> Tensor:
    """Mean cross-entropy of the classes."""
    return F.cross_entropy(model(batch[0]), batch[1])


def pooled(activation: type[nn.Module]) -> nn.Module:
    """Two convolutions with a maximum over windows."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3),
        activation(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3),
        activation(),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


def seen(model: Any, loss: Any = classes, batch: Any = pictures, **parts: Any) -> Subject:
    """A subject on what is no row of words."""
    return Subject(model=model, batch=batch, loss=loss, causal=False, **parts)


@pytest.mark.parametrize("norm_first", [True, False])
def test_kinks_of_torch_s_own_layers_are_no_wrong_gradient(norm_first: bool) -> None:
    """Behavior: an encoder layer with its default ReLU, norms first or last, is not accused."""
    assert [] == accusations(language(lambda: Encoder(norm_first=norm_first)))


def test_kinks_of_squares_and_maxima_are_no_wrong_gradient() -> None:
    """Behavior: squared ReLU between linear layers, and ReLU and max-pooling after convolutions, are not accused."""
    squared = lambda: words(nn.Linear(20, 50), SquaredRelu(), nn.Linear(50, 20), Smooth())  # noqa: E731
    assert [] == accusations(language(squared))
    assert [] == accusations(seen(lambda: pooled(nn.ReLU)))


def test_a_wrong_slope_beside_kinks_is_found() -> None:
    """Behavior: a backward pass that lacks a term is red where maxima and ReLUs stand around it."""
    assert named(seen(lambda: pooled(TornGelu)), "gradients") & SLOPES


class Sorted(nn.Module):
    """A mixture that sends each token to its best expert, weighed by the router; balancing may be injected."""

    def __init__(self, experts: int, weigh: str = "softmax", balance: str = "none") -> None:
        super().__init__()
        self.gate, self.weigh, self.balance = nn.Linear(20, experts), weigh, balance
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(20, 28), nn.Tanh(), nn.Linear(28, 20)) for _ in range(experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        share = self.gate(x).softmax(-1)
        weight, best = share.max(-1)
        if self.weigh == "detached":
            weight = weight.detach()
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = best == number
            out[rows] = weight[rows].unsqueeze(-1) * expert(x[rows])
        load = F.one_hot(best, share.shape[-1]).float().mean((0, 1))
        extra = 0.05 * share.shape[-1] * (load * share.mean((0, 1))).sum()
        injected = Injected.apply(out, extra) if self.balance != "none" else out
        return x + (out if self.balance == "dropped" else injected)


class Injected(torch.autograd.Function):
    """Passes its first argument on, and gives the second a gradient of 1, as if it were added to the loss."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, extra: Tensor) -> Tensor:
        """As the class says."""
        ctx.like = extra
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient that it gives."""
        return grads[0], torch.ones_like(ctx.like)


def mixture(experts: int, **options: str) -> Subject:
    """Two mixtures between an embedding and a head."""
    made = lambda: words(Smooth(), Sorted(experts, **options), Sorted(experts, **options))  # noqa: E731
    return language(made, mixture_of_experts=True)


@pytest.mark.parametrize("experts", [3, 5, 9])
def test_a_token_that_moves_to_another_expert_is_no_wrong_gradient(experts: int) -> None:
    """Behavior: a correct mixture is not accused, wherever its tokens stand between experts."""
    assert [] == accusations(mixture(experts))


def test_a_router_without_a_gradient_is_found() -> None:
    """Behavior: a router whose weights are detached from the graph is named."""
    assert named(mixture(4, weigh="detached"), "structure", "gradients", "updates")


def test_a_balancing_loss_that_is_injected_is_no_wrong_gradient() -> None:
    """Behavior: a gradient that an autograd function adds to the router's is not accused."""
    assert [] == accusations(mixture(4, balance="injected"))


def test_a_balancing_loss_that_is_injected_and_dropped_is_found() -> None:
    """Behavior: where the function's result is not used, no balancing reaches the router, and a check says so."""
    assert named(mixture(4, balance="dropped"))


def moving(activation: type[nn.Module] = nn.SiLU) -> nn.Module:
    """Spectral norms and batch norms, whose state moves in train mode."""
    spectral = nn.utils.parametrizations.spectral_norm
    return nn.Sequential(
        spectral(nn.Conv2d(2, 5, 3)), nn.BatchNorm2d(5), activation(), nn.Flatten(),
        spectral(nn.Linear(320, 12)), activation(),
        nn.Linear(12, 3),
    )  # fmt: skip


def test_state_that_moves_in_train_mode_is_no_fault() -> None:
    """Behavior: power iterations and running statistics, which each pass moves, are not accused."""
    assert [] == accusations(seen(moving, optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.05)))


def test_a_wrong_slope_beside_state_that_moves_is_found() -> None:
    """Behavior: a backward pass that lacks a term is red between batch norms and spectral norms."""
    assert named(seen(lambda: moving(TornGelu)), "gradients") & SLOPES


class Variational(nn.Module):
    """Pixels to a normal distribution and back."""

    def __init__(self, activation: type[nn.Module] = nn.Softplus) -> None:
        super().__init__()
        self.into = nn.Sequential(nn.Linear(12, 16), activation())
        self.mean, self.spread = nn.Linear(16, 4), nn.Linear(16, 4)
        self.back = nn.Sequential(nn.Linear(4, 16), activation(), nn.Linear(16, 12), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As the class says."""
        hidden = self.into(x)
        mean, spread = self.mean(hidden), self.spread(hidden)
        drawn = mean + torch.randn_like(mean) * (spread / 2).exp() if self.training else mean
        return self.back(drawn), mean, spread


def evidence(model: nn.Module, batch: Tensor) -> Tensor:
    """Reconstruction, which takes pixels between 0 and 1 alone, and divergence."""
    shown, mean, spread = model(batch)
    divergence = 0.5 * (mean.square() + spread.exp() - 1 - spread).sum(-1).mean()
    return F.binary_cross_entropy(shown, batch, reduction="none").sum(-1).mean() + divergence


def pixels(generator: torch.Generator) -> Tensor:
    """Most at the ends of their range."""
    return torch.rand(10, 12, generator=generator).mul(3).sub(1).clamp(0, 1)


def test_a_loss_that_refuses_moved_inputs_is_no_fault() -> None:
    """Behavior: where pixels outside of [0, 1] are an error of the loss's, the subject is not accused of it."""
    assert [] == accusations(seen(Variational, evidence, pixels))


def test_a_wrong_slope_under_a_loss_that_refuses_moved_inputs_is_found() -> None:
    """Behavior: the parameters' gradients are asked all the same."""
    assert named(seen(lambda: Variational(TornGelu), evidence, pixels), "gradients") & SLOPES


class ActorCritic(nn.Module):
    """A policy over three actions and a value, on one body."""

    def __init__(self, activation: type[nn.Module] = nn.Tanh) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 18), activation())
        self.policy, self.value = nn.Linear(18, 3), nn.Linear(18, 1)

    def forward(self, x: Tensor) -> Pair:
        """As the class says."""
        hidden = self.body(x)
        return self.policy(hidden), self.value(hidden).squeeze(-1)


def played(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """States, actions, returns."""
    returns = torch.randn(12, generator=generator)
    return torch.randn(12, 6, generator=generator), torch.randint(3, (12,), generator=generator), returns


def advantage_loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The advantage is held while the policy learns; an entropy bonus keeps it open."""
    states, actions, returns = batch
    logits, value = model(states)
    policy = torch.distributions.Categorical(logits=logits)
    gained = policy.log_prob(actions) * (returns - value).detach()
    return F.mse_loss(value, returns) - gained.mean() - 0.01 * policy.entropy().mean()


class Reversed(torch.autograd.Function):
    """The identity, whose gradient is turned around on purpose: domain-adversarial training."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004 - torch's own signature
        """As the class says."""
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004 - torch's own signature
        """The gradient that it gives."""
        return -0.3 * grads[0]


class Adversarial(nn.Module):
    """Features that tell classes and must not tell domains."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(6, 14), nn.Tanh())
        self.classes, self.domain = nn.Linear(14, 3), nn.Linear(14, 2)

    def forward(self, x: Tensor) -> Pair:
        """As the class says."""
        hidden = self.features(x)
        return self.classes(hidden), self.domain(Reversed.apply(hidden))


def adversarial_loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Of both heads."""
    classes, domain = model(batch[0])
    return F.cross_entropy(classes, batch[1]) + F.cross_entropy(domain, (batch[2] > 0).long())


class Padded(nn.Module):
    """The mean of a row's words, padding apart, whose vector is zero and stays so."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(30, 10, padding_idx=0), nn.Linear(10, 3)

    def forward(self, ids: Tensor) -> Tensor:
        """As the class says."""
        return self.head(self.words(ids).sum(1) / (ids != 0).sum(1, keepdim=True))


def rows_with_padding(generator: torch.Generator) -> Pair:
    """Of two to six words."""
    ids = torch.randint(1, 30, (9, 6), generator=generator)
    lengths = torch.randint(2, 7, (9, 1), generator=generator)
    return ids.masked_fill(torch.arange(6) >= lengths, 0), torch.randint(3, (9,), generator=generator)


@pytest.mark.parametrize(
    "subject",
    [
        pytest.param(lambda: seen(ActorCritic, advantage_loss, played), id="advantage"),
        pytest.param(lambda: seen(Adversarial, adversarial_loss, played), id="reversal"),
        pytest.param(lambda: seen(Padded, classes, rows_with_padding), id="padding"),
    ],
)
def test_what_is_held_on_purpose_is_no_wrong_gradient(subject: Any) -> None:
    """Behavior: detached advantages, a reversed gradient and the vector of padding are not accused."""
    assert [] == accusations(subject())


def test_a_wrong_slope_beside_what_is_held_is_found() -> None:
    """Behavior: under a detached advantage, a backward pass that lacks a term is red."""
    assert named(seen(lambda: ActorCritic(TornGelu), advantage_loss, played), "gradients") & SLOPES


def critic() -> nn.Module:
    """Points to a number."""
    return nn.Sequential(nn.Linear(3, 14), nn.SiLU(), nn.Linear(14, 1))


def penalized(model: nn.Module, batch: Pair, *, graph: bool = True) -> Tensor:
    """A critic's difference, and a penalty on its slope at points between real ones and others."""
    real, other = batch
    between = torch.lerp(real, other, 0.4).requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(model(between).sum(), between, create_graph=graph)
    return model(other).mean() - model(real).mean() + 10 * (slope.norm(dim=1) - 1).square().mean()


def points(generator: torch.Generator) -> Pair:
    """Two clouds."""
    return torch.randn(11, 3, generator=generator), torch.randn(11, 3, generator=generator) + 1


class Late(nn.Module):
    """A layer that learns its width from its first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.LazyLinear(12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        return self.last(torch.tanh(self.first(x.flatten(1))))


def late() -> nn.Module:
    """After a dry run, as torch's documentation asks."""
    model = Late()
    model(torch.zeros(1, 2, 10, 10))
    return model


def closed_step(model: nn.Module, optimizer: Any, batches: list[Pair]) -> dict[str, float]:
    """A step of an optimizer that evaluates the loss as often as it likes."""

    def again() -> Tensor:
        optimizer.zero_grad()
        value = torch.stack([classes(model, batch) for batch in batches]).mean()
        value.backward()
        return value

    return {"loss": float(optimizer.step(again))}


def closed() -> Subject:
    """L-BFGS on a small classifier."""
    made = lambda: nn.Sequential(nn.Flatten(), nn.Linear(200, 6), nn.Tanh(), nn.Linear(6, 3))  # noqa: E731
    return seen(made, optimizer=lambda model: torch.optim.LBFGS(model.parameters(), lr=0.5), train_step=closed_step)


def sparse() -> Subject:
    """An embedding whose gradient holds the batch's rows alone."""
    made = lambda: nn.Sequential(nn.Embedding(VOCAB, 20, sparse=True), Smooth(), nn.Linear(20, VOCAB))  # noqa: E731
    return language(made)


@pytest.mark.parametrize(
    "subject",
    [
        pytest.param(lambda: seen(critic, penalized, points), id="penalty"),
        pytest.param(lambda: seen(late), id="lazy"),
        pytest.param(closed, id="closure"),
        pytest.param(sparse, id="sparse"),
    ],
)
def test_ordinary_torch_does_not_stop_the_checks(subject: Any) -> None:
    """Behavior: losses that differentiate themselves, lazy layers, closures and sparse gradients are not blamed."""
    assert [] == accusations(subject())


def test_a_penalty_outside_of_the_graph_is_found() -> None:
    """Behavior: a slope that is taken without a graph penalizes nothing, which the gradients show."""
    flat = lambda model, batch: penalized(model, batch, graph=False)  # noqa: E731
    assert named(seen(critic, flat, points), "gradients") & SLOPES
