"""A vocabulary that grows, tied and untied: right code passes, and each part that is forgotten is found."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from andon.verify import check
from andon.verify.run.report import RED, YELLOW
from tests.verify.checks.test_correct_training import GREEN
from tests.verify.small import VOCAB, Small, said, small

pytestmark = pytest.mark.tier2
FINDERS = ("resizing.vocabulary",)
Resize = Callable[[Any, int], nn.Module]


class Tied(Small):
    """One tensor for words in and words out, beside a bias, and settings."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(self.embed.embedding_dim, VOCAB)
        self.head.weight = self.embed.weight
        self.config = SimpleNamespace(vocab_size=VOCAB)


class Functional(nn.Module):
    """Two bare tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = (nn.Parameter(torch.randn(VOCAB, 6)) for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        return linear(torch.tanh(self.words[tokens]), self.out)


def tied(*, fill: float | None = 1.0, tie: bool = True, size: bool = True, shift: int = 0) -> Resize:
    """New modules that are filled from the old ones."""

    def resize(model: Any, words: int) -> nn.Module:
        old, bias = model.embed.weight.detach(), model.head.bias.detach()
        model.embed = nn.Embedding.from_pretrained(torch.empty(words, old.shape[1]), freeze=False)
        model.head = nn.Linear(old.shape[1], words)
        with torch.no_grad():
            if fill is not None:
                model.embed.weight.normal_(std=fill * float(old.std()))
            model.embed.weight[: len(old)] = old.roll(shift, 0)
            model.head.weight.copy_(model.embed.weight)
            model.head.bias.zero_()[: len(old)] = bias
        if tie:
            model.head.weight = model.embed.weight
        if size:
            model.config.vocab_size = words
        return model

    return resize


def bare(*names: str, made: Callable[[Tensor, int], Tensor]) -> Resize:
    """Each of these tensors is put together with new rows."""

    def resize(model: Any, words: int) -> nn.Module:
        for name in names:
            old = getattr(model, name).detach()
            setattr(model, name, nn.Parameter(torch.cat([old, made(old, words - len(old))])))
        return model

    return resize


def drawn(old: Tensor, count: int) -> Tensor:
    """As the old ones."""
    return old[:count] + 0.1 * torch.randn(count, old.shape[1])


def zero(old: Tensor, count: int) -> Tensor:
    """Nothing."""
    return old.new_zeros(count, old.shape[1])


def doubled(old: Tensor, count: int) -> Tensor:
    """In double precision, which all of them are then."""
    return drawn(old, count).double()


def unfilled(old: Tensor, count: int) -> Tensor:
    """Memory."""
    return torch.empty_like(old)[:1].expand(count, -1)


def scaled(model: Any, words: int) -> nn.Module:
    """All rows are normed again with the new ones."""
    bare("words", "out", made=drawn)(model, words)
    with torch.no_grad():
        model.words.div_(model.words.norm(dim=1, keepdim=True))
    return model


class Parted(nn.Module):
    """Old words and new ones in a tensor each."""

    def __init__(self, model: Any, words: int, learned: bool) -> None:
        super().__init__()
        self.out = nn.Parameter(torch.cat([model.out.detach(), drawn(model.out.detach(), words - VOCAB)]))
        old = model.words.detach()
        self.old = nn.Parameter(old) if learned else old
        self.new = nn.Parameter(drawn(old, words - VOCAB))
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        return self.gain * linear(torch.tanh(torch.cat([self.old, self.new])[tokens]), self.out)


class Scaled(Functional):
    """Beside them a number of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


def parted(*, learned: bool) -> Resize:
    """Into two tensors; the old one is a parameter, or is not."""
    return lambda model, words: Parted(model, words, learned)


def of_old_words(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """A loss that counts words itself."""
    return cross_entropy(model(batch["tokens"])[..., :VOCAB].flatten(0, 1), batch["labels"].flatten())


BOTH = bare("words", "out", made=drawn)
CASES: dict[str, tuple[Any, Resize, str, str]] = {
    "tied": (Tied, tied(), GREEN, "passed"),
    "tied, to more than is asked": (Tied, lambda model, words: tied()(model, -(-words // 8) * 8), GREEN, "passed"),
    "tied no more": (Tied, tied(tie=False), RED, "1 of 1 pairs that were one tensor"),
    "unfilled": (Tied, tied(fill=None), RED, "new numbers of embed.weight are not"),
    "another order": (Tied, tied(shift=1), RED, "old numbers of embed.weight are"),
    "another dtype": (Functional, bare("words", "out", made=doubled), RED, "was torch.float32 and is torch.float64"),
    "much larger": (Tied, tied(fill=50.0), YELLOW, "new rows of embed.weight have rms"),
    "old size in settings": (Tied, tied(size=False), YELLOW, "vocab_size 11"),
    "two tensors": (Functional, BOTH, GREEN, "passed"),
    "the head stays": (Functional, bare("words", made=drawn), RED, "cross-entropy of 11 words, and there are 16"),
    "the embedding stays": (Functional, bare("out", made=drawn), RED, "has 11 rows, and there are 16"),
    "new rows of zeros": (Functional, bare("words", "out", made=zero), YELLOW, "rms 0"),
    "rows of memory": (Functional, bare("words", "out", made=unfilled), RED, "not finite"),
    "in two parts": (Functional, parted(learned=True), GREEN, "keeps the names of parameters, as words"),
    "in two parts, beside a number": (Scaled, parted(learned=True), GREEN, "keeps the names of parameters, as words"),
    "in two parts, of which one is learned": (
        Functional,
        parted(learned=False),
        RED,
        "words is no parameter any more",
    ),
    "normed again": (Functional, scaled, RED, "old numbers of words are others"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_vocabulary_grows_in_all_its_parts(name: str) -> None:
    """Behavior: what grows embedding and head alike and leaves the rest passes; what forgets a part is found."""
    model, resize, outcome, message = CASES[name]
    report = check(small(model=model, resize_vocabulary=resize), only=FINDERS)
    assert (report.findings[0].light if report.findings else GREEN) == outcome, report
    assert message in said(report), report


def test_a_loss_of_old_words_is_found() -> None:
    """Behavior: a loss that leaves the new words out of its softmax is found."""
    report = check(small(model=Functional, resize_vocabulary=BOTH, loss=of_old_words), only=FINDERS)
    assert "cross-entropy of 11 words, and there are 16" in said(report), report


def test_a_model_without_it_is_not_asked() -> None:
    """Behavior: a subject that does not resize names the part that would open the check."""
    assert said(check(small(), only=FINDERS)) == "resize_vocabulary"
