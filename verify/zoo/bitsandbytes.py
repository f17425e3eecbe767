"""Every optimizer of the installed bitsandbytes."""

from ..subject import Subject
from ..subjects import bitsandbytes as subjects
from ..subjects import small

PACKAGE = "bitsandbytes"
WARM = ("bitsandbytes",)
CHECKS = ("optimizer", "updates")
PREAMBLE = """\
import bitsandbytes
import torch

OPTIMIZER = bitsandbytes.optim.{name}
VOCABULARY = {words}
torch.manual_seed(0)


"""


def names() -> list[str]:
    """Those that its module `optim` exports."""
    return subjects.optimizers()


def subject(name: str) -> Subject:
    """A small language model under this optimizer."""
    return subjects.trained_by(name)


def preamble(name: str) -> str:
    """The optimizer's class, in plain bitsandbytes."""
    return PREAMBLE.format(name=name, words=small.VOCABULARY)
