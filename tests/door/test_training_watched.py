"""What a watched loop does with its weights, gradients, files and precision: each statement green, unasked, broken."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import lr_scheduler

from andon.door.loading import LoadNotes
from andon.door.records import Run
from andon.door.scheduling import ScheduleNotes
from andon.door.statements.evaluation import check_mode, check_pairs
from andon.door.statements.half import check_loss
from andon.door.statements.kept import check_gradient, check_kept
from andon.door.statements.optimizers import check_membership
from andon.door.statements.rates import check_rate_left
from andon.door.statements.references import check_reference
from andon.door.statements.resuming import check_resumed
from andon.door.statements.schedule import check_schedule_length, check_schedule_used
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from tests.door.recorded import light_of
from tests.door.test_statements import run_of, stepped
from tests.door.watching import Watching

pytestmark = pytest.mark.tier2


class Product(nn.Module):
    """An adapter: x A B beside x W, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.a = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6, 2))
        self.b, self.drop = nn.Parameter(torch.zeros(2, 6)), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6) to (B, 6)."""
        return x @ self.weight + self.drop(x) @ self.a @ self.b


def trained(
    model: nn.Module, steps: int = 24, between: Callable[[Watching, nn.Module, int], Any] = lambda *_: None
) -> tuple[Watching, torch.optim.Optimizer]:
    """A run of a model, with something after each step."""
    torch.manual_seed(0)
    watching = Watching()
    optimizer = watching.optimizer([p for p in model.parameters() if p.requires_grad])
    for step in range(steps):
        watching.step(optimizer, mse_loss(watching.call(model, torch.randn(8, 6)), torch.randn(8, 6)))
        between(watching, model, step)
    return watching, optimizer


def evaluate(watching: Watching, model: nn.Module, step: int, *, puts_back: bool = True) -> None:
    """Every sixth step, by an average of the weights."""
    if step % 6 == 5:
        backup = copy.deepcopy(model.state_dict())
        model.load_state_dict({name: value * 0.9 for name, value in backup.items()})
        with torch.no_grad():
            watching.call(model, torch.randn(8, 6))
        if puts_back:
            model.load_state_dict(backup)


class Prompted(nn.Module):
    """A body that is left out of the optimizer and a head that is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6) to (B, 6)."""
        return self.head(self.body(x))


@pytest.mark.parametrize(("learns", "light"), [(True, Unusual), (False, CheckFailed)])
def test_a_tensor_of_no_model_that_has_gradients_is_none_of_an_old_model(learns: bool, light: type[Exception]) -> None:
    """Behavior: a prompt beside a body that is spared is yellow, gradients thrown away or not; tensors of none red."""
    watching, model, prompt = Watching(), Prompted(), nn.Parameter(torch.randn(6))
    optimizer = watching.optimizer([prompt, *model.head.parameters()])
    for _ in range(16):
        watching.step(optimizer, watching.call(model, torch.randn(8, 6) + (prompt if learns else 0)).square().mean())
        model.body.zero_grad()
    with pytest.raises(light, match="body") as found:
        check_membership(watching.run)
    assert light is type(found.value)


class Balance(nn.Module):
    """A loss with a weight that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.zeros(()))

    def forward(self, loss: Tensor) -> Tensor:
        """Of one task."""
        return (-self.s).exp() * loss + self.s


@pytest.mark.parametrize(
    ("done", "light"), [("nothing", Unusual), ("held", None), ("moved by hand", None), ("rests in eval mode", None)]
)
def test_a_loss_whose_weights_nobody_moves_is_yellow(done: str, light: type[Exception] | None) -> None:
    """Behavior: a module beside the model whose weights get gradients is asked, save where it is moved, or rests."""
    watching, model, balance = Watching(), nn.Linear(6, 6), Balance().train(done != "rests in eval mode")
    optimizer = watching.optimizer([*model.parameters(), *(balance.parameters() if done == "held" else ())])
    for _ in range(16):
        watching.step(optimizer, watching.call(balance, watching.call(model, torch.randn(8, 6)).square().mean()))
        if balance.s.grad is not None and done == "moved by hand":
            balance.s.data -= 0.1 * balance.s.grad
    assert light is light_of(check_membership, watching.run)


def clip(_: Watching, model: nn.Module, __: int) -> None:
    """What a constraint on weights does after each step."""
    with torch.no_grad():
        for p in model.parameters():
            p.clamp_(-0.3, 0.3)


def test_weights_that_an_evaluation_leaves_are_yellow() -> None:
    """Behavior: averages that stay are; averages that are taken out again and constraints are not."""
    check_kept(trained(nn.Linear(6, 6), between=evaluate)[0].run)
    for between in (clip, lambda *given: (clip(*given), evaluate(*given))):
        with pytest.raises(NotApplicable):
            check_kept(trained(nn.Linear(6, 6), between=between)[0].run)
    with pytest.raises(Unusual, match=r"after 3 of 3 evaluations .* 3 of them were evaluated with just these"):
        check_kept(trained(nn.Linear(6, 6), between=lambda *given: evaluate(*given, puts_back=False))[0].run)


def test_gradients_of_zero() -> None:
    """Behavior: a factor beside one that is zero and frozen is red, one that is idle for another reason yellow."""
    check_gradient(trained(Product())[0].run)  # its other factor is zero in the first step alone
    frozen = Product()
    frozen.b.requires_grad_(False)
    with pytest.raises(CheckFailed, match=r"exactly zero in each of 24 steps: a; beside them lies b") as found:
        check_gradient(trained(frozen)[0].run)
    assert not isinstance(found.value, Unusual)
    nothing = Product()
    torch.nn.init.zeros_(nothing.a)
    nothing.weight.requires_grad_(False)  # two factors of which each is zero: neither ever gets a gradient
    for other in (Spared(), Unconditional(), nothing):
        with pytest.raises(Unusual, match="exactly zero"):
            check_gradient(trained(other)[0].run)
    with pytest.raises(NotApplicable):
        check_gradient(trained(Product(), steps=5)[0].run)


class Unconditional(nn.Module):
    """What stands for a condition that is never left out, and a table that is zero: no factors of each other."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing, self.linear = nn.Parameter(torch.randn(1, 6)), nn.Linear(6, 6)
        self.table = nn.Parameter(torch.zeros(8, 6), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(8, 6) to (8, 6)."""
        return self.linear(torch.where(torch.zeros(8, 1, dtype=torch.bool), self.nothing, x) + self.table)


class Spared(nn.Module):
    """Two layers, of which one has weight 0 in what is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spared = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6) to (B, 6)."""
        return self.used(x) + 0 * self.spared(x)


def left_out(model: nn.Module, name: str, part: nn.Module, *, late: bool, moves: bool = False) -> Run:
    """A run in which a part of the model is in no optimizer; `late`: it was added after the optimizer was made."""
    watching = Watching()
    births = watching.run.births
    known = {id(p) for p in part.parameters()}

    def register() -> None:
        for each in model.modules():
            for own, p in each.named_parameters(recurse=False):
                births.registered(each, own, p)

    setattr(model, name, nn.Identity() if late else part)
    register()
    optimizer = watching.optimizer([p for p in model.parameters() if id(p) not in known])
    setattr(model, name, part)
    register()
    for _ in range(16):
        watching.step(optimizer, watching.call(model, torch.randn(8, 6)).square().mean())
        for p in part.parameters():
            p.data -= 0.01 * p.grad if moves and p.grad is not None else 0
            p.grad = None
    return watching.run


def test_what_came_after_the_optimizer_is_red() -> None:
    """Behavior: random weights that came late and that nobody moves; left out on purpose, or moved by hand, yellow."""

    def model() -> nn.Sequential:
        return nn.Sequential(nn.Linear(6, 6))

    check_membership(trained(nn.Linear(6, 6))[0].run)
    with pytest.raises(CheckFailed, match=r"was made before 1.bias, 1.weight came into the model") as found:
        check_membership(left_out(model(), "1", nn.Linear(6, 6), late=True))
    assert not isinstance(found.value, Unusual)
    for late, moves in ((False, False), (True, True)):
        with pytest.raises(Unusual, match=r"holds 1.bias, 1.weight"):
            check_membership(left_out(model(), "1", nn.Linear(6, 6), late=late, moves=moves))


def test_a_rate_that_is_next_to_nothing_is_yellow() -> None:
    """Behavior: for more than half of the steps; not a warm-up's foot, a cosine, or a slow decay."""
    each = stepped(20)
    for rates in (
        [1e-9] * 12 + [0.1] * 8,
        [0.1 * (1 - step / 20) for step in range(20)],
        [0.1 * 0.8**s for s in range(20)],
    ):
        each.rates = [(rate,) for rate in rates]
        check_rate_left(run_of(each))
    each.rates = [(0.1 * 0.1**step,) for step in range(20)]
    with pytest.raises(Unusual, match=r"in 15 of 20 steps .*: from step 6 on"):
        check_rate_left(run_of(each))


@pytest.mark.parametrize(
    ("loss_of", "said"),
    [
        (cross_entropy, ""),
        (lambda x, y: cross_entropy(x.bfloat16().float(), y), ""),
        (lambda x, y: cross_entropy(x.bfloat16(), y), "the loss is torch.bfloat16"),
        (lambda x, y: cross_entropy(x.bfloat16(), y).float() / 2, "logarithms of probabilities"),
    ],
    ids=["float32", "rounded logits", "bfloat16", "bfloat16 within"],
)
def test_losses_in_half_precision_are_red(loss_of: Callable[[Tensor, Tensor], Tensor], said: str) -> None:
    """Behavior: the loss, or the logarithms that it is made of; logits that were rounded on the way are not."""
    watching, model = Watching(), nn.Linear(6, 5)
    with pytest.raises(NotApplicable):
        check_loss(watching.run)
    optimizer = watching.optimizer(model.parameters())
    for _ in range(4):
        watching.step(optimizer, loss_of(watching.call(model, torch.randn(8, 6)), torch.randint(5, (8,))))
    if not said:
        check_loss(watching.run)
        return
    with pytest.raises(CheckFailed, match=f"{said}.* in 4 of 4"):
        check_loss(watching.run)


def test_a_backward_pass_from_what_is_no_loss() -> None:
    """Behavior: a part of a pipeline is given its output's gradient, in the dtype of that output."""
    watching, model = Watching(), nn.Linear(6, 5).bfloat16()
    watching.optimizer(model.parameters())
    for _ in range(4):
        output = watching.call(model, torch.randn(8, 6).bfloat16())
        watching.backward(output, torch.randn_like(output))
    with pytest.raises(NotApplicable):
        check_loss(watching.run)


def test_a_loss_is_looked_at_before_its_scale() -> None:
    """Behavior: a scaler's product is float32; what it was given is not."""
    watching, model = Watching(), nn.Linear(6, 5)
    optimizer = watching.optimizer(model.parameters())
    for _ in range(3):
        loss = cross_entropy(watching.call(model, torch.randn(8, 6)).bfloat16(), torch.randint(5, (8,)))
        watching.run.scaling.loss = loss
        watching.step(optimizer, loss.float() * 1024)
    with pytest.raises(CheckFailed, match=r"the loss is torch.bfloat16 in 3 of 3"):
        check_loss(watching.run)


def with_reference(reference: nn.Module, every: int = 1) -> Run:
    """A run whose targets another module gives."""

    def ask(watching: Watching, _: nn.Module, step: int) -> None:
        if step % every == 0:
            with torch.no_grad():
                watching.call(reference, torch.randn(8, 6))

    return trained(Product(), between=ask)[0].run


def test_a_reference_that_drops_is_yellow() -> None:
    """Behavior: dropout that acts in what only gives targets; not in eval mode, and not asked of what comes seldom."""
    check_reference(with_reference(Product().eval()))
    with pytest.raises(Unusual, match=r"in 24 of 24 passes of a Product"):
        check_reference(with_reference(Product()))
    for run in (with_reference(Product(), every=5), with_reference(nn.Linear(6, 6)), trained(Product())[0].run):
        with pytest.raises(NotApplicable):
            check_reference(run)


def scored(
    *, rows: Callable[[int], Tensor], eval_mode: bool = False, compares: bool = True, itself: bool = False
) -> Run:
    """A run evaluated in train mode, or not, whose figures are compared with labels, or with its input, or not."""

    def evaluates(watching: Watching, model: nn.Module, step: int) -> None:
        if step % 6 != 5:
            return
        model.train(not eval_mode)
        with torch.no_grad():
            for place in range(2):
                given = rows(place)
                answer = watching.call(model, given)
                label = given.reshape(-1) if itself else answer.reshape(-1) * 2
                _ = mse_loss(answer.reshape(-1), label) if compares else None
        model.train()

    return trained(Product(), between=evaluates)[0].run


def test_evaluation_with_dropout() -> None:
    """Behavior: red where held-out rows are scored once each; samples of one row and what is not scored are yellow."""
    data = torch.randn(32, 6, generator=torch.Generator().manual_seed(7))
    check_mode(scored(rows=lambda place: data[16 * place :][:16], eval_mode=True))
    with pytest.raises(CheckFailed, match="dropout acted in all of them") as found:
        check_mode(scored(rows=lambda place: data[16 * place :][:16]))
    assert not isinstance(found.value, Unusual)
    with pytest.raises(Unusual, match="in train mode"):
        check_mode(scored(rows=lambda _: data[:16]))  # as samples of each row
    with pytest.raises(Unusual, match="in train mode"):
        check_mode(scored(rows=lambda place: data[16 * place :][:16], compares=False))
    with pytest.raises(Unusual, match="in train mode") as found:
        check_mode(scored(rows=lambda place: data[16 * place :][:16], itself=True))  # dropout may be what it denoises
    assert Unusual is type(found.value)


@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")  # torch says so, too
@pytest.mark.parametrize(
    ("compares", "column", "light"),
    [(mse_loss, False, None), (mse_loss, True, CheckFailed), (torch.eq, False, None), (torch.eq, True, Unusual)],
)
def test_an_evaluation_pairs_rows(compares: Callable[[Tensor, Tensor], Tensor], column: bool, light: Any) -> None:
    """Behavior: predictions (B, 1) beside targets (B,) are red in a loss, else yellow; pairs of one tensor are not."""

    def evaluates(watching: Watching, model: nn.Module, step: int) -> None:
        if step % 6 == 5:
            with torch.no_grad():
                answer = watching.call(model, torch.randn(8, 6))[:, :1]
                compares(answer if column else answer.squeeze(1), torch.randn(8))
                torch.eq(answer.squeeze(1), answer)

    run = trained(Product(), between=evaluates)[0].run
    assert light is light_of(check_pairs, run)


@pytest.mark.parametrize("kind", ["SequentialLR", "ChainedScheduler"])
@pytest.mark.usefixtures("patched")
def test_schedules_that_another_drives(kind: str) -> None:
    """Behavior: nothing where all go on, and the length of one that did not is named."""

    def scheduled(goes_on: int) -> Run:
        watching = Watching()
        ScheduleNotes(watching.run).install()
        model = nn.Linear(6, 6)
        optimizer = watching.optimizer(model.parameters())
        warmup = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4)
        cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=16)
        driver: Any = (
            lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [4])
            if kind == "SequentialLR"
            else lr_scheduler.ChainedScheduler([warmup, cosine])
        )
        for step in range(20):
            watching.step(optimizer, watching.call(model, torch.randn(8, 6)).square().mean())
            if step < goes_on:
                driver.step()
        return watching.run

    check_schedule_length(scheduled(20))
    check_schedule_used(scheduled(20))
    with pytest.raises(Unusual, match=r"CosineAnnealingLR .*told 16 steps"):
        check_schedule_length(scheduled(5))
    with pytest.raises(Unusual, match=f"{kind} .*never stepped"):
        check_schedule_used(scheduled(0))


@pytest.mark.usefixtures("patched")
def test_resuming(tmp_path: Path) -> None:
    """Behavior: moments that stay in the file are yellow, and red where this run wrote it and its schedule goes on."""

    def resumed(*, moments: bool, schedule: bool, own: bool) -> Run:  # `own`: no step was taken since
        watching = Watching()
        notes = LoadNotes(watching.run)
        notes.install()
        ScheduleNotes(watching.run).install()
        path = tmp_path / "last.pt"
        for begins in (True, False):
            model = nn.Linear(6, 6)
            optimizer = watching.optimizer(model.parameters(), momentum=0.9)
            falls = lr_scheduler.LinearLR(optimizer, total_iters=20)
            if not begins:
                state = torch.load(path)
                model.load_state_dict(state["model"])
                _ = optimizer.load_state_dict(state["optimizer"]) if moments else None
                _ = falls.load_state_dict(state["schedule"]) if schedule else None
            for _ in range(4):
                watching.step(optimizer, watching.call(model, torch.randn(8, 6)).square().mean())
                falls.step()
            state = {
                "model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": falls.state_dict(),
            }  # fmt: skip
            torch.save(state, path)
            notes._written[str(path)] -= 0 if own else 1
        return watching.run

    check_resumed(resumed(moments=True, schedule=True, own=True))
    with pytest.raises(CheckFailed, match="while the schedule goes on") as found:
        check_resumed(resumed(moments=False, schedule=True, own=True))
    assert not isinstance(found.value, Unusual)
    for schedule, own in ((False, True), (True, False)):
        with pytest.raises(Unusual, match="began with no moments"):
            check_resumed(resumed(moments=False, schedule=schedule, own=own))
    with pytest.raises(Unusual, match=r"which is at 4 in it, began at 0"):
        check_resumed(resumed(moments=True, schedule=False, own=True))
    with pytest.raises(NotApplicable):
        check_resumed(trained(nn.Linear(6, 6))[0].run)
