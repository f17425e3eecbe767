"""Every optimizer of the installed bitsandbytes."""

import inspect

from andon.verify.subject import Subject
from andon.verify.subjects import bitsandbytes as subjects
from andon.verify.subjects import small

PACKAGE = "bitsandbytes"
WARM = ("bitsandbytes",)
MOMENTUM = 0.9
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
    """A small language model under this optimizer, with momentum where it takes any: SGD and LARS need it."""
    takes = inspect.signature(getattr(subjects.library.optim, name)).parameters
    return subjects.trained_by(name, **({"momentum": MOMENTUM} if "momentum" in takes else {}))


def preamble(name: str) -> str:
    """The optimizer's class, in plain bitsandbytes."""
    return PREAMBLE.format(name=name, words=small.VOCABULARY)
