"""Noise that a model is to tell, or that is mixed with data, and numbers that it is given one of for each row.

Legend: B batch.
"""

import math
from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor

from andon.door.differences import compared_with
from andon.verify.capturing.micro_batch import Captured
from andon.verify.capturing.torch_calls import Entry

FEWEST = 64  # numbers that show how they are spread
ROWS = 4  # that are not alike by chance
ERRORS = 5  # standard ones, within which the mean and the variance of noise are
EXACT = 1e-5  # of a mixture's size, in float32
PART = 1e-3  # of one of its two parts, at least
MOST = 4  # tensors among which two are looked for
APART = 2  # at most, between two distributions, times the root of the count: Kolmogorov and Smirnov's


def noise_in(captured: Captured) -> int:
    """A number for the noise that what the model returns is compared with; 0 where there is none."""
    noise = next((each for each in compared_with(captured) if _is_noise(each)), None)
    return 0 if noise is None else hash(noise.contiguous().numpy().tobytes())


def share_of(captured: Captured) -> float | None:
    """The share of one of two constant tensors that what a model is given is mixed of, the same in all of its rows.

    They are such as the loss is made of, beside what the model returns: data and noise, of which flows tell the
    difference. None where there are none, or each row has a share of its own.
    """
    passes = [entry for entry in captured.entries if entry.module is not None]
    made = {id(each) for entry in passes for each in entry.made()}
    beside = {id(each): each for entry in captured.entries if entry.module is None for each in entry.given()}
    for given in (each for entry in passes for each in entry.given() if _is_plain(each)):
        parts = [each for key, each in beside.items() if key not in made and _is_plain(each)]
        alike = [each for each in parts if each is not given and each.shape == given.shape]
        for pair in combinations(alike[:MOST], 2):
            if (share := _share(given, *pair)) is not None:
                return share
    return None


def _is_plain(tensor: Tensor) -> bool:
    plain = tensor.is_floating_point() and not tensor.requires_grad and not tensor.is_sparse
    return plain and tensor.dim() > 1 and len(tensor) >= ROWS and tensor.numel() >= FEWEST


def _share(mixed: Tensor, one: Tensor, other: Tensor) -> float | None:
    """Of the first, where both have one, and nothing else is in it."""
    y, parts = mixed.detach().double().flatten(), torch.stack([one, other], -1).detach().double().flatten(0, -2)
    found = torch.linalg.lstsq(parts, y[:, None]).solution[:, 0]
    exact = bool((parts @ found - y).norm() <= EXACT * y.norm())
    return float(found[0]) if exact and float(found.abs().min()) > PART else None


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
