"""Evaluations of a subject, its own and its loop's, and the losses that they ought to be the mean of."""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from andon.verify.access.batches import rows_of
from andon.verify.access.calls import loss_of, new_batch, new_model, seeded
from andon.verify.errors import NotApplicable
from andon.verify.observation.micro_batches import counted, is_ragged, micro_batches
from andon.verify.observation.modes import at_each_call
from andon.verify.observation.parameters import State, buffers_of, modes_kept, put_back
from andon.verify.observation.runs import new_optimizer
from andon.verify.subject import Batch, Subject

PARTS = 4


class Validator(NamedTuple):
    """What evaluates a model, which is in training mode."""

    name: str
    model: nn.Module
    validate: Callable[[], float | Tensor]
    step: Callable[[], object] | None  # the training that goes on after it, where there is any
    in_loop: bool = False


def validators(subject: Subject) -> list[Validator]:
    """What evaluates, each with a model in training mode.

    Raises:
        NotApplicable: nothing does.
    """
    found: list[Validator] = []
    if subject.validate is not None:
        validate, model, batches = subject.validate, new_model(subject).train(), _any_batches(subject)
        found.append(Validator("Subject.validate", model, lambda: validate(model, batches), _training(subject, model)))
    if subject.loop is not None:
        loop = subject.loop()
        loop.step()
        found.append(Validator("Subject.loop", loop.model.train(), loop.validate, loop.step, in_loop=True))
    if not found:
        raise NotApplicable("validate or loop")
    return found


def evaluation_batches(subject: Subject) -> list[Batch]:
    """Batches of unequal counts, where the subject's own may be; the last is of one row then."""
    batches = micro_batches(subject, PARTS, seed=10)
    if is_ragged(subject):
        batches[-1] = rows_of(subject, batches[-1], [0])
    return [batch for batch in batches if counted(subject, batch)]


def losses_at_rest(subject: Subject, model: nn.Module, batches: list[Batch]) -> list[float]:
    """The loss of each batch in eval mode."""
    with modes_kept(model), torch.no_grad(), seeded():
        model.eval()
        return [float(loss_of(subject, model, batch)) for batch in batches]


def runs_at_its_weights(model: nn.Module, act: Callable[[], object]) -> bool:
    """Whether this model is called while `act` runs, and its modules, each at the weights that it has now."""
    holders = [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]
    weights = {module: {name: p.detach().clone() for name, p in module.named_parameters(recurse=False)}
               for module in holders}  # fmt: skip

    def look(module: nn.Module) -> bool:
        return all(torch.equal(weights[module][name], p) for name, p in module.named_parameters(recurse=False))

    seen = at_each_call(weights, act, look)
    return bool(seen) and all(seen)


def reads_buffers(subject: Subject, model: nn.Module, buffers: State) -> bool:
    """Whether the loss in training mode is another one with these buffers than with those that the model has now."""
    batch, now, losses = new_batch(subject), buffers_of(model), []
    for state in (now, buffers):
        put_back(model, state)
        with seeded():
            losses.append(float(loss_of(subject, model, batch).detach()))
    put_back(model, now)
    return losses[0] != losses[1]


def draws_at_rest(subject: Subject, model: nn.Module) -> bool:
    """Whether the loss draws random numbers in eval mode, too, as that of a diffusion does."""
    batch = new_batch(subject)
    with modes_kept(model), torch.no_grad(), seeded():
        model.eval()
        before = random_states()
        loss_of(subject, model, batch)
        return before != random_states()


def random_states() -> dict[str, Any]:
    """Where the generators stand that training may use."""
    return {"torch's": torch.get_rng_state().numpy().tobytes(), "Python's": random.getstate()}


def _any_batches(subject: Subject) -> list[Batch]:
    """The same as for a mean; of a subject without tokens, some of its own."""
    try:
        return evaluation_batches(subject)
    except NotApplicable:
        return [new_batch(subject, number) for number in range(PARTS)]


def _training(subject: Subject, model: nn.Module) -> Callable[[], object] | None:
    """The subject's own step on this model."""
    if subject.train_step is None:
        return None
    step, optimizer = subject.train_step, new_optimizer(subject, model)
    return lambda: step(model, optimizer, [new_batch(subject)])
