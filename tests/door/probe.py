"""`python probe.py OUT train.py ...` or `OUT -m package.train ...`: runs a program and notes what it does.

Noted at each optimizer step: the sums of the parameters' and gradients' norms, the rates, whether the modules that were
called are in training mode, and how many tensors with a graph are alive; and of each saved file the sum of all tensors.
At the end, a hash of all that optimizers hold.
Needs torch alone, so that any environment can run it.
"""

import gc
import hashlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

COUNTED = 12  # steps at which tensors are counted: that takes a walk over all objects
KEPT = 400  # steps that are noted

trace: list[list[object]] = []
saved: list[float] = []
optimizers: list[torch.optim.Optimizer] = []  # that took a step
training: set[bool] = set()


def after(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Note a step."""
    if not any(optimizer is each for each in optimizers):
        optimizers.append(optimizer)
    if len(trace) >= KEPT:
        return
    held = [p for group in optimizer.param_groups for p in group["params"]]
    norm = sum(p.detach().double().norm().item() for p in held)
    grad = sum(p.grad.double().norm().item() for p in held if p.grad is not None)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    graphs = sum(type(each) is torch.Tensor and each.grad_fn is not None for each in gc.get_objects())
    trace.append([norm, grad, rates, sorted(training), graphs if len(trace) < COUNTED else 0])
    training.clear()


def called(module: torch.nn.Module, *_: object) -> None:
    """Note in which mode a module was called."""
    training.add(module.training)


def total(held: object) -> float:
    """The sum of all tensors in nested containers."""
    if isinstance(held, torch.Tensor):
        return held.double().sum().item() if not held.is_complex() else 0.0
    inner = held.values() if isinstance(held, dict) else held if isinstance(held, list | tuple) else ()
    return sum(map(total, inner))


def save(held: object, *arguments: Any, **options: Any) -> None:
    """Note what is saved, and save it."""
    saved.append(total(held))
    kept_save(held, *arguments, **options)


def weights() -> str:
    """A hash of all parameters of all optimizers, to the bit."""
    found = hashlib.sha256()
    for p in (p for each in optimizers for group in each.param_groups for p in group["params"]):
        found.update(p.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def main(out: str, words: list[str]) -> None:
    """Run the program with its own arguments."""
    register_optimizer_step_post_hook(after)
    torch.nn.modules.module.register_module_forward_pre_hook(called)
    torch.save = save  # ty: ignore[invalid-assignment]
    sys.path.insert(0, str(Path.cwd()))
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    finally:
        Path(out).write_text(json.dumps({"trace": trace, "saved": saved, "weights": weights()}), encoding="utf-8")


if __name__ == "__main__":
    kept_save = torch.save
    main(sys.argv[1], sys.argv[2:])
