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
    """Weights that depend on nothing but Hugging Face's name of each: normal matrices, norms one."""
    with torch.no_grad():
        for name, parameter in parameters:
            if parameter.dim() == 1:
                parameter.fill_(1)
            else:
                generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
                parameter.copy_(torch.empty(parameter.shape).normal_(std=0.02, generator=generator))


def fill_adapter(factors: Iterable[tuple[str, Tensor]]) -> None:
    """A that depends on nothing but our name of it, B zero: both libraries then start from one adapter."""
    with torch.no_grad():
        for name, factor in factors:
            if name.endswith("lora_B.weight"):
                factor.zero_()
            else:
                generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
                factor.copy_(torch.empty(factor.shape).normal_(std=0.02, generator=generator))
