"""The logits of anybody's model: given, returned, or seen while the loss is taken.

Legend: B batch, T time, V vocab.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from andon.verify.access.calls import loss_of
from andon.verify.access.facts import facts_of
from andon.verify.access.parts import find
from andon.verify.access.roles import fields, is_keyed
from andon.verify.access.targets import require_cross_entropy, tokens_of
from andon.verify.errors import NotApplicable
from andon.verify.subject import Batch, Subject

_CAPTURED = WeakIdKeyDictionary()  # subjects whose logits are only seen while the loss is taken


def logits_of(subject: Subject, model: nn.Module, batch: Batch) -> Tensor:
    """Logits (B, T, V) of a batch's tokens: `Subject.logits`, or what the model returns for the batch's inputs.

    Where the model cannot be called so, they are taken from what its head returns while the loss is computed. They are
    logits as the loss is their cross-entropy, which its own pass shows, or which is said.

    Raises:
        NotApplicable: there are none of this shape, or the loss is no cross-entropy of them.
    """
    logits = _found(subject, model, batch)
    tokens_BT = tokens_of(subject, batch)
    if not isinstance(logits, Tensor) or not _are_logits(subject, logits, tokens_BT):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise NotApplicable(
            f"logits (B, T, V) for tokens {tuple(tokens_BT.shape)}, not {shape}: give Subject(logits=...)"
        )
    if subject.logits is None:
        require_cross_entropy(subject)
    return logits


def returned_logits(subject: Subject, model: nn.Module, batch: Batch) -> Tensor | None:
    """What could be logits (B, T, V), whatever the loss makes of them; None where nothing could."""
    logits = _found(subject, model, batch)
    return logits if isinstance(logits, Tensor) and _are_logits(subject, logits, tokens_of(subject, batch)) else None


def _found(subject: Subject, model: nn.Module, batch: Batch) -> Any:
    if subject.logits is not None:
        return subject.logits(model, batch)
    if subject in _CAPTURED:
        return _captured(subject, model, batch)
    logits = _called(subject, model, batch)
    if _are_logits(subject, logits, tokens_of(subject, batch)):
        return logits
    captured = _captured(subject, model, batch)
    if captured is None:
        return logits
    _CAPTURED[subject] = True
    return captured


def _called(subject: Subject, model: nn.Module, batch: Batch) -> Any:
    """What the model returns for the batch's inputs; None where it cannot be called so."""
    parts, found = fields(batch), find(subject, batch)
    left_out = {found.get("labels"), found.get("counted")}
    inputs = {key: value for key, value in parts.items() if key not in left_out and value is not None}
    named = is_keyed(batch) and all(isinstance(key, str) for key in inputs)
    if not named and set(inputs) != {found.get("tokens")}:
        return None
    try:
        named_inputs = {str(key): value for key, value in inputs.items()}
        output = model(**named_inputs) if named else model(inputs[found["tokens"]])
    except (TypeError, ValueError, RuntimeError):  # it wants to be called otherwise: what its head returns is seen
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
        if _are_logits(subject, logits, tokens_BT) and (
            module is model or any(len(w) == logits.shape[-1] for w in heads)
        ):
            seen.append(logits)

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        loss_of(subject, model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[-1] if seen else None


def _are_logits(subject: Subject, value: Any, tokens_BT: Tensor) -> bool:
    """Whether this is a number for each token and class: as many classes as the loss shows, or more than the ids."""
    if not (isinstance(value, Tensor) and value.dim() == 3 and value.shape[:2] == tokens_BT.shape):
        return False
    shown = facts_of(subject).cross_entropy
    if shown is not None and subject.logits is None:
        return value.is_floating_point() and value.shape[-1] == shown.logits.shape[-1]
    return value.is_floating_point() and value.shape[-1] > int(tokens_BT.max())
