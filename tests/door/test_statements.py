"""What is said of a watched run, without a process of its own."""

from collections import Counter
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from andon.door.followers import FIRST, LAST, Followers
from andon.door.places import Place
from andon.door.records import Comparison, Optimizing, Passes, Run, Scheduling
from andon.door.rows import fingerprints
from andon.door.statements.averages import check_apart, check_lag
from andon.door.statements.data import check_order
from andon.door.statements.evaluation import check_counted
from andon.door.statements.optimizers import check_coupled_decay
from andon.door.statements.rates import check_group_rates, check_rates
from andon.door.statements.schedule import check_schedule_steps, check_schedule_used
from andon.door.statements.steps import check_accumulation
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from tests.door.recorded import Light, light_of

pytestmark = pytest.mark.tier2


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
    each.kinds = Counter(partial=6)
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


@pytest.mark.parametrize("share", [0.01, 0.75])
def test_copies_are_found_in_modules_and_in_dictionaries(share: float) -> None:
    """Behavior: how far an average goes to the weights in a step, wherever the script keeps it; not what is no copy."""
    each, run = stepped(), Run()
    each.model, _other = nn.Sequential(nn.Linear(64, 3)), nn.Sequential(nn.Linear(64, 2))
    average, names = deepcopy(each.model), {name: p.detach().clone() for name, p in each.model.named_parameters()}
    followers = Followers(run)
    for each.steps in range(LAST + 1):
        followers.before_step(each)
        with torch.no_grad():
            for name, p in each.model.named_parameters():
                p.add_(torch.randn_like(p))
                average.get_parameter(name).lerp_(p, share)
                names[name].lerp_(p, share)
    assert [pytest.approx(share)] * 2 * (LAST - FIRST) == run.average_shares


@pytest.mark.parametrize(
    ("copies", "averages", "light"), [(False, True, Unusual), (True, True, None), (False, False, NotApplicable)]
)
def test_an_average_is_kept_apart(copies: bool, averages: bool, light: Light) -> None:
    """Behavior: one in the weights' own storage is yellow; not asked of a dictionary that nothing writes to."""
    each, run = stepped(), Run()
    each.model = nn.Linear(64, 3)
    shadow = {name: p.clone() if copies else p for name, p in each.model.state_dict().items()}
    followers = Followers(run)
    each.steps = 0
    for _ in range(LAST + 1):
        followers.before_step(each)
        with torch.no_grad():
            for p in each.model.parameters():
                p.add_(torch.randn_like(p))
        each.steps += 1
        followers.after_step(each)
        for name, p in each.model.state_dict().items() if averages else ():
            shadow[name].lerp_(p, 0.1)
    assert light_of(check_apart, run) is light


def test_averages_and_masks() -> None:
    """Behavior: a copy that goes most of the way to the weights, and a mask by a class that no label is, are yellow."""
    check_lag(Run(average_shares=[0.01] * 9))
    check_lag(Run(average_shares=[1.0] * 9))  # a plain copy
    with pytest.raises(Unusual, match="75%"):
        check_lag(Run(average_shares=[0.75] * 9))
    check_counted(Run(comparisons=[Comparison(None, 3, 2, 5, 40)]))
    with pytest.raises(Unusual, match="compared with 0"):
        check_counted(Run(comparisons=[Comparison(None, 0, 0, 5, 40)]))
