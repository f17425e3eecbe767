"""What a training step ought to do: the gradient and loss of its batches, taken independently.

The reference for a step is the subject's own loss, differentiated by autograd at the step's first weights: with the
same random numbers, each micro-batch weighted by its counted tokens.
"""

from collections.abc import Sequence

import torch
from torch import nn

from andon.verify.access.calls import loss_of, seeded
from andon.verify.observation.half_precision import has_halves
from andon.verify.observation.micro_batches import weight_of
from andon.verify.observation.parameters import (
    State,
    at_weights,
    buffers_of,
    fitted,
    mismatch,
    norm,
    put_back,
    trainable,
)
from andon.verify.observation.step_trace import StepTrace
from andon.verify.observation.tolerances import ROUNDING, distance, rounding
from andon.verify.subject import Batch, Subject

SAME = 10 * ROUNDING[torch.float32]  # one loss computed by two loops: other kernels, another order of summation
LOOSE = ROUNDING[torch.bfloat16]


def expected(
    subject: Subject,
    model: nn.Module,
    step: StepTrace,
    batches: Sequence[Batch],
    shares: Sequence[float] = (),
    *,
    scaled: bool = False,
) -> tuple[float, State]:
    """Loss and gradient of these batches together, at the weights that the step found.

    Each has the share that is given, or that of its counted tokens; `scaled` takes it into the loss that is
    differentiated, which is the same but for rounding.
    """
    shares = shares or _by_counted_tokens(subject, batches)
    total, mean = 0.0, {name: torch.zeros_like(p, dtype=torch.float64) for name, p in trainable(model).items()}
    with torch.random.fork_rng(), at_weights(model, step.before, step.buffers):
        torch.set_rng_state(step.random)
        for index, (batch, share) in enumerate(zip(batches, shares, strict=True)):
            _begin_as_in(step, model, index, len(batches))
            model.zero_grad(set_to_none=True)
            loss = loss_of(subject, model, batch)
            (loss * share if scaled else loss).backward()
            total += share * float(loss.detach())
            _add_gradients(mean, model, 1.0 if scaled else share)
    return total, mean


def slopes(subject: Subject, model: nn.Module, batch: Batch) -> State:
    """The loss's own gradient in training mode, by parameter; what it does not reach is absent."""
    held, learning = buffers_of(model), trainable(model)
    with seeded():
        found = torch.autograd.grad(loss_of(subject, model, batch), list(learning.values()), allow_unused=True)
    put_back(model, held)
    return {name: slope for name, slope in zip(learning, found, strict=True) if slope is not None}


def depends(subject: Subject, model: nn.Module, name: str, batch: Batch) -> bool:
    """Whether the loss is another one where a parameter is elsewhere."""
    held, parameter, losses = buffers_of(model), model.get_parameter(name), []
    kept = parameter.detach().clone()
    for shift in (0.0, 0.1):
        generator = torch.Generator().manual_seed(0)
        change = shift * torch.randn(kept.shape, generator=generator, dtype=torch.float64)
        with seeded():
            parameter.data.copy_(kept + change.to(kept) * (1 + kept.abs()))
            losses.append(loss_of(subject, model, batch).detach())
        put_back(model, held)
    parameter.data.copy_(kept)
    return not distance(losses[1], losses[0]) <= rounding(losses[0])


def tolerance(model: nn.Module, *steps: StepTrace) -> float:
    """What rounding explains between two ways to the same gradient."""
    return LOOSE if has_halves(model) or any(step.autocast for step in steps) else SAME


def as_clipped(subject: Subject, actual: State, wanted: State) -> State:
    """What clipping makes of a gradient: to the norm that `hyperparameters` names; else as `actual` shows.

    In that case a factor of at most 1, or one largest absolute value, whichever is nearer, are taken for clipping.
    """
    if "grad_clip" in subject.hyperparameters:
        clip = subject.hyperparameters["grad_clip"]
        factor = min(1.0, clip / max(norm(wanted), 1e-300)) if clip else 1.0
        return {name: tensor * factor for name, tensor in wanted.items()}
    largest = max(float(tensor.double().abs().max()) for tensor in actual.values())
    factor = min(1.0, max(0.0, fitted(actual, wanted)))
    by_norm = {name: tensor * factor for name, tensor in wanted.items()}
    by_value = {name: tensor.clamp(-largest, largest) for name, tensor in wanted.items()}
    return min(by_norm, by_value, key=lambda state: mismatch(actual, state)[0])


def _by_counted_tokens(subject: Subject, batches: Sequence[Batch]) -> list[float]:
    weights = [1.0] if len(batches) == 1 else [weight_of(subject, batch) for batch in batches]
    return [weight / sum(weights) for weight in weights]


def _begin_as_in(step: StepTrace, model: nn.Module, index: int, count: int) -> None:
    """Mode and random numbers of the call that had this batch, where the calls are as many as the batches."""
    model.train()
    if step.calls and (len(step.calls) == count or index == 0):
        torch.set_rng_state(step.calls[index].random)
        model.train(step.calls[index].training)


def _add_gradients(mean: State, model: nn.Module, share: float) -> None:
    for name, parameter in trainable(model).items():
        if parameter.grad is not None:
            mean[name] += share * parameter.grad.double()
