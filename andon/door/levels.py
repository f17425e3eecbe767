"""Noise that a model is to tell, and numbers that it is given one of for each row: a diffusion's step, or level.

Legend: B batch.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from andon.door.differences import compared_with
from andon.verify.capturing.micro_batch import Captured
from andon.verify.capturing.torch_calls import Entry

FEWEST = 64  # numbers that show how they are spread
ROWS = 4  # that are not alike by chance
ERRORS = 5  # standard ones, within which the mean and the variance of noise are
APART = 2  # at most, between two distributions, times the root of the count: Kolmogorov and Smirnov's


def noise_in(captured: Captured) -> int:
    """A number for the noise that what the model returns is compared with; 0 where there is none."""
    noise = next((each for each in compared_with(captured) if _is_noise(each)), None)
    return 0 if noise is None else hash(noise.contiguous().numpy().tobytes())


def levels_of(captured: Captured) -> dict[str, float | None]:
    """What models are given one number a row of: the number where all rows have one, None where they differ."""
    names = {id(part): name for name, part in captured.parts.items()}
    found: dict[str, float | None] = {}
    for entry in (each for each in captured.entries if each.module is not None):
        for place, level in levels_given(entry):
            flat = level.detach().reshape(-1)
            alike = bool((flat == flat[0]).all())
            found[names.get(id(level), f"argument {place + 1}")] = float(flat[0]) if alike else None
    return found


def levels_given(entry: Entry) -> Iterator[tuple[int, Tensor]]:
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
