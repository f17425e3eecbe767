"""Torch's functions that draw noise: numbers, and no choice of rows or of tokens."""

from collections.abc import Callable, Mapping
from typing import Any

NOISE = ("rand", "randn", "rand_like", "randn_like", "normal", "normal_", "uniform_", "bernoulli", "bernoulli_")


def noise_of(function: Callable[..., Any], named: Mapping[str, Any]) -> str:
    """The function's name, where a call draws noise from torch's global generator; empty where not."""
    name = getattr(function, "__name__", "")
    return name if name in NOISE and named.get("generator") is None else ""
