"""The zoo of `stub_library`, as anybody may write one of a library of their own."""

import time

import torch
from torch import nn

from andon.verify.subject import Subject
from tests.verify.stub_library import MODELS, WORDS

PACKAGE = "torch"
CHECKS = ("attention", "loss.definition", "determinism")
SLOW = 60.0
PREAMBLE = """\
import torch

from tests.verify.stub_library import MODELS, WORDS

torch.manual_seed(0)
VOCABULARY = WORDS


def build():
    return MODELS[{name!r}]().eval()


def logits(model, tokens):
    with torch.no_grad():
        return model(tokens)


def unused(model):
    raise AssertionError


"""


def names() -> list[str]:
    """All, and one that takes too long."""
    return [*MODELS, "slow"]


def subject(name: str) -> Subject:
    """A model of the library."""
    if name == "slow":
        time.sleep(SLOW)
    MODELS[name]()
    return Subject(
        name=name,
        model=MODELS[name],
        batch=lambda generator: {"tokens": torch.randint(1, WORDS, (3, 12), generator=generator)},
        loss=lambda model, batch: nn.functional.cross_entropy(
            model(batch["tokens"])[:, :-1].flatten(0, 1), batch["tokens"][:, 1:].flatten()
        ),
    )


def preamble(name: str) -> str:
    """How a script builds it."""
    return PREAMBLE.format(name=name)
