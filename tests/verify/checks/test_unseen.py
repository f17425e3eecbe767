"""What code bases that nobody here had seen showed: correct code of theirs passes, and the fault beside it is found."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu

from andon.verify.access.documents import one_document
from andon.verify.observation.shown_batches import token_rows
from andon.verify.observation.step_trace import trace_step
from andon.verify.run.runner import check
from andon.verify.subject import Subject
from tests.subjects import qlora
from tests.verify import loops
from tests.verify.small import LENGTH, VOCAB, WIDTH, Small, batch, loss, small

ROWS = 7


def found(subject: Subject, name: str) -> str:
    """The message of the check's finding; "passed" where it passed, and otherwise what it lacks."""
    report = check(subject, only=(name,))
    if report.findings:
        return report.findings[0].message
    return "passed" if name in report.passed else f"not run: {report.not_applicable[name]}"


@pytest.mark.tier2
def test_rows_without_their_padding_have_positions_throughout() -> None:
    """Behavior: where padding is made real, its places are counted on; positions of whole rows stay."""
    parts = {"tokens": torch.arange(10).view(2, 5), "attention_mask": torch.ones(2, 5, dtype=torch.int64)}
    padded = {**parts, "position_ids": torch.tensor([[0, 1, 2, 3, 4], [0, 1, 2, 0, 0]])}
    padded["attention_mask"][1, 3:] = 0
    whole = one_document(small(), padded)
    assert [[0, 1, 2, 3, 4]] * 2 == whole["position_ids"].tolist()
    assert bool(whole["attention_mask"].all())
    late = {**parts, "attention_mask": torch.ones(2, 5), "position_ids": torch.arange(2, 7).expand(2, 5)}
    assert [[2, 3, 4, 5, 6]] * 2 == one_document(small(), late)["position_ids"].tolist()


class Recorded(Small):
    """Is given a mask after its tokens."""

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T) to (B, T, V)."""
        assert attention_mask is None or attention_mask.shape == tokens.shape
        return super().forward(tokens)


@pytest.mark.tier2
def test_a_mask_that_comes_by_position_is_one() -> None:
    """Behavior: padding is left out of a step's rows, whichever way the model was given its mask."""
    model, tokens, mask = Recorded(), torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    step = trace_step(model, lambda: {"loss": float(model(tokens, mask).sum().detach())})
    assert [(1, 2, 3), (4, 5)] == token_rows(small(), step)


class Gated(Small):
    """Begins with a zero gate behind its dropout."""

    def __init__(self, *, used: bool = True, detached: bool = False) -> None:
        super().__init__(dropout=0.0)
        self.used, self.detached = used, detached
        self.more = nn.Linear(WIDTH, WIDTH)
        self.noise = nn.Dropout(0.2)
        self.gate = nn.Linear(WIDTH, VOCAB, bias=False)
        nn.init.zeros_(self.gate.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        middle = self.more(self.embed(tokens)).float()
        middle = self.noise(middle) if self.used else middle
        return super().forward(tokens) + self.gate(middle.detach() if self.detached else middle)


@pytest.mark.long
def test_dropout_behind_a_zero_matrix_is_seen() -> None:
    """Behavior: dropout that a fresh zero matrix hides passes, as with a fresh adapter; what is not done is found."""
    subject = small(model=Gated)
    assert "passed" == found(subject, "determinism.train")
    assert "dropout rates go up to 0.2" in found(replace(subject, model=lambda: Gated(used=False)), "determinism.train")


@pytest.mark.long
def test_what_is_detached_behind_a_zero_matrix_is_found() -> None:
    """Behavior: a zero hides no missing gradient, and a cast to float32 hides none in its rounding."""
    subject = small(model=Gated)
    assert "passed" == found(subject, "gradients.parameters")
    assert "autograd says" in found(replace(subject, model=lambda: Gated(detached=True)), "gradients.parameters")


class Rounding(Small):
    """Takes its hidden states in float32, and all but a ten-thousandth of their gradient."""

    def __init__(self, lost: float = 0.0) -> None:
        super().__init__()
        self.lost = lost

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        states = self.embed(tokens).float()
        states = (1 - self.lost) * states + self.lost * states.detach()
        return self.head(torch.tanh(self.mix(states.to(self.mix.weight.dtype))))


@pytest.mark.long
def test_a_gradient_that_is_off_by_little_is_found_in_code_that_casts() -> None:
    """Behavior: what casts to float32 by itself is checked in float64 all the same."""
    assert "passed" == found(small(model=Rounding), "gradients.parameters")
    assert "autograd says" in found(small(model=lambda: Rounding(1e-4)), "gradients.parameters")


@pytest.mark.long
def test_code_that_reads_the_bits_of_its_floats_is_checked_as_it_is() -> None:
    """Behavior: what is another function without its casts to float32, as 4-bit weights are, keeps them."""
    assert ("passed", "passed") == tuple(found(qlora(), f"gradients.{name}") for name in ("parameters", "inputs"))


class Expert(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) to (N, D)."""
        return self.down(gelu(self.up(x)))


class Routed(nn.Module):
    """Each token's one or two best experts, on the residual stream or on what a norm made of it."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.norm = nn.LayerNorm(WIDTH)
        self.router = nn.Linear(WIDTH, 4, bias=False)
        self.experts = nn.ModuleList(Expert() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        states = self.norm(x)
        x = states if self.fault == "normed" else x
        best, index = self.router(states).softmax(-1).topk(2)
        used = list(self.experts)[: 3 if self.fault == "dead" else 4]
        shares = [(best * (index == number)).sum(-1, keepdim=True) for number in range(len(used))]
        return x + sum(share * expert(states) for share, expert in zip(shares, used, strict=True))


class Mixture(nn.Module):
    """Two layers of experts, and what their router adds to the loss."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.first, self.second = Routed(fault), Routed(fault)
        self.layers = nn.ModuleList([self.first, self.second])
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)

    def balance(self) -> Tensor:
        """Of the routers alone."""
        return self.first.router.weight.square().mean() + self.second.router.weight.square().mean()


def mixed_loss(model: nn.Module, batch: Any, *, twice: bool = False) -> Tensor:
    """Cross-entropy, of twice the logits or not, and the router's part."""
    logits = model(batch["tokens"]) * (2 if twice else 1)
    assert isinstance(model, Mixture)
    return cross_entropy(logits.flatten(0, 1), batch["labels"].flatten()) + model.balance()


def mixture(fault: str = "", **parts: Any) -> Subject:
    """A mixture of experts."""
    given: dict[str, Any] = {"model": lambda: Mixture(fault), "loss": mixed_loss, "mixture_of_experts": True}
    return small(**given | parts)


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "name", "message"),
    [
        ("normed", "structure.residual", "block 0 with all its matrices zero returns"),
        ("dead", "structure.parameters", "2 of 8 experts get no gradient"),
    ],
)
def test_a_block_of_a_mixture_is_whole(fault: str, name: str, message: str) -> None:
    """Behavior: an expert that no batch reaches is found, and a residual that is what a norm left; others pass."""
    assert "passed" == found(mixture(), name)
    assert message in found(mixture(fault), name)


@pytest.mark.long
@pytest.mark.parametrize("name", ["loss.definition", "loss.shapes", "loss.ignored"])
def test_a_mixtures_loss_is_checked_except_for_its_routers_part(name: str) -> None:
    """Behavior: a router's part of whatever size passes; another cross-entropy than that of the logits does not."""
    assert "passed" == found(mixture(), name)
    twice = mixture(loss=lambda model, batch: mixed_loss(model, batch, twice=True), logits=lambda m, b: m(b["tokens"]))
    assert "the mean cross-entropy" in found(twice, name)


def stepping(divided: bool, reported: Callable[[nn.Module, Any], Tensor]) -> Callable[..., dict[str, float]]:
    """A step that divides by the number of micro-batches, and reports some loss."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
        optimizer.zero_grad()
        shown = sum(float(reported(model, each).detach()) for each in batches) / len(batches)
        for each in batches:
            (mixed_loss(model, each) / (len(batches) if divided else 1)).backward()
        optimizer.step()
        return {"loss": shown}

    return step


@pytest.mark.long
def test_a_mixtures_micro_batches_of_one_size_are_checked() -> None:
    """Behavior: micro-batches that are not divided by their number are found; the mean of each with its own passes."""
    clean, injected = (mixture(train_step=stepping(divided, mixed_loss)) for divided in (True, False))
    assert "passed" == found(clean, "accumulation.gradient")
    assert "differs by" in found(injected, "accumulation.gradient")


@pytest.mark.long
def test_a_mixture_may_report_its_loss_without_the_routers_part() -> None:
    """Behavior: a step and an evaluation may leave the router's part out; half the loss is a finding."""

    def valued(factor: float) -> Subject:
        def shown(model: nn.Module, batch: Any) -> Tensor:
            return factor * loss(model, batch)

        def validate(model: nn.Module, batches: list[Any]) -> float:
            return sum(float(shown(model, each)) for each in batches) / len(batches)

        return mixture(train_step=stepping(divided=True, reported=shown), validate=validate)

    pairs = (("updates.logged_loss", "reports a loss of"), ("evaluation.mean", "the loss of each token is"))
    for name, message in pairs:
        assert "passed" == found(valued(1.0), name)
        assert message in found(valued(0.5), name)


def rows(order: list[int], size: int) -> list[dict[str, Tensor]]:
    """Batches of so many of seven different rows."""
    ids = torch.arange(LENGTH + 1) + torch.arange(ROWS)[:, None]
    chosen = [ids[order[start : start + size]] % VOCAB for start in range(0, len(order), size)]
    return [{"tokens": part[:, :-1], "labels": part[:, 1:]} for part in chosen]


ORDERS = ([0, 1, 2, 3, 4, 5, 6], [6, 2, 4, 0, 5, 1, 3], [3, 5, 6, 1, 2, 0, 4])


@pytest.mark.tier2
def test_an_epoch_may_leave_out_what_fills_no_batch() -> None:
    """Behavior: full batches may lack another row each epoch; a row that others have in its place is a finding."""
    dropped, doubled = (
        small(epoch_batches=lambda number, size=size, count=count: rows([*ORDERS[number]][:count], size))
        for size, count in ((3, 6), (1, 6))
    )
    assert "passed" == found(dropped, "data.epochs")
    assert "lacks 1 of epoch 0's 6 rows" in found(doubled, "data.epochs")


@pytest.mark.tier2
def test_an_augmented_epoch_is_another_one() -> None:
    """Behavior: examples that are said to be drawn anew may not be those of the epoch before; other ones pass."""

    def epochs(anew: int) -> Subject:
        return small(
            epoch_batches=lambda number: [batch(torch.Generator().manual_seed(anew * number))] * 2,
            random_augmentation=True,
        )

    assert "passed" == found(epochs(1), "data.epochs")
    assert "are those of epoch 0 in their order" in found(epochs(0), "data.epochs")


@pytest.mark.tier2
def test_targets_two_ahead_in_an_epoch_are_found() -> None:
    """Behavior: an epoch's targets are looked at like the batch's, and what is held out as well."""

    def ahead(steps: int) -> list[dict[str, Tensor]]:
        ids = (torch.arange(LENGTH + 3) * 4 + torch.arange(3)[:, None]) % VOCAB
        return [{"tokens": ids[:, :LENGTH], "labels": ids[:, steps : steps + LENGTH]}]

    assert "passed" == found(
        small(epoch_batches=lambda _: ahead(1), validation_batches=lambda: ahead(1)), "data.targets"
    )
    for parts in ({"epoch_batches": lambda _: ahead(2)}, {"validation_batches": lambda: ahead(2)}):
        assert "targets are the token 2 ahead" in found(small(**parts), "data.targets")


@pytest.mark.tier2
def test_a_model_that_sees_both_sides_is_not_shown_its_targets() -> None:
    """Behavior: targets that stand in the batch are a finding where the model sees both sides; hidden ones pass."""

    def masked(hidden: bool) -> Subject:
        tokens = batch(torch.Generator().manual_seed(0))["tokens"]
        chosen = torch.zeros_like(tokens, dtype=torch.bool)
        chosen[:, 2] = True
        parts = {"labels": tokens.masked_fill(~chosen, -100)}
        parts["tokens"] = tokens.masked_fill(chosen, VOCAB) if hidden else tokens
        return small(epoch_batches=lambda _: [parts], causal=False)

    assert "passed" == found(masked(hidden=True), "data.targets")
    assert "3 of the 3 tokens" in found(masked(hidden=False), "data.targets")


@pytest.mark.tier2
@pytest.mark.parametrize(
    ("late", "outcome"), [(0, "passed"), (8, "Subject.lr_at: at step 20 the rate falls by"), (30, "not run")]
)
def test_a_fall_that_begins_with_a_jump_is_found(late: int, outcome: str) -> None:
    """Behavior: a cool-down that is counted from elsewhere begins with a jump; stairs, flat between jumps, pass."""

    def rate(step: int) -> float:
        if late == 30:
            return 0.1 ** (min(step, 39) // 10)
        return min(1.0, max(0.0, (40 - late - step) / 20)) if step >= 20 else 1.0

    subject = small(lr_at=rate, hyperparameters={"learning_rate": 1.0, "steps": 40, "warmup_steps": 0})
    assert found(subject, "schedule.decline").startswith("passed" if late == 30 else outcome)


class Two(loops.AdamW):
    """Two algorithms in one optimizer: a group says which."""

    def update(self, p: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Signs of gradients, or Adam."""
        if group["kind"] == "sign":
            p.sub_(group["lr"] * gradient.sign())
        else:
            super().update(p, gradient, state, group)


@pytest.mark.long
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.99, 0.9)])
def test_a_group_that_says_it_is_adams_is_held_to_it(betas: tuple[float, float]) -> None:
    """Behavior: of an optimizer of several kinds the groups that name Adam move weights as Adam, or are found."""

    class Injected(Two):
        def update(self, p: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
            super().update(p, gradient, state, {**group, "betas": betas})

    def made(model: nn.Module) -> torch.optim.Optimizer:
        first, *others = model.parameters()
        groups = [{"params": [first], "kind": "sign"}, {"params": others, "kind": "adamw", "betas": (0.9, 0.99)}]
        return Injected(groups, lr=1e-3)

    outcome = found(replace(loops.own(), optimizer=made), "optimizer.parity")
    assert ("passed" == outcome) == (betas == (0.9, 0.99))
    assert "passed" == outcome or "and Adam at" in outcome


@pytest.mark.long
@pytest.mark.parametrize("spoiled", [False, True])
def test_a_momentum_that_the_step_sets_is_the_optimizers_own(spoiled: bool) -> None:
    """Behavior: an update is compared with the options that it was made with; weights changed besides are found."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
        for group in optimizer.param_groups:
            group["momentum"] += 0.1
        optimizer.zero_grad()
        loops.mean_loss(model, batches[0]).backward()
        optimizer.step()
        with torch.no_grad():
            for parameter in model.parameters() if spoiled else ():
                parameter.mul_(0.999)
        return {}

    subject = replace(
        loops.own(), optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.5), train_step=step
    )
    assert ("passed" == found(subject, "updates.arithmetic")) != spoiled


@pytest.mark.long
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_peak_is_that_of_the_fastest_group(share: float) -> None:
    """Behavior: of groups with rates of their own one reaches the peak that the settings name, or a run is found."""

    class Paced:
        """A run of two groups, the second at half the first's rate."""

        def __init__(self) -> None:
            self.model, self.steps = loops.Net(), 0
            first, *others = self.model.parameters()
            self.optimizer = torch.optim.SGD([{"params": [first]}, {"params": others}], lr=1.0)

        def step(self) -> dict[str, float]:
            """One update."""
            self.steps += 1
            for group, part in zip(self.optimizer.param_groups, (1.0, 0.5), strict=True):
                group["lr"] = share * part * 1e-2 * min(1.0, self.steps / 2)
            self.optimizer.zero_grad()
            value = loops.mean_loss(self.model, loops.corpus(3, self.steps, ragged=False))
            value.backward()
            self.optimizer.step()
            return {"loss": float(value.detach())}

    subject = replace(loops.own(), loop=Paced, hyperparameters={"learning_rate": 1e-2, "warmup_steps": 2})
    outcome = found(subject, "schedule.run")
    assert outcome.startswith("passed" if math.isclose(share, 1.0) else "Subject.loop: after 6 updates, 2 of warm-up")
