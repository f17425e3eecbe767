"""How checks ask a subject: seeded, validated, and with what can be inferred inferred.

Legend: B batch, T time, V vocab.
"""

import random
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from andon.verify.access.roles import IGNORE, fields, find, part, replaced
from andon.verify.errors import NotApplicable, SubjectError
from andon.verify.subject import Batch, Subject

HALF = 0.5
_HANDED_OUT = WeakIdKeyDictionary()  # models and their first parameters, while they live
_IGNORED = WeakIdKeyDictionary()  # a subject's label that is not counted
_CAPTURED = WeakIdKeyDictionary()  # subjects whose logits are only seen while the loss is taken


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


def new_batch(subject: Subject, seed: int = 0) -> Batch:
    """A batch of the subject's, the same each time for one seed."""
    with seeded(seed):
        return subject.batch(torch.Generator().manual_seed(seed))


def loss_of(subject: Subject, model: nn.Module, batch: Batch) -> Tensor:
    """The subject's loss, a scalar.

    Raises:
        SubjectError: the loss is no scalar tensor.
    """
    loss = subject.loss(model, batch)
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


def tokens_of(subject: Subject, batch: Batch) -> Tensor:
    """Token ids (B, T)."""
    return part(batch, "tokens", subject.roles)


def with_tokens(subject: Subject, batch: Batch, tokens_BT: Tensor) -> Batch:
    """The batch with other tokens, all else as it is."""
    return replaced(batch, {find(batch, subject.roles)["tokens"]: tokens_BT})


def is_shifted_inside(subject: Subject, batch: Batch) -> bool:
    """Whether labels stand under their own tokens, and the loss shifts them (Hugging Face), or one to the left.

    Told from the batch itself: its labels repeat its tokens, or run ahead of them. No labels: the loss shifts.
    """
    found = find(batch, subject.roles)
    if "labels" not in found:
        return True
    tokens_BT, labels_BT = tokens_of(subject, batch), part(batch, "labels", subject.roles)
    if tokens_BT.shape != labels_BT.shape:
        raise NotApplicable("labels of the tokens' shape")
    if not subject.causal:
        return False
    under = _agreement(tokens_BT, labels_BT)
    ahead = _agreement(tokens_BT[:, 1:], labels_BT[:, :-1])
    if max(under, ahead) < HALF:
        if isinstance(found["labels"], int):  # a pair (x, y) of random numbers, as tests have them
            return False
        raise NotApplicable("labels that are the batch's own tokens, at their place or one ahead")
    return under > ahead


def targets_of(subject: Subject, batch: Batch) -> Tensor:
    """(B, T): what the logits at each position are to predict, IGNORE where nothing is counted."""
    tokens_BT = tokens_of(subject, batch)
    inside = is_shifted_inside(subject, batch)
    found = find(batch, subject.roles)
    labels_BT = part(batch, "labels", subject.roles) if "labels" in found else tokens_BT
    labels_BT = labels_BT.masked_fill(labels_BT < 0, IGNORE)
    if "counted" in found:
        labels_BT = labels_BT.masked_fill(part(batch, "counted", subject.roles) == 0, IGNORE)
    elif "labels" not in found and "mask" in found:
        labels_BT = labels_BT.masked_fill(part(batch, "mask", subject.roles) == 0, IGNORE)
    if not inside:
        return labels_BT
    targets_BT = torch.full_like(labels_BT, IGNORE)
    targets_BT[:, :-1] = labels_BT[:, 1:]
    return targets_BT


def with_targets(subject: Subject, batch: Batch, targets_BT: Tensor) -> Batch:
    """The batch with other targets; where the loss shifts, the last column's cannot be said and is left out.

    Raises:
        NotApplicable: the batch has no labels.
    """
    found = find(batch, subject.roles)
    if "labels" not in found:
        raise NotApplicable("labels in the batch")
    labels_BT = targets_BT
    if is_shifted_inside(subject, batch):
        labels_BT = torch.full_like(targets_BT, IGNORE)
        labels_BT[:, 1:] = targets_BT[:, :-1]
    ignored_BT = labels_BT == IGNORE
    labels_BT = labels_BT.masked_fill(ignored_BT, ignored_label(subject, batch))
    changes = {found["labels"]: labels_BT}
    if "counted" in found:
        counted_BT = part(batch, "counted", subject.roles)
        changes[found["counted"]] = (~ignored_BT).to(counted_BT.dtype)
        changes[found["labels"]] = labels_BT.clamp_min(0)
    return replaced(batch, changes)


def ignored_label(subject: Subject, batch: Batch) -> int:
    """The label that the loss does not count: the negative one in the batch, else what the loss takes.

    Told by asking on the CPU alone: a label out of range would end a GPU's process.
    """
    labels_BT = part(batch, "labels", subject.roles)
    negative = labels_BT[labels_BT < 0]
    if len(negative) or labels_BT.device.type != "cpu":
        return int(negative.min()) if len(negative) else IGNORE
    if subject not in _IGNORED:
        _IGNORED[subject] = next((label for label in (IGNORE, -1) if _is_taken(subject, batch, label)), IGNORE)
    return _IGNORED[subject]


def _is_taken(subject: Subject, batch: Batch, label: int) -> bool:
    changed_BT = part(batch, "labels", subject.roles).clone()
    changed_BT[:, 1] = label
    try:
        with torch.no_grad():
            loss_of(subject, new_model(subject), replaced(batch, {find(batch, subject.roles)["labels"]: changed_BT}))
    except (IndexError, RuntimeError, ValueError):
        return False
    return True


def logits_of(subject: Subject, model: nn.Module, batch: Batch) -> Tensor:
    """Logits (B, T, V) of a batch's tokens: `Subject.logits`, or what the model returns for the batch's inputs.

    Where the model cannot be called so, they are taken from what its head returns while the loss is computed.

    Raises:
        NotApplicable: there are none of this shape.
    """
    tokens_BT = tokens_of(subject, batch)
    if subject.logits is not None:
        logits = subject.logits(model, batch)
    elif subject in _CAPTURED:
        logits = _captured(subject, model, batch)
    else:
        logits = _called(subject, model, batch)
        if not _are_logits(logits, tokens_BT):
            returned, logits = logits, _captured(subject, model, batch)
            if logits is None:
                logits = returned
            else:
                _CAPTURED[subject] = True
    if not isinstance(logits, Tensor) or not _are_logits(logits, tokens_BT):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise NotApplicable(
            f"logits (B, T, V) for tokens {tuple(tokens_BT.shape)}, not {shape}: give Subject(logits=...)"
        )
    return logits


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
    """Gradients of the loss by parameter name; zero where there is none. The model's own are left as they were."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    loss = loss_of(subject, model, batch)
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(p) if gradient is None else gradient
        for (name, p), gradient in zip(parameters.items(), found, strict=True)
    }


def _agreement(tokens_BT: Tensor, labels_BT: Tensor) -> float:
    counted = labels_BT >= 0
    return float((tokens_BT[counted] == labels_BT[counted]).double().mean()) if bool(counted.any()) else 0.0


def _called(subject: Subject, model: nn.Module, batch: Batch) -> Any:
    """What the model returns for the batch's inputs; None where it cannot be called so."""
    parts, found = fields(batch), find(batch, subject.roles)
    left_out = {found.get("labels"), found.get("counted")}
    inputs = {key: value for key, value in parts.items() if key not in left_out and value is not None}
    named = hasattr(batch, "keys") and all(isinstance(key, str) for key in inputs)
    if not named and set(inputs) != {found["tokens"]}:
        return None
    try:
        named_inputs = {str(key): value for key, value in inputs.items()}
        output = model(**named_inputs) if named else model(inputs[found["tokens"]])
    except TypeError:
        return None
    return _logits_in(output)


def _logits_in(output: Any) -> Any:
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    output = getattr(output, "logits", output)
    if isinstance(output, tuple | list):
        return next((each for each in output if isinstance(each, Tensor) and each.dim() == 3), None)
    return output


def _captured(subject: Subject, model: nn.Module, batch: Batch) -> Tensor | None:
    """The last output of shape (B, T, V) of the model, or of a module with a matrix of V rows, while it is trained."""
    tokens_BT = tokens_of(subject, batch)
    seen: list[Tensor] = []

    def note(module: nn.Module, _args: object, output: Any) -> None:
        logits = _logits_in(output)
        heads = [w for w in module.parameters(recurse=False) if w.dim() == 2]
        if _are_logits(logits, tokens_BT) and (module is model or any(len(w) == logits.shape[-1] for w in heads)):
            seen.append(logits)

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        loss_of(subject, model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[-1] if seen else None


def _are_logits(value: Any, tokens_BT: Tensor) -> bool:
    fits = isinstance(value, Tensor) and value.dim() == 3 and value.shape[:2] == tokens_BT.shape
    return fits and value.is_floating_point() and value.shape[-1] > int(tokens_BT.max())
