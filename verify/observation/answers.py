"""What a model answers to a batch, whatever it is a model of: its loss, and what it returns while the loss is taken."""

import dataclasses
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from andon.verify.access.batches import small_batch
from andon.verify.access.calls import loss_of, new_batch, new_model, seeded
from andon.verify.access.larger_weights import perturbed_model
from andon.verify.access.logits import logits_of
from andon.verify.access.roles import IGNORE
from andon.verify.access.targets import targets_of
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.observation.cross_entropy import cross_entropy
from andon.verify.observation.parameters import trainable
from andon.verify.observation.perturb import rounding_tolerance
from andon.verify.observation.tolerances import distance, require_close
from andon.verify.subject import Batch, Subject

NEAR = 1e-2  # of a loss: it is this cross-entropy, rounded perhaps to half precision
LEAST = 0.1  # nats that a loss is taken to have, at least
ROUTER = 0.2  # of a mixture's loss that may be its router's
_MEASURED = WeakIdKeyDictionary()  # subjects, and whether their loss is the cross-entropy of their logits


class Answer(NamedTuple):
    """One evaluation of the loss."""

    loss: Tensor
    outputs: list[Tensor]  # floating tensors that the outermost calls of the model, or of its parts, returned
    inputs: list[Tensor]  # tensors that these calls were given
    drew: bool  # whether a random number was drawn within these calls


def any_batch(subject: Subject, seed: int = 0) -> Batch:
    """A small batch of tokens; the subject's whole batch where it has none."""
    try:
        return small_batch(subject, seed)
    except NotApplicable:
        return new_batch(subject, seed)


def answer(subject: Subject, model: nn.Module, batch: Batch, seed: int = 0) -> Answer:
    """The loss from a seed, in the mode that the model is in, and what the model returned for it.

    With a graph: a loss may take a gradient of its own.
    """
    outputs: list[Tensor] = []
    inputs: list[Tensor] = []
    drew: list[bool] = []
    with seeded(seed), torch.enable_grad(), _outermost(model, outputs, inputs, drew):
        loss = loss_of(subject, model, batch).detach().clone()
    return Answer(loss, outputs, inputs, any(drew))


def require_same(actual: Answer, reference: Answer, tolerance: float, what: str) -> None:
    """Fail where two answers differ by more than `tolerance`, in what the model returned or else in the loss.

    Raises:
        CheckFailed: they do.
    """
    if [tensor.shape for tensor in actual.outputs] != [tensor.shape for tensor in reference.outputs]:
        raise CheckFailed(f"{what}: {_shapes(actual)} are returned, and {_shapes(reference)} before")
    for one, other in zip(actual.outputs, reference.outputs, strict=True):
        if not _is_undefined(other):
            require_close(one, other, tolerance, f"what the model returns, {what}")
    if bool(reference.loss.isfinite()):
        require_close(actual.loss, reference.loss, tolerance, f"the loss, {what}")


def apart(actual: Answer, reference: Answer) -> float:
    """The largest distance between what two passes returned and their losses; infinite where shapes differ."""
    pairs = [(actual.loss, reference.loss), *zip(actual.outputs, reference.outputs, strict=False)]
    if any(one.shape != other.shape for one, other in pairs) or len(actual.outputs) != len(reference.outputs):
        return float("inf")
    return max(distance(one, other) for one, other in pairs if not _is_undefined(other))


def loss_rounding(subject: Subject, model: nn.Module, batch: Batch) -> float:
    """What rounding explains between two evaluations of the loss and of what the model returns for it."""
    with seeded():
        return rounding_tolerance(subject, model, batch, evaluate=loss_of)


def is_cross_entropy(subject: Subject) -> bool:
    """Whether the loss is the mean cross-entropy of the logits at the labels, as numbers of two batches show.

    Of a mixture it may be larger, by what a router adds.
    """
    if subject not in _MEASURED:
        _MEASURED[subject] = all(_is_their_cross_entropy(subject, seed) for seed in range(2))
    return bool(_MEASURED[subject])


def require_cross_entropy(subject: Subject) -> None:
    """Raise NotApplicable where the loss is not shown to be the cross-entropy of logits."""
    if not is_cross_entropy(subject):
        raise NotApplicable("a loss that is the mean cross-entropy of logits (B, T, V) at labels")


def wrong(subject: Subject, message: str) -> CheckFailed:
    """The finding: red where the loss is shown to be a language model's, yellow where its author may have meant it."""
    return CheckFailed(message) if is_cross_entropy(subject) else Unusual(f"{message}; unless it is meant to be so")


def _is_their_cross_entropy(subject: Subject, seed: int) -> bool:
    model, batch = perturbed_model(subject), any_batch(subject, seed)
    try:
        logits_BTV, targets_BT = logits_of(subject, model, batch).detach(), targets_of(subject, batch)
    except NotApplicable:
        return False
    counted_BT = targets_BT != IGNORE
    if not bool(counted_BT.any()) or int(targets_BT.max()) >= logits_BTV.shape[-1]:
        return False
    expected = float(cross_entropy(logits_BTV, targets_BT))
    more = float(answer(subject, model, batch).loss) - expected
    spare = max(NEAR, rounding_tolerance(subject, model, batch)) * max(LEAST, abs(expected))
    return -spare <= more <= max(spare, ROUTER * abs(expected) if subject.mixture_of_experts else 0.0)


@contextmanager
def _outermost(model: nn.Module, outputs: list[Tensor], inputs: list[Tensor], drew: list[bool]) -> Generator[None]:
    """Notes what calls that stand within no other call of a module are given and return."""
    within: list[Tensor] = []  # the random state when each call began

    def before(_module: nn.Module, arguments: Any, keywords: Any) -> None:
        if not within:
            inputs.extend(tensor.detach().clone() for tensor in all_tensors((arguments, keywords)))
        within.append(torch.get_rng_state())

    def after(_module: nn.Module, _arguments: Any, _keywords: Any, output: Any) -> None:
        began = within.pop()
        if not within:
            outputs.extend(tensor.detach().clone() for tensor in all_tensors(output) if tensor.is_floating_point())
            drew.append(not torch.equal(began, torch.get_rng_state()))

    modules = list(model.modules())
    hooks = [module.register_forward_pre_hook(before, with_kwargs=True) for module in modules]
    hooks += [module.register_forward_hook(after, with_kwargs=True) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def all_tensors(value: Any) -> list[Tensor]:
    """All dense tensors in nested tuples, lists, mappings, and objects that hold nothing else than results."""
    if isinstance(value, Tensor):
        return [value] if value.layout == torch.strided else []
    if isinstance(value, Mapping):
        value = list(value.values())
    elif dataclasses.is_dataclass(value) or isinstance(value, SimpleNamespace):
        value = list(vars(value).values())
    return [tensor for each in value for tensor in all_tensors(each)] if isinstance(value, tuple | list) else []


def _is_undefined(tensor: Tensor) -> bool:
    return bool(tensor.isnan().any())


def _shapes(given: Answer) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in given.outputs[:3]) or "no tensors"


def reached(subject: Subject, model: nn.Module, batch: Batch) -> set[str]:
    """The parameters that the loss has a graph to; none where the loss has no graph."""
    with seeded(), torch.enable_grad():
        loss = loss_of(subject, model, batch)
        learning = trainable(model)
        if not loss.requires_grad:
            return set()
        found = torch.autograd.grad(loss, list(learning.values()), allow_unused=True)
    return {name for name, gradient in zip(learning, found, strict=True) if gradient is not None}


def fresh_twins(subject: Subject) -> tuple[nn.Module, nn.Module]:
    """Two new models with the same weights."""
    one, other = new_model(subject), new_model(subject)
    with torch.no_grad():
        for target, source in zip(other.parameters(), one.parameters(), strict=True):
            target.copy_(source)
    return one, other
