"""Losses that cannot change, targets in another order, and attention that nothing scales, in a captured micro-batch."""

import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.door.questions.attention import check_scale
from andon.door.questions.constant import check_cancels, check_constant
from andon.door.questions.targets import check_axes, check_own_target
from andon.verify.capturing.micro_batch import Captured, capture
from andon.verify.capturing.torch_calls import Recorder
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from tests.door.recorded import WORDS, Call, Light, light_of, recorded

pytestmark = pytest.mark.tier2


def preferred(*, itself: bool) -> Captured:
    """A loss of preferences, beside a reference that is a copy, or the policy itself."""
    torch.manual_seed(0)
    policy = nn.Linear(6, 1)
    reference = policy if itself else deepcopy(policy)
    recorder = Recorder()
    recorder.before |= {id(each): each for each in (policy, reference)}

    def call(model: nn.Module, x: Tensor) -> Tensor:
        return recorder.call(model, nn.Module.__call__, (x,), {})

    with recorder:
        one, other = torch.randn(5, 6), torch.randn(5, 6)
        margin = call(policy, one) - call(policy, other)
        with torch.no_grad():
            due = call(reference, one) - call(reference, other)
        loss = -functional.logsigmoid(margin - due).mean()
    return capture(recorder, loss, None)


@pytest.mark.parametrize(("itself", "light"), [(False, None), (True, CheckFailed)])
def test_a_loss_against_itself_is_red(itself: bool, light: Light) -> None:
    """Behavior: a reference that is the policy makes the loss one number; a copy of it does not."""
    assert light is light_of(check_constant, preferred(itself=itself))


def ratio(call: Call, x: Tensor, y: Tensor, *, cuts: bool = True) -> Tensor:
    """A policy's surrogate, beside its own old log probabilities, as in its first update."""
    new = call(x).log_softmax(-1)
    return -((new - (new.detach() if cuts else new)).exp().sum(-1) * y).mean()


@pytest.mark.parametrize(
    ("cuts", "constant", "cancels"), [(True, NotApplicable, NotApplicable), (False, NotApplicable, CheckFailed)]
)
def test_a_policy_beside_itself(cuts: bool, constant: Light, cancels: Light) -> None:
    """Behavior: a ratio of 1 has a gradient that is meant; where both sides are learned from there is none: red."""
    captured = recorded(nn.Linear(6, 4), lambda *given: ratio(*given, cuts=cuts), torch.randn(5, 6), torch.randn(5))
    assert (constant, cancels) == (light_of(check_constant, captured), light_of(check_cancels, captured))


@pytest.mark.parametrize(
    ("loss", "light"),
    [
        (lambda call, x, _: functional.mse_loss(call(x), call(x).detach()), CheckFailed),
        (lambda call, x, _: (call(x) - call(x).detach() + 2).mean(), CheckFailed),
        (lambda call, x, _: ((call(x) - call(x).detach()) * x[:, :4]).mean(), None),
        (lambda call, x, y: (call(x) * torch.zeros_like(y)[:, None]).mean(), None),
        (lambda call, x, _: (call(x).square() - 1e9).relu().mean(), None),
        (lambda call, x, y: functional.mse_loss(1e-6 * call(x)[:, 0], 1e-6 * y), None),
        (lambda call, x, y: functional.mse_loss(call(x)[:, 0], 1e6 + y), None),
        (lambda call, x, y: functional.mse_loss(call(x)[:, 0].bfloat16(), 1e3 + y.bfloat16()), Unusual),
        (lambda call, x, _: -functional.cosine_similarity(call(x), call(x).detach()).mean(), CheckFailed),
    ],
    ids=[
        "itself",
        "less itself",
        "surrogate",
        "no rewards",
        "kept margin",
        "small units",
        "large",
        "half",
        "directions",
    ],
)
def test_a_loss_that_stays_is_red_where_it_is_compared_with_itself(loss: Call, light: Light) -> None:
    """Behavior: zero by a margin, by rewards that are alike, or a number of small units, is nothing."""
    captured = recorded(nn.Linear(6, 4), loss, torch.randn(5, 6), torch.randn(5))
    assert light is light_of(check_constant, captured)


@pytest.mark.parametrize(
    ("loss", "light"),
    [
        (lambda call, x, y: (call(x)[y > 9] - call(x)[y < 9]).square().sum() + call(x).mean(), NotApplicable),
        (lambda call, x, _: (call(x) - call(x)).square().mean() + call(x).mean(), None),
    ],
    ids=["no pair", "two dropouts"],
)
def test_a_difference_may_be_of_nothing_or_of_dropout(loss: Call, light: Light) -> None:
    """Behavior: a batch without pairs is not asked; a difference that dropout makes is one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5))
    y = torch.full((5,), 0.0) if light is None else torch.full((5,), 9.0)
    assert light is light_of(check_cancels, recorded(model, loss, torch.randn(5, 6), y))


@pytest.mark.parametrize(
    ("rows", "loss", "light"),
    [
        (5, lambda y: (y - y.clone()).square().mean(), CheckFailed),
        (1, lambda y: (y - y.mean(0)).square().mean(), Unusual),
        (5, lambda y: ((y - 9).relu() - (y.flip(0) - 9).relu()).square().mean(), None),
    ],
    ids=["itself", "a row less the mean", "both at rest"],
)
def test_a_difference_that_is_zero_is_of_sides_that_change(rows: int, loss: Call, light: Light) -> None:
    """Behavior: red where they do; one row less the mean of all is yellow, and two units that are both off nothing."""
    captured = recorded(nn.Linear(6, 4), lambda call, x: loss(call(x)) + call(x).mean(), torch.randn(rows, 6))
    assert light is light_of(check_cancels, captured)


def test_a_difference_of_two_outputs_is_none_of_one() -> None:
    """Behavior: scores of two inputs, both learned from, differ."""
    check_cancels(recorded(nn.Linear(6, 1), lambda call, x, y: (call(x) - call(y)).mean(), *torch.randn(2, 5, 6)))


class Recurrent(nn.Module):
    """Logits (T * B, V) of token ids (T, B)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(WORDS, 8), nn.GRU(8, 8), nn.Linear(8, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        """(T, B) to (T * B, V)."""
        return self.head(self.rnn(self.embed(ids))[0]).flatten(0, 1)


@pytest.mark.parametrize(
    ("flattened", "light"),
    [
        (lambda y: y.flatten(), None),
        (lambda y: y.t().flatten(), CheckFailed),
        (lambda y: (y * 7 + 3).flatten() % WORDS, NotApplicable),
    ],
    ids=["in order", "exchanged", "others"],
)
def test_targets_are_in_the_order_of_their_logits(flattened: Call, light: Light) -> None:
    """Behavior: a stream (T, B) whose next tokens are flattened the other way around is red; others are not asked."""
    torch.manual_seed(0)
    stream = torch.randint(WORDS, (13, 5))
    captured = recorded(
        Recurrent(), lambda call, x, y: functional.cross_entropy(call(x), y), stream[:-1], flattened(stream[1:])
    )
    assert light is light_of(check_axes, captured)


class Ahead(Recurrent):
    """The same, read from both sides, or not."""

    def __init__(self, *, both: bool) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(8, 8, bidirectional=both), nn.Linear(8 * (1 + both), WORDS)


@pytest.mark.parametrize(
    ("both", "ahead", "light"), [(False, 1, None), (False, 0, CheckFailed), (True, 0, None)], ids=range(3)
)
def test_a_stream_that_is_its_own_target_is_red(both: bool, ahead: int, light: Light) -> None:
    """Behavior: logits (T * B, V) of a stream (T, B) that predict the same token are red; of one read both ways not."""
    torch.manual_seed(0)
    stream = torch.randint(WORDS, (13, 5))
    captured = recorded(
        Ahead(both=both), lambda call, x, y: functional.cross_entropy(call(x), y), stream[:12],
        stream[ahead:][:12].flatten(),
    )  # fmt: skip
    assert light is light_of(check_own_target, captured)


class Attends(nn.Module):
    """One head, scaled where it is told."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.qkv = kind, nn.Linear(16, 48)
        if "smaller weights" in kind:  # T5's way
            self.qkv.weight.data[:16] /= 4
            self.qkv.bias.data[:16] /= 4

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H) to the same."""
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.kind == "library, smaller weights":
            return functional.scaled_dot_product_attention(q, k, v, scale=1.0)
        if self.kind == "library":
            return functional.scaled_dot_product_attention(q, k, v)
        if self.kind == "library, bare":
            return functional.scaled_dot_product_attention(q, k, v, scale=1.0)
        q = (
            q / math.sqrt(16)
            if self.kind == "queries"
            else functional.normalize(q, dim=-1)
            if "unit" in self.kind
            else q
        )
        scores = q @ k.transpose(-1, -2)
        scores = scores * 0.25 if self.kind == "scores" else scores
        scores = scores + torch.full(scores.shape[-2:], -1e9).triu(1)
        return scores.softmax(-1) @ v


@pytest.mark.parametrize(
    ("kind", "light"),
    [
        ("scores", None),
        ("queries", None),
        ("unit queries", None),
        ("smaller weights", None),
        ("library, smaller weights", None),
        ("library", None),
        ("bare", Unusual),
        ("library, bare", Unusual),
    ],
)
def test_scores_of_attention_are_scaled(kind: str, light: Light) -> None:
    """Behavior: a factor, queries of one length, or smaller ones, pass; nothing at all is yellow."""
    torch.manual_seed(0)
    captured = recorded(Attends(kind), lambda call, x: call(x).square().mean(), torch.randn(3, 5, 16))
    assert light is light_of(check_scale, captured)


def test_no_attention_is_not_asked() -> None:
    """Behavior: a layer has no queries."""
    with pytest.raises(NotApplicable):
        check_scale(recorded(nn.Linear(16, 16), lambda call, x: call(x).square().mean(), torch.randn(3, 16)))
