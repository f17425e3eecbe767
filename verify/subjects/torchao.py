"""torchao's NF4 and its optimizers with states of 8 and 4 bits."""

import importlib
from dataclasses import replace
from typing import Any

from torch import Tensor

from andon.verify.subject import Quantizer, Subject
from andon.verify.subjects import small

HOMES = ("torchao.optim", "torchao.prototype.low_bit_optim")  # newest first
BLOCK, SCALER_BLOCK = 64, 256


def quantized() -> Subject:
    """A small language model with the library's NF4."""
    nf4: Any = importlib.import_module("torchao.dtypes.nf4tensor")

    def round_trip(weight: Tensor) -> Tensor:
        count = weight.numel() // BLOCK  # blocks, whose scales are quantized in blocks, too
        scaler = next(size for size in (SCALER_BLOCK, 64, 16, 4, 2, 1) if count % size == 0)
        return nf4.to_nf4(weight, block_size=BLOCK, scaler_block_size=scaler).get_original_weight()

    return replace(small.subject(name="torchao nf4"), quantizer=Quantizer(round_trip, block_size=BLOCK))


def trained_by(name: str = "AdamW8bit", **arguments: Any) -> Subject:
    """A small language model under an optimizer of this name."""
    kind = getattr(_optimizers(), name)
    given = {"lr": 1e-3} | arguments
    return replace(small.subject(name=f"torchao {name}"), optimizer=lambda model: kind(model.parameters(), **given))


def _optimizers() -> Any:
    for home in HOMES:
        try:
            return importlib.import_module(home)
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(f"torchao has none of {', '.join(HOMES)}", name="torchao")
