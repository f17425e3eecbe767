"""Ready-made subjects, a library each, none imported before it is used: `subjects.huggingface.causal_lm(...)`.

They hold factories only, no checks, and call each library as its documentation does.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from andon.verify.subjects.modules import module, under_autocast

if TYPE_CHECKING:
    from andon.verify.subjects import (
        accelerate,
        bitsandbytes,
        huggingface,
        liger,
        lightning,
        litgpt,
        peft,
        torchao,
        torchtune,
        trainer,
        x_transformers,
    )

__all__ = [
    "accelerate",
    "bitsandbytes",
    "huggingface",
    "liger",
    "lightning",
    "litgpt",
    "module",
    "peft",
    "torchao",
    "torchtune",
    "trainer",
    "under_autocast",
    "x_transformers",
]


def __getattr__(name: str) -> ModuleType:
    """A library's subjects, on first use."""
    if name not in __all__:
        raise AttributeError(f"no subjects for {name!r}; there are {', '.join(__all__)}")
    return importlib.import_module(f".{name}", __name__)
