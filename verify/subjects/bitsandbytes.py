"""bitsandbytes' optimizers, their overrides for single parameters, and its quantizers.

Matrices are large enough for states of 8 bits, which smaller ones do not get.
"""

from collections.abc import Callable
from typing import Any

import bitsandbytes
import torch
from bitsandbytes import functional
from torch import Tensor, nn

from andon.verify.subject import Quantizer, Subject
from andon.verify.subjects import small

library: Any = bitsandbytes  # whose types change from version to version
RATE = 1e-3
# What an override may say of a parameter that shows in the states kept for it, and another value than the optimizer's.
OVERRIDES: dict[str, Any] = {"optim_bits": 8}
FLOORS = {"nf4": 18.0, "fp4": 16.0, "int8": 30.0}  # dB on normal weights


def optimizers() -> list[str]:
    """Names of the classes in `bitsandbytes.optim`."""
    found = vars(library.optim).items()
    return sorted(name for name, kind in found if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer))


def trained_by(name: str, **arguments: Any) -> Subject:
    """A small language model under an optimizer of this name; `arguments` are the optimizer's."""
    given = {"lr": RATE} | arguments
    return small.subject(name=name, optimizer=lambda model: _optimizer(name)(model.parameters(), **given))


def overridden(name: str = "Adam", **overrides: Any) -> Subject:
    """A small language model with the states of its optimizer, whose settings are overrides for all its parameters.

    As the library's documentation does: parameters are registered, the optimizer is made, and overrides follow. The
    states are those of a first step before it updates, so that releases whose kernels need a GPU answer, too.
    """

    def stated(**changes: Any) -> nn.Module:
        model = small.Model()
        parameters = list(model.parameters())
        manager = library.optim.GlobalOptimManager.get_instance()
        manager.initialize()
        manager.register_parameters(parameters)
        optimizer = _optimizer(name)(parameters, lr=RATE)
        for key, value in changes.items():
            manager.override_config(parameters, key, value)
        optimizer.check_overrides()
        for index, parameter in enumerate(parameters):
            optimizer.init_state(optimizer.param_groups[0], parameter, 0, index)
        kept = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
        model.states = nn.ParameterList([nn.Parameter(value, requires_grad=False) for value in kept])
        return model

    return small.subject(name=f"{name} with overrides", configure=stated, config_alternatives=overrides or OVERRIDES)


def quantized(kind: str = "nf4", block_size: int = 64) -> Subject:
    """A small language model with one of the library's quantizers: nf4, fp4 or int8."""
    round_trip = _blockwise(block_size) if kind == "int8" else _four_bits(kind, block_size)
    return small.subject(name=kind, quantizer=Quantizer(round_trip, FLOORS[kind], block_size=block_size))


def _four_bits(kind: str, block_size: int) -> Callable[[Tensor], Tensor]:
    def round_trip(weight: Tensor) -> Tensor:
        codes, state = functional.quantize_4bit(weight, blocksize=block_size, quant_type=kind)
        return functional.dequantize_4bit(codes, state)

    return round_trip


def _blockwise(block_size: int) -> Callable[[Tensor], Tensor]:
    def round_trip(weight: Tensor) -> Tensor:
        codes, state = functional.quantize_blockwise(weight, blocksize=block_size)
        return functional.dequantize_blockwise(codes, state).to(weight.dtype)

    return round_trip


def _optimizer(name: str) -> Any:
    return getattr(library.optim, name)
