"""How checks call a subject: seeded, validated, and never twice on one model."""

import random
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from andon.verify.errors import NotApplicable, SubjectError
from andon.verify.subject import Batch, Subject

_HANDED_OUT = WeakIdKeyDictionary()  # models and their first parameters, while they live


@contextmanager
def seeded(seed: int = 0) -> Generator[None]:
    """Torch's, Python's and numpy's random numbers from a seed; afterwards they go on as if none had been drawn."""
    numpy = sys.modules.get("numpy")  # who has not imported it draws nothing from it
    python_state, numpy_state = random.getstate(), numpy and numpy.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        seed_torch = torch.manual_seed if _accelerated() else torch.default_generator.manual_seed
        seed_torch(seed)  # where no device can draw, torch would still note the call for each kind, with its stack
        random.seed(seed)
        if numpy:
            numpy.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            if numpy:
                numpy.random.set_state(numpy_state)


@cache
def _accelerated() -> bool:
    return torch.accelerator.is_available()


def new_model(subject: Subject, seed: int = 0) -> nn.Module:
    """A model of the subject's, the same each time for one seed.

    Raises:
        SubjectError: the factory returned no module, or one that it had handed out before.
    """
    with seeded(seed):
        model = subject.model()
    if not isinstance(model, nn.Module):
        raise SubjectError(
            f"Subject.model() returned {type(model).__name__}, not a torch.nn.Module; return the model itself"
        )
    for own in (model, *islice(model.parameters(), 1)):
        if own in _HANDED_OUT:
            raise SubjectError(
                "Subject.model() handed out the same module, or its parameters, twice; build a new one in the "
                "function, or give the module itself, Subject(model=module), and each check gets a copy"
            )
        _HANDED_OUT[own] = None
    return model


def precise(subject: Subject, model: nn.Module) -> nn.Module:
    """The model in at least float32, in place, unless the subject says that it runs in one dtype only."""
    narrow = any(p.is_floating_point() and p.dtype.itemsize < 4 for p in model.parameters())
    return model.float() if narrow and subject.dtype is None else model


def new_batch(subject: Subject, seed: int = 0) -> Batch:
    """A batch of the subject's, the same each time for one seed."""
    with seeded(seed):
        return subject.batch(torch.Generator().manual_seed(seed))


def loss_of(subject: Subject, model: nn.Module, batch: Batch) -> Tensor:
    """The subject's loss, a scalar.

    Where gradients are off, one that cannot be taken so, as it differentiates itself (a gradient penalty), has them on.

    Raises:
        SubjectError: the loss is not a scalar tensor.
    """
    try:
        loss = subject.loss(model, batch)
    except RuntimeError:
        if torch.is_grad_enabled():
            raise
        with torch.enable_grad():  # it may differentiate itself
            loss = subject.loss(model, batch).detach()
    if not isinstance(loss, Tensor):
        raise SubjectError(
            f"Subject.loss(model, batch) returned {type(loss).__name__}, not a tensor; return the loss itself, "
            "for example `lambda model, batch: model(**batch).loss`"
        )
    if loss.numel() != 1:
        raise SubjectError(
            f"Subject.loss(model, batch) returned a tensor of shape {tuple(loss.shape)}, not a scalar; "
            "return the mean that the training loop takes backward"
        )
    return loss.reshape(())


def needed(subject: Subject, factory: str) -> Any:
    """An optional factory.

    Raises:
        NotApplicable: the subject lacks it.
    """
    value = getattr(subject, factory)
    if value is None or value == {}:
        raise NotApplicable(factory)
    return value


def hyperparameter(subject: Subject, name: str) -> float:
    """What the subject says of its training.

    Raises:
        NotApplicable: it does not say.
    """
    if name not in subject.hyperparameters:
        raise NotApplicable(f"hyperparameters[{name!r}]")
    return subject.hyperparameters[name]


def gradients(subject: Subject, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Gradients of the loss by parameter name; zero where there is none. The model's own are left as they were.

    What is drawn at random is the same each time.
    """
    with seeded():
        return gradients_of(loss_of(subject, model, batch), model)


def gradients_of(value: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """Gradients of a value by parameter name; zero where there is none."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(p) if gradient is None else gradient
        for (name, p), gradient in zip(parameters.items(), found, strict=True)
    }
