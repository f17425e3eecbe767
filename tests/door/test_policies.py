"""Importance ratios of a policy that is trained on what it did."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from andon.door.places import Place
from andon.door.ratios import ratio_of
from andon.door.records import Passes, Run
from andon.door.sampling import Sample
from andon.door.statements.policies import check_ratio
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import Call, Light, light_of, recorded
from tests.door.watching import Watching

pytestmark = pytest.mark.tier2
ROLLOUTS, ROWS = 6, 32


def surrogate(*, anew: bool = False, clamps: bool = True) -> Call:
    """Of log probabilities that were kept, or that are those of now."""

    def loss_of(call: Call, x: Tensor, old: Tensor) -> Tensor:
        now = call(x).log_softmax(-1)[:, 0]
        ratio = (now - (now.detach() if anew else old)).exp()
        return -torch.min(ratio * x[:, 0], ratio.clamp(0.8, 1.2) * x[:, 0] if clamps else ratio).mean()

    return loss_of


def test_a_ratio_is_an_exponential_that_is_clamped() -> None:
    """Behavior: how far it is from 1; exactly nothing where the policy is compared with itself."""
    torch.manual_seed(0)
    given = torch.randn(8, 4), torch.full((8,), -0.5)
    assert (ratio_of(recorded(nn.Linear(4, 2), surrogate(), *given)) or 0) > 0.01
    assert ratio_of(recorded(nn.Linear(4, 2), surrogate(anew=True), *given)) == 0
    assert ratio_of(recorded(nn.Linear(4, 2), surrogate(anew=True, clamps=False), *given)) is None


def trained(epochs: int, *, acts: bool = True, reference: bool = False, values: int = 0) -> Run:
    """A policy that acts on some rows, and then is trained on them, in two micro-batches an epoch; its values, too."""
    torch.manual_seed(0)
    watching, model = Watching(), nn.Linear(6, 6)
    optimizer, value = watching.optimizer(model.parameters()), nn.Linear(6, 1)
    of_value = watching.optimizer(value.parameters())
    for _ in range(ROLLOUTS):
        rows = torch.randn(ROWS, 6)
        with torch.no_grad():
            for x in rows.split(8) if acts else ():
                watching.call(model, x)
        for x in rows.split(ROWS // 2) * epochs:
            with torch.no_grad():
                due = watching.call(model, x) if reference else 0
            watching.step(optimizer, (watching.call(model, x) - due).square().mean())
        for x in [rows] * values:
            watching.step(of_value, watching.call(value, x).square().mean())
    return watching.run


@pytest.mark.parametrize(
    ("make", "ratios", "light"),
    [
        (lambda: trained(3), (0.0, 0.0, 0.0), Unusual),
        (lambda: trained(3, reference=True), (0.0, 0.0, 0.0), Unusual),
        (lambda: trained(3), (0.0, 0.0, 0.1), None),
        (lambda: trained(3), (0.0, 0.0), NotApplicable),
        (lambda: trained(3), (None, None, None), NotApplicable),
        (lambda: trained(1), (0.0, 0.0, 0.0), NotApplicable),
        (lambda: trained(1, values=4), (0.0, 0.0, 0.0), NotApplicable),
        (lambda: trained(3, acts=False), (0.0, 0.0, 0.0), NotApplicable),
    ],
    ids=["always 1", "old ones in each step", "moves", "few", "none", "on-policy", "of values", "never acts"],
)
def test_a_ratio_follows_the_policy(make: Callable[[], Run], ratios: tuple[float | None, ...], light: Light) -> None:
    """Behavior: always 1 is yellow where rows are used again; not asked where each is trained on once, or unknown."""
    noted = make()
    policy = next(iter(noted.optimizing))
    noted.samples = [Sample(policy, step, "", ratio=ratio) for step, ratio in enumerate(ratios)]
    assert light is light_of(check_ratio, noted)


def test_a_world_in_which_states_come_again_is_on_policy() -> None:
    """Behavior: a row that is acted on as often as it is trained on is not used again."""
    acted, learned = Passes((Place("train.py", 1),)), Passes((Place("train.py", 2),), trained=40)
    for step in range(40):
        learned.rows.note((torch.arange(8.0)[:, None],), step, step)
        if step % 2 == 0:
            acted.rows.note((torch.arange(8.0).repeat(2)[:, None],), step, step)
            acted.moments.note(step)
    run = Run(passes={each.chain: each for each in (acted, learned)})
    run.samples = [Sample(1, step, "", ratio=0.0) for step in range(4)]
    assert NotApplicable is light_of(check_ratio, run)
