"""Ways of released libraries that are right: each is accused of nothing, and the fault beside it is still found."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Subject
from tests.verify.kinds.asked import VOCAB, Pair, TornGelu, accusations, asked, language, named

pytestmark = pytest.mark.tier2
ROWS, LENGTH, TAGS = 6, 13, 5


# --------------------------------------------------------------------- a critic frozen within no_grad, and given back
class Held(nn.Module):
    """A critic that is not to learn from the advantages that are computed with it."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(4, 8), activation(), nn.Linear(8, 3))
        self.critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def held_loss(model: Any, batch: Pair) -> Tensor:
    """An actor's loss, of advantages that are held, and the critic's own."""
    states, returns = batch
    with torch.no_grad():
        model.critic.requires_grad_(False)
        advantages = returns - model.critic(states)[:, 0]
        model.critic.requires_grad_(True)
    chosen = model.actor(states).log_softmax(-1)[:, 0]
    return F.mse_loss(model.critic(states)[:, 0], returns) - (chosen * advantages).mean()


def played(generator: torch.Generator) -> Pair:
    """States and returns."""
    return torch.randn(12, 4, generator=generator), torch.randn(12, generator=generator)


@pytest.mark.parametrize(("activation", "light"), [(nn.Tanh, "yellow"), (TornGelu, "red")])
def test_parameters_frozen_for_a_moment_are_not_put_back(activation: type[nn.Module], light: str) -> None:
    """Behavior: `requires_grad_` within no_grad computes nothing, and holds no parameter at its first value."""
    subject = Subject(model=lambda: Held(activation), batch=played, loss=held_loss, causal=False)
    assert [light] == [each.light for each in asked(subject, "gradients.parameters").findings]


# --------------------------------------------------------------------------------------------- a part of it in float32
@pytest.mark.parametrize(
    "told_in_all", [lambda told: 50 * told, lambda told: told.float() + 100], ids=["labels", "sum"]
)
@pytest.mark.parametrize("activation", [nn.Tanh, TornGelu])
def test_a_part_of_a_loss_in_float32_rounds_all_of_it(activation: type[nn.Module], told_in_all: Any) -> None:
    """Behavior: what float32 labels or sums round is no wrong gradient; a backward that is really wrong is."""
    model = lambda: nn.Sequential(nn.Linear(4, 8), activation(), nn.Linear(8, 1))  # noqa: E731

    def loss(model: nn.Module, batch: Pair) -> Tensor:
        scores = model(batch[0])[:, 0]
        told = F.binary_cross_entropy_with_logits(scores, (batch[1] > 0).float())
        return scores.square().mean() + told_in_all(told)

    found = named(Subject(model=model, batch=played, loss=loss, causal=False), "gradients.parameters")
    assert found == (set() if activation is nn.Tanh else {"gradients.parameters"})


# ------------------------------------------------------------------------------------- a backward in train mode alone
def refusing() -> nn.Module:
    """A layer whose hooks, as those that keep each row's gradient, refuse a backward pass in eval mode."""
    layer = nn.Linear(4, TAGS)

    def keep(module: nn.Module, _: Any, __: Any) -> None:
        if not module.training:
            raise ValueError("no activations, run forward first")

    layer.register_full_backward_hook(keep)
    return nn.Sequential(layer)


def test_a_model_whose_hooks_refuse_a_backward_pass_in_eval_mode_is_checked() -> None:
    """Behavior: a pass of ours that hooks refuse is no mistake of the subject's, and other checks apply."""
    subject = Subject(
        model=refusing,
        batch=lambda generator: (played(generator)[0], torch.randint(TAGS, (12,), generator=generator)),
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        causal=False,
    )
    assert accusations(subject) == []


# ------------------------------------------------------------------------------------------------ rows that end early
class Tagger(nn.Module):
    """A recurrence both ways over rows of several lengths, which no mask in the batch marks."""

    def __init__(self, deaf: int) -> None:
        super().__init__()
        self.words, self.deaf = nn.Embedding(VOCAB, 12), deaf
        self.ahead, self.back = (nn.GRU(12, 8, batch_first=True) for _ in range(2))
        self.tags = nn.Linear(16, TAGS)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B, T, tags)."""
        real = (torch.arange(ids.shape[1]) < lengths[:, None])[..., None]
        x = self.words(ids) * real
        x = x * (torch.arange(ids.shape[1]) != self.deaf)[:, None]
        return self.tags(torch.cat([self.ahead(x)[0], self.back(x.flip(1))[0].flip(1)], -1) * real)


def tagged(generator: torch.Generator) -> dict[str, Tensor]:
    """Words, lengths, and tags to the rows' ends."""
    ids = torch.randint(1, VOCAB, (ROWS, LENGTH), generator=generator)
    lengths = torch.randint(4, LENGTH - 1, (ROWS,), generator=generator)
    return {
        "ids": ids,
        "lengths": lengths,
        "tags": (ids % TAGS).masked_fill(torch.arange(LENGTH) >= lengths[:, None], -100),
    }


@pytest.mark.parametrize(("deaf", "found"), [(-1, set()), (2, {"attention.influence"})])
def test_where_nothing_moves_and_nothing_counts_a_row_has_ended(deaf: int, found: set[str]) -> None:
    """Behavior: tokens behind a row's end are not asked for an influence; one that is lost within the row is found."""
    subject = Subject(
        model=lambda: Tagger(deaf),
        batch=tagged,
        loss=lambda model, given: F.cross_entropy(model(given["ids"], given["lengths"]).mT, given["tags"]),
        causal=False,
    )
    assert named(subject, "attention.influence") == found


# ------------------------------------------------------------------------------------------- blocks, first and hidden
class Block(nn.Module):
    """Attention among real tokens, with the distance in its scores."""

    def __init__(self, normed: bool, bent: bool, causal: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16) if normed else nn.Identity()
        self.query, self.mix = nn.Linear(16, 16), nn.Linear(16, 16, bias=False)
        self.bent, self.causal = bent, causal

    def forward(self, x: Tensor, places: Tensor, hidden: Tensor) -> Tensor:
        """(B, T, D) to the same."""
        x = self.norm(x)
        apart = (places[:, None] - places).abs() + (places[:, None] * places * 0.05 if self.bent else 0)
        scores = self.query(x) @ self.query(x).mT - 0.3 * apart
        if self.causal:
            scores = scores.masked_fill(places[:, None] < places, float("-inf"))
        return x + torch.tanh(scores.masked_fill(hidden[:, None], float("-inf")).softmax(-1) @ self.mix(x))


class Blocks(nn.Module):
    """Some blocks; states are small, as freshly drawn tables are."""

    def __init__(self, normed: tuple[bool, ...], bent: bool = False, causal: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 16)
        nn.init.normal_(self.embed.weight, std=0.003)
        self.blocks = nn.ModuleList(Block(each, bent, causal) for each in normed)
        self.head = nn.Linear(16, VOCAB, bias=False)

    def forward(self, ids: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Logits (B, T, V)."""
        x, places = self.embed(ids), torch.arange(ids.shape[1]).float()
        for block in self.blocks:
            x = block(x, places, torch.zeros_like(ids, dtype=torch.bool) if hidden is None else hidden)
        return self.head(x)


@pytest.mark.parametrize(("normed", "found"), [((True, False, False), set()), ((True,) * 3, {"structure.residual"})])
def test_a_first_block_may_norm_what_is_embedded(normed: tuple[bool, ...], found: set[str]) -> None:
    """Behavior: the first block alone may add to what its norm left; where all do, depth is lost."""
    assert named(language(lambda: Blocks(normed)), "structure.residual") == found


def padded_words(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Words of which some are to be told, and what hides the end of each row; a tuple names none of them."""
    ids = torch.randint(1, VOCAB, (ROWS, LENGTH), generator=generator)
    hidden = torch.arange(LENGTH) >= torch.tensor([10, 13, 9, 11, 13, 8])[:, None]
    return ids, hidden, ids.masked_fill(hidden | (torch.rand(ids.shape, generator=generator) < 0.5), -100)


def told(model: Callable[..., Tensor], batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The cross-entropy of these."""
    return F.cross_entropy(model(*batch[:2]).mT, batch[2])


@pytest.mark.parametrize(("bent", "found"), [(False, set()), (True, {"positions.shift"})])
def test_a_block_that_is_given_what_hides_positions_is_not_shifted_onto_them(bent: bool, found: set[str]) -> None:
    """Behavior: hidden positions are no other distances; scores that depend on places themselves are found."""
    batch = padded_words if not bent else whole_words
    subject = Subject(model=lambda: Blocks((False, False), bent, causal=False), batch=batch, loss=told, causal=False)
    assert named(subject, "positions.shift") == found


def whole_words(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The same, without an end that is hidden."""
    ids, hidden, labels = padded_words(generator)
    return ids, torch.zeros_like(hidden), labels
