"""What an architecture does by design, detected on the model and in what its authors write; the subject says it.

Legend: B batch, T time.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from andon.verify.access.calls import gradients, new_batch, new_model, seeded
from andon.verify.access.larger_weights import perturbed_model
from andon.verify.access.roles import IGNORE
from andon.verify.observation.label_places import label_reads_its_place
from andon.verify.observation.parameters import trainable
from andon.verify.subject import Batch, Subject

BOTH_SIDES = re.compile(r"always bidirectional|Set `?\"bi\"`? for")
SHIFTS = re.compile(r"labels[^.]*\*\*are shifted\*\*|shifted inside the model")
FURTHER = re.compile(r"^(input_\w+|token_type)_ids$")  # indices of another kind beside the tokens
SPREAD = "rescale_prenorm_residual"  # a configuration with it draws matrices by depth and width, as it documents


def detected(subject: Subject) -> Subject:
    """The subject with what its model is found to do."""
    subject = replace(subject, model=_frozen(subject))
    if not _reads_mask(subject):
        subject = replace(subject, batch=_without(subject.batch, "attention_mask"))
    model: Any = new_model(subject)
    if hasattr(model.config, SPREAD):
        kept = {key: value for key, value in subject.config_alternatives.items() if key != "initializer_range"}
        subject = replace(subject, config_alternatives=kept)
    if BOTH_SIDES.search(_source(model)) and _sees_later(subject):
        return replace(subject, causal=False, generate=None, cached_logits=None, collate_packed=None)
    if label_reads_its_place(subject, new_batch(subject)) and not SHIFTS.search(inspect.getdoc(model.forward) or ""):
        return _shifted(subject)
    return subject


def _shifted(subject: Subject) -> Subject:
    """Labels one ahead, as a decoder expects them whose loss does not shift: what a collator does before it."""

    def ahead(make: Callable[..., Batch]) -> Callable[..., Batch]:
        def shifted(*given: Any) -> Batch:
            batch = make(*given)
            labels_BT = torch.full_like(batch["labels"], IGNORE)
            labels_BT[:, :-1] = batch["labels"][:, 1:]
            return batch | {"labels": labels_BT}

        return shifted

    pad, pack = subject.collate_padded, subject.collate_packed
    return replace(
        subject, batch=ahead(subject.batch), collate_padded=pad and ahead(pad), collate_packed=pack and ahead(pack)
    )


def _frozen(subject: Subject) -> Callable[[], nn.Module]:
    """The model; what only further inputs reach is frozen: an encoder's states, towers of other kinds, indices."""
    further = _reached_by_further(subject)

    def build() -> nn.Module:
        model = subject.model()
        for name, parameter in model.named_parameters():
            if name in further:
                parameter.requires_grad_(False)
        return model

    return build


def _reached_by_further(subject: Subject) -> set[str]:
    """Parameters that get no gradient from the batch, and do from inputs that the model's `forward` takes beside it.

    And those of whole models inside, with configurations of their own, that text alone never calls.
    """
    model, batch = cast("Any", perturbed_model(subject)), dict(new_batch(subject))
    idle = _without_gradient(subject, model, batch)
    if not idle:
        return set()
    reached = {
        name for given in _further(model, batch) for name in idle - _without_gradient(subject, model, batch | given)
    }
    if len(getattr(type(model.config), "sub_configs", {})) > 1:  # a text, and pictures or sounds beside it
        called = _called(subject, model, batch)
        reached |= {name for name in idle if name.rpartition(".")[0] not in called}
    return reached


def _called(subject: Subject, model: nn.Module, batch: Batch) -> set[str]:
    """The modules that run when the loss is taken."""
    called: set[str] = set()
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
        for name, module in model.named_modules()
    ]
    try:
        with seeded(), torch.no_grad():
            subject.loss(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return called


def _further(model: Any, batch: Batch) -> list[dict[str, Any]]:
    """States of an encoder, and indices of another kind, where `forward` takes them and the batch has none."""
    takes, tokens_BT = inspect.signature(model.forward).parameters, batch["input_ids"]
    indices = {key: torch.ones_like(tokens_BT) for key in takes if FURTHER.match(key) and key not in batch}
    width = next(iter(model.get_input_embeddings().parameters())).shape[1]
    states_BSD = torch.randn(len(tokens_BT), 3, getattr(model.config, "d_model", width))
    encoded = {"encoder_hidden_states": states_BSD, "encoder_outputs": (states_BSD,)}
    return [{key: value} for key, value in encoded.items() if key in takes] + ([indices] if indices else [])


def _without_gradient(subject: Subject, model: nn.Module, batch: Batch) -> set[str]:
    try:
        found = gradients(subject, model, batch)
    except (TypeError, ValueError, RuntimeError):  # it refuses these, or a gradient in eval mode
        return set(trainable(model))
    return {name for name, gradient in found.items() if not bool(gradient.any())}


def _reads_mask(subject: Subject) -> bool:
    """Whether hiding tokens by the mask moves any logit."""
    model, batch = perturbed_model(subject), dict(new_batch(subject))
    hidden = batch["attention_mask"].clone()
    hidden[:, : hidden.shape[1] // 2] = 0
    with torch.no_grad():
        found = [
            _logits(subject, model, batch | {"attention_mask": mask}) for mask in (batch["attention_mask"], hidden)
        ]
    return not torch.equal(*found)


def _sees_later(subject: Subject) -> bool:
    """Whether another last token moves the first logits."""
    model, batch = perturbed_model(subject), dict(new_batch(subject))
    other = batch["input_ids"].clone()
    other[:, -1] = other[:, 0]
    with torch.no_grad():
        found = [_logits(subject, model, batch | {"input_ids": ids})[:, 0] for ids in (batch["input_ids"], other)]
    return not torch.equal(*found)


def _logits(subject: Subject, model: nn.Module, batch: Batch) -> Tensor:
    assert subject.logits is not None
    with seeded():
        return subject.logits(model, batch)


def _without(make: Callable[..., Batch], key: str) -> Callable[..., Batch]:
    return lambda generator: {name: part for name, part in make(generator).items() if name != key}


def _source(model: nn.Module) -> str:
    """The text of the files that define the model and its configuration."""
    config = getattr(model, "config", model)
    return "".join(inspect.getsource(inspect.getmodule(type(each))) for each in (model, config))  # ty: ignore[invalid-argument-type]
