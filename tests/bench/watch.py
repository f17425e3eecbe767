"""`python -m tests.bench.watch`: what `verify.watch` adds to a training step, as a share of one that takes 100 ms.

Times the hooks around an optimizer that does nothing, on the tensors of the 124m shape with gradients, and leaves
reports/evidence/watch.json. Exit code: 0 below the share
in configs/gates.toml, 1 above.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from andon.core.config import load_config
from andon.core.model.llama import build_model
from andon.gates.config import load_gates
from andon.gates.evidence import Evidence, Metric, digests, write_evidence
from andon.gates.judge import judge
from andon.gates.report.render import render_text
from andon.verify.watcher import watch

STEP_SECONDS = 0.1
STEPS = 200


class Still(Optimizer):
    """Takes no step."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.0})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # ty: ignore[incompatible-method-override]
        """Nothing, so that only hooks take time."""


def seconds_a_step(optimizer: Optimizer, probe: Tensor, gradient: Tensor) -> float:
    """The median, with a gradient arriving at the probe each step."""
    times = []
    for _ in range(STEPS):
        begun = time.perf_counter()
        for hook in (probe._backward_hooks or {}).values():  # as backward would
            hook(gradient)
        optimizer.step()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def main() -> None:
    """Measure, print, leave evidence."""
    begun, sources = time.monotonic(), digests(["verify/watcher.py", "tests/bench/watch.py"])
    model = build_model(load_config(Path("configs/124m.toml")).model, 0)
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e-3)
    optimizer = Still(list(model.parameters()))
    with watch(model, optimizer, raises=False) as watching:
        assert watching.fresh.probe
        probe = watching.fresh.probe[1]
        watched = seconds_a_step(optimizer, probe, torch.randn_like(probe))
    share = (watched - seconds_a_step(optimizer, probe, probe)) / STEP_SECONDS
    click.echo(f"verify.watch adds {share * STEP_SECONDS * 1e3:.2f} ms: {share:.2%} of a step of 100 ms")
    metrics = {"share_of_step": Metric(share, "share")}
    command = "python -m tests.bench.watch"
    write_evidence(Evidence("watch", command, time.monotonic() - begun, sources, metrics))
    verdict = judge("watch", load_gates())
    click.echo(render_text(verdict), nl=False)
    sys.exit(verdict.exit_code)


if __name__ == "__main__":
    main()
