"""The batches and rows that a run's model was shown, told from what it was called with."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from andon.verify.access.calls import new_batch, seeded
from andon.verify.access.parts import find
from andon.verify.access.roles import fields, guessed, replaced
from andon.verify.access.targets import tokens_of
from andon.verify.errors import NotApplicable
from andon.verify.observation.passes import Call
from andon.verify.observation.step_trace import StepTrace
from andon.verify.subject import Batch, Subject
from andon.verify.vocabulary import ROLES

Key = tuple[tuple[int, ...], tuple[int, ...]]  # shape and content of token ids


def batches_seen(subject: Subject, step: StepTrace) -> list[Batch]:
    """The batches that a loop's step used: told from what its model was called with.

    Raises:
        NotApplicable: the model is not called with whole batches, and they are none of `epoch_batches`.
    """
    if not step.calls:
        raise NotApplicable("a model that is called with token ids")
    example = new_batch(subject)
    keys = [key for key, value in fields(example).items() if isinstance(value, Tensor)]
    has_labels = "labels" in find(subject, example)
    known = _by_tokens(subject) if subject.epoch_batches is not None else {}
    return [
        replaced(example, {key: call.inputs[str(key)] for key in keys})
        if has_labels and all(str(key) in call.inputs for key in keys)
        else _known_batch(known, call)
        for call in step.calls
    ]


def token_rows(subject: Subject, step: StepTrace) -> list[tuple[int, ...]]:
    """The rows of token ids that a step's calls were given, in order, without what a mask says is padding.

    Raises:
        NotApplicable: among several integer inputs, neither a name nor `Subject.roles` tells which are the token ids.
    """
    return [row for call in step.calls for row in _token_rows(call.inputs, subject.roles)]


def data_rows(subject: Subject, step: StepTrace) -> list[tuple[int, ...]]:
    """The same; where nothing tells which are the token ids, the rows of all integer inputs, for comparing runs."""
    try:
        return token_rows(subject, step)
    except NotApplicable:
        inputs = [tensor for call in step.calls for tensor in _different(call.inputs)]
        return [tuple(row.tolist()) for tensor in inputs for row in tensor.reshape(-1, max(1, tensor.shape[-1]))]


def _known_batch(known: Mapping[Key, Batch], call: Call) -> Batch:
    found = [known[key] for key in map(_key, call.inputs.values()) if key in known]
    if not found:
        raise NotApplicable("batches that can be told from the model's inputs (or Subject.epoch_batches)")
    return found[0]


def _token_rows(inputs: Mapping[str, Tensor], roles: Mapping[str, str | int]) -> Iterator[tuple[int, ...]]:
    given = {role: key for role, key in roles.items() if isinstance(key, str)}  # a batch's places are not arguments'
    found, different = guessed(inputs, given), _different(inputs)
    if "tokens" not in found and len(different) > 1:
        raise NotApplicable(
            f"a model whose token ids can be told among its arguments {', '.join(inputs)}: they go by "
            f"{', '.join(ROLES['tokens'].names)}, or as in Subject(roles=...)"
        )
    tokens = inputs[str(found["tokens"])] if "tokens" in found else different[0]
    mask = inputs[str(found["mask"])] if "mask" in found else torch.ones_like(tokens)
    real = mask != 0 if mask.shape == tokens.shape else torch.ones_like(tokens, dtype=torch.bool)
    width = max(1, tokens.shape[-1])
    for row, kept in zip(tokens.reshape(-1, width), real.reshape(-1, width), strict=True):
        yield tuple(row[kept].tolist())


def _different(inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """The tensors, each once: what came by position stands under its name, too."""
    found: list[Tensor] = []
    for tensor in inputs.values():
        if not any(tensor.shape == other.shape and torch.equal(tensor, other) for other in found):
            found.append(tensor)
    return found


def _by_tokens(subject: Subject) -> dict[Key, Batch]:
    assert subject.epoch_batches is not None
    with seeded():
        batches = list(subject.epoch_batches(0))
    flat = [part for batch in batches for part in (batch if isinstance(batch, list) else [batch])]
    return {_key(tokens_of(subject, batch)): batch for batch in flat}


def _key(tokens: Tensor) -> Key:
    return tuple(tokens.shape), tuple(tokens.flatten().tolist())
