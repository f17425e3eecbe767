"""`watch`: a correct loop passes, each injected fault is told with its step, and nothing of the loop changes."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from andon.verify.errors import CheckFailed, UnusualWarning
from andon.verify.run.report import YELLOW
from andon.verify.watcher import Watch, watch
from tests.verify.small import Small, batch, loss

pytestmark = pytest.mark.tier2
STEPS = 12


def train(
    model: nn.Module,
    optimizer: Optimizer,
    before: Callable[[int], Any] = lambda step: None,
    *,
    clear: bool = True,
    same: bool = False,
    raises: bool = False,
    micro: int = 1,
) -> Watch:
    """A plain loop under watch; `before` runs before each step's update."""
    generator = torch.Generator().manual_seed(0)
    with watch(model, optimizer, raises=raises) as watching:
        for step in range(STEPS):
            for _ in range(micro):
                data = batch(generator.manual_seed(0) if same else generator)
                (loss(model, data) / micro).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            before(step)
            optimizer.step()
            if clear:
                optimizer.zero_grad()
    return watching


def small(**options: Any) -> tuple[Small, Optimizer]:
    """A model and its optimizer."""
    torch.manual_seed(0)
    model = Small(**options)
    return model, AdamW(model.parameters(), lr=1e-2)


def kinds(watching: Watch) -> list[str]:
    """What was found, by name."""
    return [finding.check for finding in watching.findings]


@pytest.mark.parametrize("micro", [1, 3])
@pytest.mark.parametrize("optimizer", [AdamW, SGD])
def test_a_correct_loop_passes(optimizer: Callable[..., Optimizer], micro: int) -> None:
    """Behavior: dropout, clipping, frozen layers and micro-batches raise no alarm, and hooks are gone afterwards."""
    model = Small(0.2)
    model.embed.requires_grad_(False)
    made = optimizer([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    train(model, made, raises=True, micro=micro)
    assert not any((each._forward_hooks or each._forward_pre_hooks) for each in model.modules())
    assert not made._optimizer_step_pre_hooks
    assert not made._optimizer_step_post_hooks
    assert not any(p._backward_hooks for p in model.parameters())


def test_the_loop_is_the_same_to_the_last_bit() -> None:
    """Reference: the loop without watch."""
    watched, optimizer = small(dropout=0.2)
    train(watched, optimizer)
    plain, optimizer = small(dropout=0.2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        loss(plain, batch(generator)).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(*pair) for pair in zip(watched.parameters(), plain.parameters(), strict=True))


def test_a_gradient_that_is_not_finite() -> None:
    """Behavior: the tensor and the step are named."""
    model, optimizer = small()

    def poison(step: int) -> None:
        if step == 3:
            assert model.mix.weight.grad is not None
            model.mix.weight.grad.fill_(float("nan"))

    with pytest.raises(CheckFailed, match=r"watch\.finite: step 4: the gradient of mix\.weight is not finite"):
        train(model, optimizer, poison, raises=True)


def test_a_frozen_parameter_that_moves() -> None:
    """Behavior: a write to what requires no gradient is found."""
    model, optimizer = small()
    model.head.requires_grad_(False)
    watching = train(model, optimizer, lambda step: step == 2 and model.head.weight.data.mul_(0.999))
    assert ["watch.frozen"] == kinds(watching)
    assert watching.findings[0].message.startswith("step 3: head.weight requires no gradient")


def test_an_adapter_that_is_merged_and_taken_off_again() -> None:
    """Behavior: what rounding leaves of it, before each step, is no move of a frozen weight."""
    model, optimizer = small()
    model.head.requires_grad_(False)
    low, high = torch.randn(model.head.weight.shape[0], 2), torch.randn(2, model.head.weight.shape[1])

    def merge(_: int) -> None:
        model.head.weight.data.add_(low @ high)
        model.head.weight.data.sub_(low @ high)

    before = model.head.weight.detach().clone()
    assert [] == kinds(train(model, optimizer, merge))
    assert not before.equal(model.head.weight)


def test_a_parameter_that_is_frozen_or_unfrozen_on_the_way() -> None:
    """Behavior: what is frozen in a run is found when it moves; what is unfrozen may move."""
    model, optimizer = small()
    model.embed.requires_grad_(False)

    def change(step: int) -> None:
        model.embed.requires_grad_(True)
        model.embed.weight.data.mul_(0.999)
        model.head.requires_grad_(False)
        model.head.weight.data.mul_(0.999 if step == STEPS - 1 else 1.0)

    found = [finding.message for finding in train(model, optimizer, change).findings]
    assert [f"step {STEPS}: head.weight requires no gradient and has moved"] == [
        message for message in found if "moved" in message
    ]


def test_an_update_that_is_not_finite() -> None:
    """Behavior: weights that are not finite after an update whose gradient was are found."""
    model, optimizer = small()
    watching = train(model, optimizer, lambda step: step == 2 and model.head.weight.data.fill_(float("inf")))
    assert "step 3: head.weight is not finite" == watching.findings[0].message


def test_a_model_of_vectors_is_watched_too() -> None:
    """Behavior: where no ids are given no batch is said to come again."""
    model = nn.Linear(3, 1)
    optimizer = SGD(model.parameters(), lr=1e-2)
    with watch(model, optimizer, raises=False) as watching:
        for _ in range(STEPS):
            model(torch.ones(2, 3)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert (STEPS, []) == (watching.steps, kinds(watching))


def test_a_parameter_the_optimizer_does_not_hold() -> None:
    """Behavior: told before the first step, by name; yellow, as another optimizer may hold it."""
    model = Small()
    optimizer = AdamW(model.mix.parameters(), lr=1e-2)
    said = r"does not hold embed\.weight, head\.weight"
    with pytest.raises(CheckFailed, match=said), watch(model, optimizer, strict=True):
        pass
    with pytest.warns(UnusualWarning, match=said), watch(model, optimizer) as watching:
        pass
    assert [("watch.optimizer", YELLOW)] == [(each.check, each.light) for each in watching.findings]


def test_an_optimizer_of_another_model() -> None:
    """Behavior: parameters replaced after the optimizer was made are told apart from forgotten ones."""
    optimizer = AdamW(Small().parameters(), lr=1e-2)
    assert "watch.stale" in kinds(train(Small(), optimizer))


def test_float32_masters_are_not_stale_parameters() -> None:
    """Behavior: an optimizer over float32 copies of bfloat16 weights is left alone."""
    model = Small().bfloat16()
    masters = [p.detach().float().requires_grad_() for p in model.parameters()]

    def hand_over(_: int) -> None:
        for master, p in zip(masters, model.parameters(), strict=True):
            master.grad = None if p.grad is None else p.grad.float()
            p.grad = None

    assert [] == [kind for kind in kinds(train(model, SGD(masters, lr=0.1), hand_over)) if kind != "watch.gradients"]


def test_a_parameter_without_gradient() -> None:
    """Behavior: what the loss never reaches is named after a few steps."""
    model, _ = small()
    model.unused = nn.Linear(3, 3)
    watching = train(model, AdamW(model.parameters(), lr=1e-2))
    assert ["watch.gradients"] == kinds(watching)
    assert "unused.bias, unused.weight" in watching.findings[0].message


def test_updates_that_bfloat16_drops() -> None:
    """Behavior: weights that rounding holds in place are found; the same rate moves float32 weights."""
    for dtype, expected in ((torch.bfloat16, ["watch.updates"]), (torch.float32, [])):
        model = Small().to(dtype)
        assert expected == kinds(train(model, AdamW(model.parameters(), lr=1e-5)))


def test_a_loss_that_stays_the_same() -> None:
    """Behavior: told by hand, or seen where the model returns it."""
    model, optimizer = small()
    with watch(model, optimizer, raises=False) as watching:
        for _ in range(STEPS):
            watching.loss(torch.tensor(2.5))
    assert ["watch.loss"] == kinds(watching)

    class Returns(Small):
        def forward(self, tokens: Tensor) -> Any:
            return SimpleNamespace(loss=super().forward(tokens).sum() * float("nan"))

    returns = Returns()
    with (
        pytest.raises(CheckFailed, match="the loss is nan"),
        watch(returns, AdamW(returns.parameters())),
    ):
        returns(batch(torch.Generator())["tokens"])


def test_gradients_left_on_what_is_no_longer_trained() -> None:
    """Behavior: what was frozen after it had a gradient, and is in no optimizer, is not expected to move."""
    torch.manual_seed(0)
    body, head = nn.Sequential(*(nn.Linear(32, 32) for _ in range(12))), nn.Linear(32, 1)
    model, x = nn.Sequential(body, head), torch.randn(8, 32)
    model(x).square().mean().backward()
    body.requires_grad_(False)
    optimizer = AdamW(head.parameters(), lr=1e-2)
    with watch(model, optimizer, raises=False) as watching:
        for _ in range(3 * STEPS):
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert [] == kinds(watching)
    assert all(bool(p.grad.any()) for p in body.parameters() if p.grad is not None)


def test_complex_weights() -> None:
    """Behavior: complex numbers are finite like others, and one that is not is told."""
    torch.manual_seed(0)
    model = nn.Linear(8, 8, dtype=torch.complex64)
    optimizer = SGD(model.parameters(), lr=1e-2)
    with watch(model, optimizer, raises=False) as watching:
        for step in range(3):
            model(torch.randn(4, 8, dtype=torch.complex64)).abs().square().mean().backward()
            assert model.weight.grad is not None
            model.weight.grad.imag.mul_(torch.nan if step == 2 else 1)
            optimizer.step()
            optimizer.zero_grad()
    assert {"watch.finite"} == set(kinds(watching))


def test_updates_in_eval_mode() -> None:
    """Behavior: eval mode after train mode is lost; eval mode from the start counts where there is dropout."""
    model, optimizer = small()
    assert ["watch.mode"] == kinds(train(model, optimizer, lambda step: step == 4 and model.eval()))
    model, optimizer = small()
    assert [] == kinds(train(model.eval(), optimizer))
    model, optimizer = small(dropout=0.1)
    assert ["watch.mode"] == kinds(train(model.eval(), optimizer))


@pytest.mark.parametrize("micro", [1, 2])
def test_gradients_that_pile_up(micro: int) -> None:
    """Behavior: without zero_grad each gradient holds the last, through clipping and micro-batches."""
    model, optimizer = small()
    assert ["watch.zero_grad"] == kinds(train(model, optimizer, clear=False, micro=micro))


def test_tied_weights_that_part() -> None:
    """Behavior: one tensor under two names has to stay one."""
    model, _ = small()
    model.head.weight = model.embed.weight
    optimizer = AdamW(model.parameters(), lr=1e-2)

    def part(step: int) -> None:
        if step == 3:
            model.head.weight = nn.Parameter(model.embed.weight.detach().clone())

    assert "watch.tied" in kinds(train(model, optimizer, part))


def test_the_same_batch_each_step() -> None:
    """Behavior: a loader that starts anew each step is told after a few."""
    model, optimizer = small()
    assert ["watch.batches"] == kinds(train(model, optimizer, same=True))
