"""Memory: what a step makes, it lets go; and activations that are computed again give the same gradients."""

import gc
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from torch import Tensor

from andon.verify.access.calls import new_batch, new_model
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.observation.parameters import mismatch
from andon.verify.observation.recomputation import gradient, recompute
from andon.verify.observation.runs import Make, each_run
from andon.verify.observation.tolerances import rounding
from andon.verify.subject import Subject

STEPS = 6
SETTLED = 5  # measurements, of the last steps, that are compared: the first one allocates moments and caches
LARGE = 16  # elements of a tensor that is not a logged number


@each_run
def check_growth(subject: Subject, make: Make) -> None:
    """Neither the live autograd graph nor the memory that tensors hold grows from step to step.

    Silent until the memory is full, hours later; then the batch size is blamed.

    Look for sums of losses, or outputs kept for a metric, without `detach()` or `item()`; and for lists and caches of
    batches, outputs or gradients that nothing empties.

    Example:
        # wrong: the running sum keeps the graph of every step
        loss = model(**batch).loss
        loss.backward()
        self.running_loss += loss

        # right
        loss = model(**batch).loss
        loss.backward()
        self.running_loss += loss.item()

    Reference: PyTorch documentation, Frequently Asked Questions.
    """
    run = make()
    batches = [new_batch(subject, number) for number in range(STEPS)]
    with _only_what_is_new():
        alive = []
        for batch in batches:
            run.act([batch])
            gc.collect()
            alive.append((_nodes(), _bytes() - _kept(run.optimizer)))
    for what, amounts in zip(("nodes of graphs", "bytes of tensors"), zip(*alive, strict=True), strict=True):
        if all(after > before for before, after in pairwise(amounts[-SETTLED:])):
            light = CheckFailed if "graphs" in what else Unusual  # a buffer of what was seen may be meant to fill
            raise light(f"{run.name}: after each of {STEPS} steps more {what} are alive: {list(amounts)}")


@each_run
def check_detached(subject: Subject, make: Make) -> None:
    """No tensor that a training step reports still carries an autograd graph.

    Silent until the memory is full: whoever keeps such a loss keeps the graph of its forward pass.

    Look for losses that are returned as they are; return `loss.detach()` or `loss.item()`.

    Example:
        # wrong: the reported loss holds the step's graph
        def training_step(model, optimizer, batch):
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            return {"loss": loss}

        # right
        def training_step(model, optimizer, batch):
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            return {"loss": loss.detach()}

    Reference: PyTorch documentation, Frequently Asked Questions.
    """
    run = make()
    logged = run.step([new_batch(subject)]).logged
    graphs = [key for key, value in logged.items() if isinstance(value, Tensor) and value.requires_grad]
    if graphs:
        raise Unusual(
            f"{run.name} reports {len(graphs)} tensors with a graph: {', '.join(graphs)}; right where nobody keeps them"
        )


def check_recomputation(subject: Subject) -> None:
    """Activation checkpointing, which computes activations again in the backward pass, changes no gradient.

    Silent because a gradient that is lost, or that differs because other random numbers were drawn, still leaves a loss
    that falls.

    Look at inputs that need no gradient, at random states, and at what a block changes outside itself.

    Example:
        # wrong: dropout draws another mask when the layer is computed again
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False, preserve_rng_state=False)

        # right
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False)

    Reference: PyTorch documentation, torch.utils.checkpoint.
    """
    batch, plain, again = new_batch(subject), new_model(subject).train(), new_model(subject).train()
    if not recompute(again):
        raise NotApplicable("a model with gradient_checkpointing_enable() or activation_checkpointing")
    due = gradient(subject, plain, batch)
    error, name = mismatch(gradient(subject, again, batch), due)
    allowed = 10 * rounding(*due.values())
    if not error <= allowed:
        raise CheckFailed(
            f"with activations computed again the gradient of {name} differs by {error:.2g} of itself; "
            f"rounding explains {allowed:.0e}"
        )


@contextmanager
def _only_what_is_new() -> Generator[None]:
    """Python's collector lists only objects made from here on."""
    gc.collect()
    frozen = gc.get_freeze_count()
    gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()


def _tensors() -> list[Tensor]:
    return [value for value in gc.get_objects() if issubclass(type(value), Tensor)]


def _nodes() -> int:
    """How many nodes of autograd's graphs can be reached from tensors."""
    waiting = [tensor.grad_fn for tensor in _tensors() if tensor.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None and node not in seen:
                seen.add(node)
                waiting.append(node)
    return len(seen)


def _bytes() -> int:
    """How many bytes the tensors that are more than a logged number take; shared ones once."""
    large = [tensor for tensor in _tensors() if tensor.numel() > LARGE and tensor.device.type != "meta"]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in large}.values())


def _kept(optimizer: Any) -> int:
    """How many bytes an optimizer's own state takes: a history of gradients fills before it rolls."""
    waiting, found = [getattr(optimizer, "state", {})], {}
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping | list | tuple | deque):
            waiting += value.values() if isinstance(value, Mapping) else value
        elif isinstance(value, Tensor) and value.numel() > LARGE:
            found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
    return sum(found.values())


CHECKS = (
    Check("memory.detached", check_detached, tier=2),
    Check("memory.recomputation", check_recomputation, tier=2),
    Check("memory.growth", check_growth, tier=3),
)
