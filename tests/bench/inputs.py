"""Weights and tokens that are the same in every process, whatever library holds them."""

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor

from tests.bench.workload import Workload


def token_stream(workload: Workload) -> Tensor:
    """rows x length + 1 tokens: inputs are all but the last, labels all but the first."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(workload.model["vocab_size"], (workload.tokens + 1,), generator=generator)


def inputs_and_labels(workload: Workload) -> tuple[Tensor, Tensor]:
    """Tokens and the tokens that follow, (rows, length) each."""
    stream = token_stream(workload).to(workload.device)
    return stream[:-1].view(workload.rows, -1), stream[1:].view(workload.rows, -1)


def fill(parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Each weight as `drawn` has it, by Hugging Face's name."""
    with torch.no_grad():
        for name, parameter in parameters:
            parameter.copy_(drawn(name, parameter.shape))


def drawn(name: str, shape: torch.Size) -> Tensor:
    """Values that depend on nothing but the name: normal matrices, norms one, and an adapter's B zero."""
    if len(shape) == 1:
        return torch.ones(shape)
    if name.endswith("lora_B.weight"):
        return torch.zeros(shape)
    return torch.empty(shape).normal_(std=0.02, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
