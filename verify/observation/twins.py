"""A twin of an optimizer, with weights and moments of its own: what the optimizer alone makes of a gradient."""

import copy
from typing import Any

import torch

from andon.verify.errors import NotApplicable
from andon.verify.observation.optimizers import innermost, tensors_of
from andon.verify.observation.parameters import State
from andon.verify.observation.runs import Run
from andon.verify.observation.updates_seen import Update


def twin_of(optimizer: Any) -> Any:
    """The optimizer with weights and moments of its own; what it holds besides them is shared.

    Raises:
        NotApplicable: it cannot be copied.
    """
    lack = NotApplicable("an optimizer that can be copied")
    if isinstance(optimizer, torch.optim.Optimizer) and not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise lack  # one that torch's own constructor never saw; copying it would leave its class's `step` unfit
    try:
        copied = copy.deepcopy(optimizer)
    except Exception as error:
        raise lack from error
    copied.__dict__ = {**optimizer.__dict__, **copied.__dict__}  # torch copies what a state_dict holds, and no more
    return copied


def shifts_by(twin: Any, run: Run, update: Update, start: State) -> State:
    """How far the twin of a run's optimizer moves each parameter from here, given what an update was given.

    Raises:
        NotApplicable: it holds other tensors than the model's, or cannot step.
    """
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    order = [names.get(id(parameter), "") for parameter in tensors_of(innermost(run.optimizer))]
    if "" in order or len(update.rates) != len(twin.param_groups):
        raise NotApplicable("one optimizer over the model's own parameters")
    for group, options in zip(twin.param_groups, update.options, strict=True):
        group.update(options)  # a rate or a momentum that the step itself has set
    held = dict(zip(order, tensors_of(twin), strict=True))
    for name, tensor in held.items():
        tensor.data.copy_(start[name])
        tensor.grad = update.gradients[name].to(tensor.dtype) if name in update.gradients else None
    _step(twin)
    return {name: tensor.detach().double() - start[name].double() for name, tensor in held.items()}


def _step(twin: Any) -> None:
    """One step, past what a scheduler may have put in the method's place."""
    try:
        type(twin).step(twin)
    except Exception as error:
        raise NotApplicable(f"an optimizer of which a copy can step ({error})") from error
