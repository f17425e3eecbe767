"""The gradient check: correct code passes at 1e-8 in float64, injected faults are found and named."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from andon.verify.checks.gradients import check_inputs, check_parameters
from andon.verify.errors import CheckFailed, NotApplicable, SubjectError
from andon.verify.gradients import compare as gradients
from andon.verify.gradients import power
from andon.verify.gradients.compare import RTOL, check_function_gradients, check_gradients
from andon.verify.gradients.power import _Tampered, attention, one_entry, product, sees, weaker_sees
from tests.verify.small import Small, batch, loss, small


def data(seed: int = 0) -> dict[str, Tensor]:
    """A batch."""
    return batch(torch.Generator().manual_seed(seed))


class Tampers(Small):
    """A model that multiplies one parameter's gradient, or that of its embeddings."""

    def __init__(self, tamper: Callable[[Tensor], Tensor], where: str = "mix.weight", dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.tamper, self.where = tamper, where

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        x_BTD = self.embed(tokens)
        if self.where == "embed":
            x_BTD = _Tampered.apply(x_BTD, self.tamper)
        parts = dict(self.mix.named_parameters())
        if self.where in ("mix.weight", "mix.bias"):
            name = self.where.partition(".")[2]
            parts[name] = _Tampered.apply(parts[name], self.tamper)
        counts_T1 = torch.arange(1, tokens.shape[1] + 1)[:, None]
        mixed_BTD = torch.tanh(nn.functional.linear(x_BTD.cumsum(1) / counts_T1, parts["weight"], parts["bias"]))
        if self.where == "mixed":
            mixed_BTD = _Tampered.apply(mixed_BTD, self.tamper)
        return self.head(self.drop(mixed_BTD) + x_BTD)


@pytest.mark.tier3
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_correct_gradients_agree_to_1e8_in_float64(seed: int, dropout: float) -> None:
    """Behavior: a correct model passes at 1e-8, in train mode with dropout too, whatever its weights."""
    torch.manual_seed(seed)
    found = check_gradients(loss, Small(dropout), data(seed), seed=seed)
    assert torch.float64 == found.dtype
    assert found.worst < RTOL
    assert found.tolerance < 4 * RTOL
    assert "" == found.note


@pytest.mark.tier3
@pytest.mark.parametrize("factor", [1 + 1e-5, 0.5, 2.0, -1.0, 0.0])
@pytest.mark.parametrize("where", ["mix.weight", "mix.bias"])
def test_a_wrong_scale_is_found_and_named(where: str, factor: float) -> None:
    """Behavior: one parameter's gradient times a constant is found, and the message says which one and how much."""
    with pytest.raises(CheckFailed, match=where) as failure:
        check_gradients(loss, Tampers(lambda g: g * factor, where), data())
    assert factor == 0 or f"{1 / factor:.6g}"[:5] in str(failure.value)
    assert "autograd says" in str(failure.value)


@pytest.mark.tier3
def test_one_wrong_entry_is_found_and_named() -> None:
    """Behavior: a single entry off by a thousandth is told by its index, with both values."""

    def tamper(gradient: Tensor) -> Tensor:
        other = gradient.clone()
        other[3, 5] *= 1.001
        return other

    with pytest.raises(CheckFailed, match=r"mix\.weight\[3, 5\]: autograd says .* and differences .*, 0\.999001 times"):
        check_gradients(loss, Tampers(tamper), data())


@pytest.mark.tier3
def test_several_wrong_tensors_are_all_named() -> None:
    """Behavior: a fault between layers shows in every parameter below it, and in none above."""
    with pytest.raises(CheckFailed, match=r"also wrong: ") as failure:
        check_gradients(loss, Tampers(lambda g: g * 0.5, "mixed"), data())
    assert all(name in str(failure.value) for name in ("mix.weight", "mix.bias", "embed.weight"))
    assert "head.weight" not in str(failure.value)


@pytest.mark.tier3
def test_a_parameter_without_gradient_counts_as_zero() -> None:
    """Behavior: a detached parameter moves the loss and gets no gradient: found."""

    def detached(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        head_VD = model.get_parameter("head.weight").detach()
        logits = nn.functional.linear(model.get_submodule("embed")(batch["tokens"]), head_VD)
        return cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())

    with pytest.raises(CheckFailed, match=r"head\.weight.*autograd says 0 "):
        check_gradients(detached, Small(), data())


@pytest.mark.tier3
def test_a_backward_that_ignores_what_comes_in_is_found() -> None:
    """Behavior: right only for an incoming gradient of 1."""
    with pytest.raises(CheckFailed, match=r"mix\.weight"):
        check_gradients(loss, Tampers(lambda g: g / 0.75), data())


@pytest.mark.tier3
def test_recomputation_with_other_random_numbers_is_found() -> None:
    """Behavior: checkpointing that does not keep dropout's mask is wrong, one that does is right."""

    class Recomputed(Small):
        keep = True

        def forward(self, tokens: Tensor) -> Tensor:
            return checkpoint(super().forward, tokens, use_reentrant=False, preserve_rng_state=self.keep)

    check_gradients(loss, Recomputed(0.5), data())
    Recomputed.keep = False
    with pytest.raises(CheckFailed):
        check_gradients(loss, Recomputed(0.5), data())


@pytest.mark.tier3
def test_the_callers_model_stays_as_it_is() -> None:
    """Behavior: weights, gradients, dtype, mode, hooks and random numbers are the caller's own."""
    model = Small(0.5).eval()
    weights, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    assert torch.float64 == check_gradients(loss, model, data()).dtype
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(state, torch.get_rng_state())


class Rounds(Small):
    """A model that computes one layer in float32, whatever its dtype, as published models do in norms."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        x_BTD = self.embed(tokens)
        inner = x_BTD.float()
        inner = (inner * torch.rsqrt(inner.square().mean(-1, keepdim=True) + 1e-6)).to(x_BTD.dtype)
        return self.head(torch.tanh(self.mix(inner)) + x_BTD)


class Refuses(Small):
    """A model whose code runs in float32 alone."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        if self.head.weight.dtype != torch.float32:
            raise RuntimeError("expected scalar type Float but found Double")
        return super().forward(tokens)


@pytest.mark.tier3
@pytest.mark.parametrize("seed", range(5))
def test_rounding_inside_is_measured_and_said(seed: int) -> None:
    """Behavior: float32 inside a float64 model is not a fault; the tolerance follows what was measured."""
    torch.manual_seed(seed)
    found = check_gradients(loss, Rounds(), data(seed), seed=seed)
    assert torch.float64 == found.dtype
    assert 4 * RTOL < found.tolerance < 1e-2
    assert "can be detected" in found.note


@pytest.mark.tier3
@pytest.mark.parametrize("seed", range(5))
def test_where_float64_is_refused_the_dtype_falls_back(seed: int) -> None:
    """Behavior: float32 passes within its rounding, the report says why, and large faults are still found."""
    torch.manual_seed(seed)
    found = check_gradients(loss, Refuses(), data(seed), seed=seed)
    assert torch.float32 == found.dtype
    assert "torch.float64 is refused: expected scalar type" in found.note
    assert found.tolerance < 0.05


@pytest.mark.tier3
def test_a_fault_is_found_in_float32() -> None:
    """Behavior: a halved gradient shows through the rounding of float32."""

    class Both(Tampers):
        def forward(self, tokens: Tensor) -> Tensor:
            return super().forward(tokens).float()

    with pytest.raises(CheckFailed, match=r"mix\.weight"):
        check_gradients(loss, Both(lambda g: g * 0.5), data())


@pytest.mark.tier3
@pytest.mark.parametrize("seed", range(5))
def test_kinks_are_not_faults(seed: int) -> None:
    """Behavior: ReLU's corners and top-1 routing, which no derivative describes, raise no alarm."""

    class Kinked(Small):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(8, 64), nn.Linear(64, 8)
            self.router = nn.Linear(8, 4)
            self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

        def forward(self, tokens: Tensor) -> Tensor:
            x_BTD = self.embed(tokens)
            x_BTD = x_BTD + self.down(self.up(x_BTD).relu())
            shares = self.router(x_BTD).softmax(-1)
            best = shares.argmax(-1, keepdim=True)
            outputs = torch.stack([expert(x_BTD) for expert in self.experts], -2)
            chosen = outputs.gather(-2, best[..., None].expand(*best.shape, 8)).squeeze(-2)
            return self.head(x_BTD + chosen * shares.gather(-1, best))

    torch.manual_seed(seed)
    assert check_gradients(loss, Kinked(), data(seed), seed=seed).tolerance < 1e-3


class Cube(Function):
    """x ** 3, with a backward to differentiate in turn."""

    wrong: float = 1.0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Any shape."""
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """First and second order."""
        (x,) = ctx.saved_tensors
        return _Slope.apply(x, grads[0])


class _Slope(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grad: Tensor) -> Tensor:
        ctx.save_for_backward(x, grad)
        return 3 * x * x * grad

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, grad = ctx.saved_tensors
        return 6 * x * grad * grads[0] * Cube.wrong, 3 * x * x * grads[0]


@pytest.mark.tier3
def test_functions_are_checked_to_second_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: a second derivative is checked on request only, and its absence is explained."""
    x = torch.randn(5, 3)
    check_function_gradients(Cube.apply, x, order=2)
    monkeypatch.setattr(Cube, "wrong", 2.0)
    check_function_gradients(Cube.apply, x)
    with pytest.raises(CheckFailed, match="input 0"):
        check_function_gradients(Cube.apply, x, order=2)
    monkeypatch.setattr(Cube, "wrong", 1.0)
    with pytest.raises(CheckFailed, match="autograd says 0 "):
        check_function_gradients(_Slope.apply, x, x, order=2)  # torch detaches here without a word
    with pytest.raises(SubjectError, match="no second derivative"):
        check_function_gradients(lambda *inputs: _Slope.apply(*inputs).square(), x, x, order=2)


@pytest.mark.tier3
def test_functions_of_several_inputs_and_outputs() -> None:
    """Behavior: integer inputs stay, each floating one is checked, and all outputs count."""

    def function(x: Tensor, places: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return x[places] @ weight, _Tampered.apply(weight, lambda g: g * 1.001).sum()

    with pytest.raises(CheckFailed, match=r"input 2.*autograd says"):
        check_function_gradients(function, torch.randn(4, 3), torch.tensor([0, 2]), torch.randn(3, 2))


@pytest.mark.tier3
def test_of_a_large_model_some_is_looked_at_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: fewer evaluations, the same faults found in every tensor, and the report says of what."""
    monkeypatch.setattr(gradients, "ALONE", 1)
    whole = check_gradients(loss, Small(), data())
    monkeypatch.setattr(gradients, "LARGE", 1)
    some = check_gradients(loss, Small(), data())
    assert some.evaluations < whole.evaluations
    assert "all together along 2 directions, 2 tensors again in 2 groups, single entries of 2" in some.note
    for where in ("mix.weight", "mix.bias"):
        with pytest.raises(CheckFailed, match=where):
            check_gradients(loss, Tampers(lambda g: g * 1.001, where), data())


@pytest.mark.tier3
def test_what_cannot_be_checked_is_explained() -> None:
    """Behavior: nothing trainable, a loss of other weights, and a loss that is not a number."""
    with pytest.raises(NotApplicable, match="a trainable parameter"):
        check_parameters(small(model=lambda: Small().requires_grad_(False)))
    other = Small()
    with pytest.raises(SubjectError, match="depends on none"):
        check_gradients(lambda _, batch: loss(other, batch), Small(), data())
    with pytest.raises(NotApplicable, match="a finite loss"):
        check_gradients(lambda model, batch: loss(model, batch) / 0.0, Small(), data())
    with pytest.raises(SubjectError, match="not a scalar"):
        check_gradients(lambda model, batch: model(batch["tokens"]), Small(), data())


@pytest.mark.tier3
def test_the_checks_of_the_table() -> None:
    """Behavior: correct parameters and inputs pass without a note; a fault of the inputs is found by its own check."""
    assert ("", "") == (check_parameters(small()), check_inputs(small()))
    with pytest.raises(CheckFailed, match="output of embed"):
        check_inputs(small(model=lambda: Tampers(lambda g: g * 0.9, "embed")))


@pytest.mark.tier3
def test_the_power_that_is_published() -> None:
    """Behavior: a few injections of each kind are found, correct code is not, and the weaker one sees none."""
    for seed in range(3):
        assert sees(*product(one_entry(seed), seed), seed)
        assert sees(*product(lambda g: g * (1 + 1e-5), seed), seed)
        assert not sees(*product(lambda g: g, seed), seed)
        assert not weaker_sees(*product(lambda g: g * 1.1, seed), seed)
        assert not sees(*attention("", seed), seed)
        for fault in ("missing term", "wrong sign", "detached branch", "dropped 1/sqrt(d)"):
            assert sees(*attention(fault, seed), seed)


@pytest.mark.long
def test_power_is_a_row_for_each_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: each fault is injected so often, both checks are counted, and the table says their shares."""
    chosen = {name: power.FAULTS[name] for name in ("scale off by 1e-01", "none (product)")}
    loud = lambda seed: product(lambda g: g * 1e6, seed)  # noqa: E731 - as the table's own
    monkeypatch.setattr(power, "FAULTS", {**chosen, "loud": loud})
    told: list[tuple[int, int, str]] = []
    rows = power.measure(1, lambda *said: told.append(said))
    assert [("scale off by 1e-01", 1, 1, 0), ("none (product)", 1, 0, 0), ("loud", 1, 1, 1)] == [
        tuple(row) for row in rows
    ]
    assert [(place, 3, row.fault) for place, row in enumerate(rows)] == told
    assert ["100.0%", "0.0%"] == power.render(rows).splitlines()[2].split()[-2:]


class Single(Function):
    """Twice its input, whose backward sums in float32 and is `factor` times what it is to be."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        """2 x."""
        ctx.factor = factor
        return 2.0 * x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """2 g, rounded."""
        return (2.0 * ctx.factor * gradients[0]).float().double(), None


@pytest.mark.long
def test_a_backward_in_single_precision_is_measured() -> None:
    """Behavior: rounding to float32 in a backward pass is allowed for and told; a larger error is found."""
    inputs = torch.randn(40, generator=torch.Generator().manual_seed(0))
    found = check_function_gradients(lambda x: Single.apply(x, 1.0).sin(), inputs)
    assert RTOL < found.tolerance < 1e-6
    assert "smallest gradient error that can be detected" in found.note
    with pytest.raises(CheckFailed, match="input 0"):
        check_function_gradients(lambda x: Single.apply(x, 1.0 + 1e-5).sin(), inputs)
