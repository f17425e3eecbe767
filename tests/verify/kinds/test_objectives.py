"""Objectives and batches of other kinds: losses that are no plain cross-entropy, parts that names would guess wrong."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Subject
from tests.verify.kinds.asked import (
    VOCAB,
    Pair,
    Smooth,
    TornGelu,
    accusations,
    asked,
    language,
    named,
    token_loss,
    words,
)

pytestmark = pytest.mark.long
SLOPES = {"gradients.parameters", "gradients.inputs"}


class Restless(nn.Module):
    """Dropout that nobody turns off."""

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        return F.dropout(x, 0.2, training=True)


def reader(*parts: nn.Module) -> nn.Module:
    """Words, their running mean, a layer, a head."""
    return words(Smooth(), *parts, nn.Linear(20, 20), nn.Tanh())


def smoothed(model: nn.Module, batch: Pair) -> Tensor:
    """A tenth of each target is spread over all words."""
    return token_loss(model, batch, label_smoothing=0.1)


def weighed(model: nn.Module, batch: Pair) -> Tensor:
    """Rare words count more."""
    return token_loss(model, batch, weight=torch.linspace(0.5, 2.0, VOCAB))


class Comparison(NamedTuple):
    """Two answers of which the first was preferred."""

    better: Tensor
    worse: Tensor


class Judge(nn.Module):
    """A number for a row."""

    def __init__(self, *, dead: bool = False) -> None:
        super().__init__()
        self.body, self.score = reader(), nn.Linear(VOCAB, 1)
        self.unused = nn.Linear(20, 20) if dead else None

    def forward(self, ids: Tensor) -> Tensor:
        """As the class says."""
        return self.score(self.body(ids)[:, -1]).squeeze(-1)


def preferred(model: nn.Module, batch: Comparison) -> Tensor:
    """Bradley and Terry: what both scores share, such as the last bias, cancels out."""
    return -F.logsigmoid(model(batch.better) - model(batch.worse)).mean()


def comparisons(generator: torch.Generator) -> Comparison:
    """Six of them."""
    return Comparison(*torch.randint(1, VOCAB, (2, 6, 8), generator=generator))


def compared(**options: bool) -> Subject:
    """A reward model."""
    return Subject(model=lambda: Judge(**options), batch=comparisons, loss=preferred, causal=False)


def group_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """GRPO: ratios to what sampled, clipped, weighed by advantages within the group."""
    logp = model(batch["ids"])[:, :-1].log_softmax(-1).gather(-1, batch["ids"][:, 1:, None])[..., 0]
    ratio = (logp - logp.detach()).exp()
    gained = torch.minimum(ratio * batch["advantage"], ratio.clamp(0.8, 1.2) * batch["advantage"])
    return -(gained * batch["answer"]).sum() / batch["answer"].sum()


def group(generator: torch.Generator) -> dict[str, Tensor]:
    """Four answers to one question, from the fourth word on."""
    rewards = torch.rand(4, 1, generator=generator)
    ids = torch.randint(1, VOCAB, (4, 9), generator=generator)
    answer = (torch.arange(1, 9) >= 3).expand(4, -1).float()
    return {"ids": ids, "advantage": (rewards - rewards.mean()) / rewards.std(), "answer": answer}


def hidden_words(generator: torch.Generator) -> dict[str, Tensor]:
    """A masked language model's batch: a sixth of the words hidden, and to be told."""
    ids = torch.randint(2, VOCAB, (5, 12), generator=generator)
    hidden = torch.rand(ids.shape, generator=generator) < 0.16
    hidden[:, 5] = True
    return {"input_ids": ids.masked_fill(hidden, 1), "labels": ids.masked_fill(~hidden, -100)}


class Bidirectional(nn.Module):
    """Torch's encoder on words in both directions."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, activation="gelu", batch_first=True)
        self.words, self.layers = nn.Embedding(VOCAB, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.places, self.head = nn.Parameter(torch.randn(12, 16) * 0.1), nn.Linear(16, VOCAB)

    def forward(self, ids: Tensor) -> Tensor:
        """As the class says."""
        return self.head(self.layers(self.words(ids) + self.places[: ids.shape[1]]))


def told(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Of the hidden words alone, each at its place."""
    return F.cross_entropy(model(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten())


OTHERS = {
    "smoothed": lambda: language(reader, smoothed),
    "weighed": lambda: language(reader, weighed),
    "preference": compared,
    "group": lambda: Subject(model=reader, batch=group, loss=group_loss),
    "masked": lambda: Subject(model=Bidirectional, batch=hidden_words, loss=told, causal=False),
}


@pytest.mark.parametrize("subject", OTHERS.values(), ids=OTHERS)
def test_other_objectives_are_not_taken_for_plain_cross_entropy(subject: Any) -> None:
    """Behavior: smoothing, weights of classes, preferences, groups and hidden words are not accused."""
    assert [] == accusations(subject())


def test_what_any_loss_must_hold_is_asked_of_other_objectives() -> None:
    """Behavior: under smoothed labels, dropout that evaluation keeps is named."""
    assert any(name.startswith("determinism.") for name in named(language(lambda: reader(Restless()), smoothed)))


def test_a_dead_layer_beside_a_bias_that_cancels_is_found() -> None:
    """Behavior: of a reward model's parameters without a gradient, those of a layer that nothing calls are named."""
    assert named(compared(dead=True), "structure.parameters", "updates.movement")


class Forecast(nn.Module):
    """An LSTM on numbers."""

    def __init__(self, *, torn: bool = False) -> None:
        super().__init__()
        self.states, self.last = nn.LSTM(4, 9, batch_first=True), nn.Linear(9, 2)
        self.between = TornGelu() if torn else nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        return self.last(self.between(self.states(x)[0][:, -1]))


def series(generator: torch.Generator) -> dict[str, Tensor]:
    """Numbers under names that elsewhere mean words."""
    return {"inputs": torch.randn(7, 15, 4, generator=generator), "labels": torch.randn(7, 2, generator=generator)}


def forecast(**options: bool) -> Subject:
    """Mean squared error of the next values."""
    loss = lambda model, batch: F.mse_loss(model(batch["inputs"]), batch["labels"])  # noqa: E731
    return Subject(model=lambda: Forecast(**options), batch=series, loss=loss, causal=False)


def tagged(*parts: nn.Module) -> Subject:
    """A tagger whose hidden layer is wider than its vocabulary, and its output narrower."""
    model = lambda: nn.Sequential(nn.Embedding(24, 12), nn.Linear(12, 70), nn.ReLU(), *parts, nn.Linear(70, 4))  # noqa: E731

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        ids = torch.randint(24, (5, 7), generator=generator)
        return {"input_ids": ids, "labels": torch.randint(4, (5, 7), generator=generator)}

    return Subject(model=model, batch=batch, loss=told, causal=False)


class Towers(nn.Module):
    """Pictures and captions into one space, with a learned temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures = nn.Sequential(nn.Flatten(), nn.Linear(27, 24), nn.GELU(), nn.Linear(24, 10))
        self.captions = nn.Sequential(nn.EmbeddingBag(VOCAB, 24), nn.Linear(24, 10))
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        """As the class says."""
        one, other = F.normalize(self.pictures(pixel_values), dim=-1), F.normalize(self.captions(input_ids), dim=-1)
        return self.log_scale.exp() * one @ other.T


def matched(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Each picture finds its caption, and each caption its picture."""
    scores = model(**batch)
    order = torch.arange(len(scores))
    return (F.cross_entropy(scores, order) + F.cross_entropy(scores.T, order)) / 2


def captioned(generator: torch.Generator) -> dict[str, Tensor]:
    """Six of them."""
    pictures = torch.randn(6, 3, 3, 3, generator=generator)
    return {"pixel_values": pictures, "input_ids": torch.randint(VOCAB, (6, 5), generator=generator)}


GUESSED = {
    "floats under inputs": forecast,
    "a wide layer": tagged,
    "two towers": lambda: Subject(model=Towers, batch=captioned, loss=matched, causal=False),
}


@pytest.mark.parametrize("subject", GUESSED.values(), ids=GUESSED)
def test_parts_are_not_guessed_from_names_and_widths(subject: Any) -> None:
    """Behavior: floats under a name of words, a layer wider than the vocabulary and two towers are not accused."""
    assert [] == accusations(subject())


def test_faults_beside_misleading_names_are_found() -> None:
    """Behavior: a wrong slope under floats named as words, and restless dropout in a tagger, are named."""
    assert named(forecast(torn=True), "gradients") & SLOPES
    assert any(name.startswith("determinism.") for name in named(tagged(Restless()), "determinism"))


def test_one_cause_is_one_finding() -> None:
    """Behavior: dropout that evaluation keeps, and NaN weights, are named first, with at most two findings beside."""
    restless = asked(language(lambda: reader(Restless()))).findings
    assert restless[0].check.startswith("determinism.")
    assert 3 >= len(restless)

    def broken() -> nn.Module:
        model: Any = reader()
        nn.init.constant_(model[2].bias, float("nan"))
        return model

    spoiled = asked(language(broken)).findings
    assert "initialization.finite" == spoiled[0].check
    assert 3 >= len(spoiled)


def test_without_the_cause_there_is_none() -> None:
    """Behavior: dropout that evaluation turns off has no finding."""
    assert [] == accusations(language(lambda: reader(nn.Dropout(0.2))))
