"""What is said of a watched run, and of a captured micro-batch, without a process of its own."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.door.backward import BackwardNotes
from andon.door.capture import Captured, as_subject, capture
from andon.door.forward import ForwardNotes
from andon.door.places import Place
from andon.door.questions.accumulation import check_division
from andon.door.questions.likelihoods import check_classes
from andon.door.questions.padding import check_padding, check_padding_targets
from andon.door.questions.shapes import check_broadcast, check_random_target
from andon.door.questions.targets import check_ignored, check_own_target
from andon.door.records import Comparison, Optimizing, Passes, Run, Scheduling, summed
from andon.door.rows import fingerprints
from andon.door.statements.averages import check_lag
from andon.door.statements.data import check_order
from andon.door.statements.evaluation import check_counted, check_random
from andon.door.statements.optimizers import check_coupled_decay, check_group_rates, check_rates
from andon.door.statements.schedule import check_schedule_steps, check_schedule_used
from andon.door.statements.steps import check_accumulation
from andon.door.stepping import StepNotes
from andon.door.torch_calls import Recorder
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.run.causes import by_cause
from andon.verify.run.report import Finding

pytestmark = pytest.mark.tier2
WORDS, PAD = 11, 0


class Bag(nn.Module):
    """Scores (B,) and logits (B, T, V) of padded token ids; its mean over words may count padding."""

    def __init__(self, *, masks: bool = True) -> None:
        super().__init__()
        self.masks, self.embed, self.head = masks, nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        x, real = self.embed(ids), (ids != PAD).unsqueeze(-1)
        weight = real.float() if self.masks else torch.ones_like(real, dtype=torch.float)
        return self.head(x + (x * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True))


def recorded(model: nn.Module, loss_of, *arguments: Tensor) -> Captured:  # noqa: ANN001 - any function
    """What a script's window would leave."""
    recorder, state, before = Recorder(), torch.get_rng_state(), {id(model): model}

    def call(*given: Tensor) -> Tensor:
        return recorder.call(model, nn.Module.__call__, given, {})

    with recorder:
        loss = loss_of(call, *arguments)
    return capture(recorder, loss, before, state, None)


def padded() -> tuple[Tensor, Tensor]:
    """(B, T) ids that end in PAD, and labels that are -100 there."""
    torch.manual_seed(0)
    ids, lengths = torch.randint(1, WORDS, (6, 7)), torch.tensor([7, 6, 5, 4, 3, 2])
    inside = torch.arange(7)[None] < lengths[:, None]
    return torch.where(inside, ids, PAD), torch.where(inside, ids.roll(1, 1), -100)


def cross_entropy(call, ids: Tensor, labels: Tensor) -> Tensor:  # noqa: ANN001
    """Mean over counted labels."""
    return functional.cross_entropy(call(ids).flatten(0, 1), labels.flatten()) / 4


def clamped(call, ids: Tensor, labels: Tensor) -> Tensor:  # noqa: ANN001
    """Padding becomes a class."""
    return functional.cross_entropy(call(ids).flatten(0, 1), labels.clamp(min=PAD).flatten())


def test_a_capture_is_the_scripts_loss_without_its_last_factor() -> None:
    """Behavior: parts by the names of `forward`, the constant factor apart, the same loss as a Subject."""
    captured = recorded(Bag(), cross_entropy, *padded())
    subject = as_subject(captured, "bag")
    again = subject.loss(subject.model(), subject.batch(torch.Generator()))
    assert (["ids", "labels"], 0.25) == (list(captured.parts), captured.factor)
    assert float(captured.loss.detach()) == float(again.detach())


def test_padding_is_no_part_of_a_prediction() -> None:
    """Behavior: a model that hides padding passes; one whose mean counts it, though it compares with it, is red."""
    check_padding(recorded(Bag(), cross_entropy, *padded()))
    with pytest.raises(CheckFailed, match="knows padding") as found:
        check_padding(recorded(Bag(masks=False), cross_entropy, *padded()))
    assert not isinstance(found.value, Unusual)


def test_padding_is_no_target() -> None:
    """Behavior: labels of padding that count are red where a mask says that it is; ignored ones pass."""
    torch.manual_seed(0)
    ids, labels = padded()
    check_padding_targets(recorded(Bag(), cross_entropy, ids, labels))
    with pytest.raises(CheckFailed, match=r"15 places where 'ids' .* all for class 0"):
        check_padding_targets(recorded(Bag(), clamped, ids, labels))


class Reach(nn.Module):
    """Logits of the mean of all tokens up to some ahead."""

    def __init__(self, ahead: int) -> None:
        super().__init__()
        self.ahead, self.embed, self.head = ahead, nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        seen = torch.ones(ids.shape[1], ids.shape[1]).tril(self.ahead)
        return self.head(seen / seen.sum(1, keepdim=True) @ self.embed(ids))


def next_token(call, ids: Tensor) -> Tensor:  # noqa: ANN001
    """Of the same text."""
    return functional.cross_entropy(call(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


@pytest.mark.parametrize(("ahead", "red"), [(0, False), (1, True), (2, True), (9, False)])
def test_no_prediction_sees_its_target(ahead: int, red: bool) -> None:
    """Behavior: a mask that is one or two too far is red; what sees all of a text, as encoders do, is not."""
    torch.manual_seed(0)
    captured = recorded(Reach(ahead), next_token, torch.randint(WORDS, (6, 10)))
    if not red:
        check_own_target(captured)
        return
    with pytest.raises(CheckFailed, match="1 later, which is their target"):
        check_own_target(captured)


def test_ignored_labels_have_no_gradient() -> None:
    """Behavior: labels of -100 that the loss counts as a class are red."""
    check_ignored(recorded(Bag(), cross_entropy, *padded()))
    with pytest.raises(CheckFailed, match="places where 'labels' is -100"):
        check_ignored(recorded(Bag(), clamped, *padded()))


@pytest.mark.parametrize(
    ("loss_of", "check", "light"),
    [
        (lambda call, x, y: (call(x).squeeze(-1) - y).square().mean(), check_broadcast, None),
        (lambda call, x, y: (call(x) - y).square().mean(), check_broadcast, CheckFailed),
        (lambda call, x, y: (call(x).squeeze(-1)[:, None] - call(x).squeeze(-1)).mean(), check_broadcast, Unusual),
        (lambda call, x, y: (call(x).squeeze(-1) - y).square().mean(), check_random_target, None),
        (lambda call, x, _: (call(x) - torch.randn(5, 1)).square().mean(), check_random_target, Unusual),
    ],
)
def test_pairs_and_targets(loss_of, check, light) -> None:  # noqa: ANN001
    """Behavior: a prediction (B, 1) beside targets (B,) is red, all pairs of scores yellow, drawn targets yellow."""
    captured = recorded(nn.Linear(3, 1), loss_of, torch.randn(5, 3), torch.randn(5))
    if light is None:
        check(captured)
        return
    with pytest.raises(light) as found:
        check(captured)
    assert light is type(found.value)


@pytest.mark.parametrize(
    ("made", "scores", "light"),
    [
        (functional.nll_loss, functional.log_softmax, None),
        (functional.cross_entropy, lambda x, _: x, None),
        (functional.cross_entropy, functional.log_softmax, None),
        (functional.nll_loss, functional.softmax, CheckFailed),
        (functional.cross_entropy, functional.softmax, CheckFailed),
        (functional.nll_loss, lambda x, _: x + 4, Unusual),
    ],
)
def test_probabilities_are_no_scores(made, scores, light) -> None:  # noqa: ANN001
    """Behavior: softmax's output in the place of scores or of logarithms is red; scores in nll_loss are yellow."""
    seen = recorded(
        nn.Linear(3, 4), lambda call, x, y: made(scores(call(x), 1), y), torch.randn(6, 3), torch.arange(6) % 4
    )
    if light is None:
        check_classes(seen)
        return
    with pytest.raises(light) as found:
        check_classes(seen)
    assert light is type(found.value)


def stepped(steps: int = 10, **settings: float) -> Optimizing:
    """An optimizer that took steps."""
    kind = torch.optim.Adam if settings.pop("adam", 0) else torch.optim.AdamW
    optimizer = kind([nn.Parameter(torch.ones(2))], **settings)  # ty: ignore[invalid-argument-type]
    return Optimizing(optimizer, Place("train.py", 1), steps=steps, rates=[(0.1,)] * steps, last_step=steps)


def run_of(each: Optimizing, **more: object) -> Run:
    """A run of one optimizer."""
    return Run(optimizing={id(each.optimizer): each}, steps=each.steps, **more)  # ty: ignore[invalid-argument-type]


def test_steps_within_a_declared_window_are_red() -> None:
    """Behavior: optimizer steps while accelerate accumulates."""
    each = stepped()
    check_accumulation(run_of(each))
    each.clipped = Counter(partial=6)
    with pytest.raises(CheckFailed, match="6 of 10"):
        check_accumulation(run_of(each))


def test_rates() -> None:
    """Behavior: zero for most of a run is yellow, below zero red, a warm-up's first zero nothing."""
    each = stepped()
    each.rates = [(0.0,), *[(0.1,)] * 9]
    check_rates(run_of(each))
    each.rates = [*[(0.1,)] * 5, *[(0.0,)] * 5]
    with pytest.raises(Unusual):
        check_rates(run_of(each))
    each.rates = [(-0.1,), *[(0.1,)] * 9]
    with pytest.raises(CheckFailed, match="below zero"):
        check_rates(run_of(each))


def test_a_group_whose_rate_stays_is_yellow() -> None:
    """Behavior: where another's is moved; not where both are, and not asked of one group, or one that is held at 0."""
    each = stepped()
    unasked: list[list[tuple[float, ...]]] = [
        [(0.1,), *[(0.2,)] * 9],
        [(0.1, 0.2)] * 10,
        [(0.1, 0.0), *[(0.2, 0.0)] * 9],
    ]
    for each.rates in unasked:
        with pytest.raises(NotApplicable):
            check_group_rates(run_of(each))
    each.rates = [(0.1, 0.2), *[(0.2, 0.4)] * 9]
    check_group_rates(run_of(each))
    each.rates = [(0.1, 0.2), *[(0.2, 0.2)] * 9]
    with pytest.raises(Unusual, match="of 1 of 2 groups"):
        check_group_rates(run_of(each))


def test_coupled_decay_is_yellow() -> None:
    """Behavior: Adam with weight decay, not AdamW and not Adam without."""
    check_coupled_decay(run_of(stepped(weight_decay=0.1)))
    check_coupled_decay(run_of(stepped(adam=1)))
    with pytest.raises(Unusual):
        check_coupled_decay(run_of(stepped(adam=1, weight_decay=0.1)))


def test_schedules() -> None:
    """Behavior: one stepped several times a step, and one that is never stepped, are yellow."""
    each = stepped()
    schedule = Scheduling(SimpleNamespace(), None, id(each.optimizer), calls=10, per_step=Counter({1: 9}))
    run = run_of(each, scheduling={1: schedule})
    check_schedule_steps(run)
    check_schedule_used(run)
    schedule.per_step = Counter({3: 9})
    with pytest.raises(Unusual, match="3 times"):
        check_schedule_steps(run)
    schedule.calls = 0
    with pytest.raises(Unusual, match="never stepped"):
        check_schedule_used(run)


def test_rows_in_one_order_are_yellow() -> None:
    """Behavior: two epochs alike; nothing where the second is shuffled, and not asked of one epoch."""
    rows = fingerprints(torch.arange(80)[:, None])
    passes = Passes((Place("train.py", 3),), trained=20)
    run = Run(passes={passes.chain: passes})
    passes.rows.batches = [8] * 20
    passes.rows.seen = rows
    with pytest.raises(NotApplicable):
        check_order(run)
    passes.rows.seen = rows + rows
    with pytest.raises(Unusual, match="after 80 rows"):
        check_order(run)
    passes.rows.seen = [*rows, rows[0], *rows[:0:-1]]
    check_order(run)


def test_averages_and_masks() -> None:
    """Behavior: a copy that goes most of the way to the weights, and a mask by a class that no label is, are yellow."""
    check_lag(Run(average_shares=[0.01] * 9))
    check_lag(Run(average_shares=[1.0] * 9))  # a plain copy
    with pytest.raises(Unusual, match="75%"):
        check_lag(Run(average_shares=[0.75] * 9))
    check_counted(Run(comparisons=[Comparison(None, 3, 2, 5, 40)]))
    with pytest.raises(Unusual, match="compared with 0"):
        check_counted(Run(comparisons=[Comparison(None, 0, 0, 5, 40)]))


def accumulated(between=lambda _: None, *, bound: float = 0.0) -> Optimizing:  # noqa: ANN001 - any function
    """An optimizer of three steps of two micro-batches; before each, something is done, and the gradient clipped."""
    parameter, nothing = nn.Parameter(torch.ones(3)), lambda _: None
    run, windows = Run(), SimpleNamespace(backward=nothing, before_step=nothing, after_step=nothing)
    optimizer = torch.optim.SGD([parameter])
    each = run.optimizing[id(optimizer)] = Optimizing(optimizer, None)
    steps = StepNotes(run, windows, lambda: None)  # ty: ignore[invalid-argument-type] - all that is asked of it here
    backward = BackwardNotes(run, windows)._around(Tensor.backward)  # ty: ignore[invalid-argument-type]
    for _ in range(3):
        for row in torch.randn(2, 3):
            backward((parameter * row).sum())
        between(parameter)
        if bound:
            steps.clipped([parameter], bound, nn.utils.clip_grad_norm_(parameter, bound))
        steps.before(optimizer)
        steps.after(optimizer)
        optimizer.zero_grad()
    return each


def test_sums_of_micro_batches_are_seen() -> None:
    """Behavior: the sum of two is, clipped as well; one that is divided later, or is no sum any more, is not."""
    torch.manual_seed(0)
    assert 2 == summed(accumulated())
    assert 2 == summed(accumulated(bound=0.1))
    assert 1 == summed(accumulated(lambda p: p.grad.div_(2)))
    assert 1 == summed(accumulated(lambda p: p.grad.div_(2), bound=0.1))
    assert 1 == summed(accumulated(lambda p: p.grad.add_(torch.randn(3))))


@pytest.mark.parametrize(("divisor", "unusual"), [(1, True), (2, False)])
def test_micro_batches_weigh_one_batch(divisor: int, unusual: bool) -> None:
    """Behavior: two whole means are yellow, two halves are none; nor is a step of one micro-batch."""
    torch.manual_seed(0)
    ids, labels = torch.randint(1, WORDS, (6, 7)), torch.randint(1, WORDS, (6, 7))
    captured = recorded(Bag(), lambda *given: cross_entropy(*given) * 4 / divisor, ids, labels)
    with pytest.raises(NotApplicable):
        check_division(captured)
    captured.micro_batches = 2
    if not unusual:
        check_division(captured)
        return
    with pytest.raises(Unusual, match="together they weigh 2"):
        check_division(captured)


def evaluated(draw) -> Run:  # noqa: ANN001 - any function
    """A run that evaluates three times by two passes, each on what `draw` gives."""
    model, run = nn.Linear(3, 1), Run(steps=10)
    run.optimizing[0] = stepped()
    run.optimizing[0].model = model
    windows = SimpleNamespace(call=lambda module, call, args, kwargs, **_: call(module, *args, **kwargs))
    notes = ForwardNotes(run, windows)  # ty: ignore[invalid-argument-type] - all that is asked of it here
    called = notes._around(nn.Module.__call__)
    for _ in range(3):
        with torch.no_grad():
            for _ in range(2):
                called(model.eval(), draw())
        called(model.train(), torch.ones(4, 3)).sum().backward()
    return run


def test_noise_of_an_evaluation_is_yellow() -> None:
    """Behavior: noise from the global generator, in each stretch; chosen rows, and noise of its own, are not."""
    data, own = torch.ones(9, 3), torch.Generator()
    check_random(evaluated(lambda: data[torch.randint(9, (4,))]))
    check_random(evaluated(lambda: torch.randn(4, 3, generator=own)))
    with pytest.raises(Unusual, match=r"in 3 of 3 stretches .*: randn draws them"):
        check_random(evaluated(lambda: torch.randn(4, 3)))


def test_one_cause_is_one_finding() -> None:
    """Behavior: what follows from a finding stands beneath it, over two steps as well, with what stood beneath that."""
    names = ("watch.zero_grad", "run.membership", "watch.stale", "run.order", "optimizer.membership")
    findings = [Finding(name, "", follows=("loss.scale",) if name == "optimizer.membership" else ()) for name in names]
    beneath = ("run.membership", "watch.zero_grad", "optimizer.membership", "loss.scale")
    assert [("watch.stale", beneath), ("run.order", ())] == [
        (each.check, each.follows) for each in by_cause(findings, lambda _: False)
    ]
