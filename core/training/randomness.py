"""The states of the random number generators that a run draws from, as a checkpoint's manifest holds them."""

import json
import random
from typing import Any, NamedTuple

import torch
from torch import Tensor

from andon.core.files.manifest import RandomStates


class Generators(NamedTuple):
    """States that each generator has accepted: of Python, of torch on the CPU, and on the run's GPU."""

    python: Any
    torch: Tensor
    cuda: Tensor | None


def random_states(device: torch.device) -> RandomStates:
    """The states as they are now."""
    return RandomStates(
        python=json.dumps(random.getstate()),
        torch=_to_hex(torch.get_rng_state()),
        cuda=_to_hex(torch.cuda.get_rng_state(device)) if device.type == "cuda" else None,
    )


def read_random(states: RandomStates, device: torch.device) -> Generators:
    """The states, each tried on a generator of its own, so that nothing global changes where one is not valid.

    Raises:
        ValueError: a state that is none.
    """
    try:
        version, words, gauss = json.loads(states.python)
        python = (version, tuple(words), gauss)
        random.Random().setstate(python)  # noqa: S311 - tries a state, draws nothing
        own = _from_hex(states.torch)
        torch.Generator().set_state(own)
        cuda = _from_hex(states.cuda) if states.cuda is not None and device.type == "cuda" else None
        if cuda is not None:
            torch.Generator(device).set_state(cuda)
    except (ValueError, TypeError, OverflowError, RecursionError, RuntimeError) as error:
        raise ValueError(f"no state of a random number generator ({str(error).splitlines()[0]:.80})") from error
    return Generators(python, own, cuda)


def restore_random(generators: Generators, device: torch.device) -> None:
    """Continue from these states."""
    random.setstate(generators.python)
    torch.set_rng_state(generators.torch)
    if generators.cuda is not None:
        torch.cuda.set_rng_state(generators.cuda, device)


def _to_hex(state: Tensor) -> str:
    return state.numpy().tobytes().hex()


def _from_hex(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
