"""Noise that a model is to tell, and numbers that it is given one of for each row: a diffusion's step, or level.

Legend: B batch.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from andon.door.questions.constant import COMPARES
from andon.verify.capturing.micro_batch import Captured
from andon.verify.capturing.torch_calls import Entry

FEWEST = 64  # numbers that show how they are spread
ROWS = 4  # that are not alike by chance
ERRORS = 5  # standard ones, within which the mean and the variance of noise are
APART = 2  # at most, between two distributions, times the root of the count: Kolmogorov and Smirnov's


def noise_in(captured: Captured) -> int:
    """A number for the noise that what the model returns is compared with; 0 where there is none."""
    made: set[int] = set()
    for entry in captured.entries:
        if entry.module is None and entry.name in COMPARES and any(id(each) in made for each in entry.given()):
            noise = [each for each in entry.given() if not each.requires_grad and _is_noise(each)]
            if noise:
                return hash(noise[0].contiguous().numpy().tobytes())
        if entry.module is not None or any(id(each) in made for each in entry.given()):
            made |= {id(each) for each in entry.made() if each.requires_grad}
    return 0


def levels_of(captured: Captured) -> dict[str, float | None]:
    """What models are given one number a row of: the number where all rows have one, None where they differ."""
    names = {id(part): name for name, part in captured.parts.items()}
    found: dict[str, float | None] = {}
    for entry in (each for each in captured.entries if each.module is not None):
        for place, level in _levels(entry):
            flat = level.detach().reshape(-1)
            alike = bool((flat == flat[0]).all())
            found[names.get(id(level), f"argument {place + 1}")] = float(flat[0]) if alike else None
    return found


def _levels(entry: Entry) -> Iterator[tuple[int, Tensor]]:
    """Arguments (B,) or (B, 1) beside one of more numbers a row."""
    given = entry.given()
    rows = max((len(each) for each in given if each.dim() > 1 and each.numel() > len(each)), default=0)
    for place, each in enumerate(given):
        if rows >= ROWS and each.shape in ((rows,), (rows, 1)) and each.dtype != torch.bool:
            yield place, each


def _is_noise(tensor: Tensor) -> bool:
    """Whether numbers are spread as standard normal ones are, within what their count allows."""
    if tensor.dtype != torch.float32 or tensor.numel() < FEWEST or tensor.is_sparse:
        return False
    x = tensor.detach().double().flatten().sort().values
    error = 1 / math.sqrt(len(x))
    apart = (torch.special.ndtr(x) - (torch.arange(len(x)) + 0.5) / len(x)).abs().max()
    near = abs(float(x.mean())) < ERRORS * error and abs(float(x.var()) - 1) < ERRORS * math.sqrt(2) * error
    return near and float(apart) < APART * error
