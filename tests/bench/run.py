"""What an implementation offers the bench: a model, its optimizer, and an endless iterator of training steps."""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tests.bench.workload import Workload

PHASES = ("forward", "backward", "clip", "optimizer")


class Step(NamedTuple):
    """A training step: its loss before the update, and seconds by phase."""

    loss: float
    seconds: dict[str, float]


class Run(NamedTuple):
    """A model in training; each `next(steps)` is one whole step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    steps: Iterator[Step]


def adamw(model: nn.Module, workload: Workload) -> torch.optim.AdamW:
    """The fused optimizer that every implementation gets."""
    return torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=workload.learning_rate,
        betas=(workload.beta1, workload.beta2),
        eps=workload.eps,
        weight_decay=workload.weight_decay,
        fused=True,
    )


def plain_steps(model: nn.Module, forward: Callable[[], Tensor], workload: Workload) -> Run:
    """The loop that libraries without one of their own are measured in: what their documentation shows."""
    model.train()
    optimizer = adamw(model, workload)

    def now() -> float:
        if workload.device == "cuda":
            torch.cuda.synchronize()  # the phase's own work, not its launch; ours has events for that
        return time.perf_counter()

    def steps() -> Iterator[Step]:
        while True:
            clock = [now()]
            with torch.autocast(workload.device, torch.bfloat16, enabled=workload.dtype == "bfloat16"):
                loss = forward()
            clock.append(now())
            loss.backward()
            clock.append(now())
            nn.utils.clip_grad_norm_(model.parameters(), workload.clip)
            clock.append(now())
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            clock.append(now())
            spent = [end - start for start, end in pairwise(clock)]
            yield Step(loss.item(), dict(zip(PHASES, spent, strict=True)))

    return Run(model, optimizer, steps())
