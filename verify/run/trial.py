"""A subject as a whole: model, batch and loss are made once, before any check, so that one mistake is one message."""

import torch
from torch import Tensor, nn

from andon.verify.access.calls import loss_of, new_batch, new_model, seeded
from andon.verify.access.facts import facts_of
from andon.verify.access.roles import fields
from andon.verify.errors import NotApplicable, SubjectError
from andon.verify.observation.finite import not_finite
from andon.verify.observation.protect import protected
from andon.verify.observation.tolerances import distance, rounding
from andon.verify.run.explain import why
from andon.verify.run.report import RED, YELLOW, Finding
from andon.verify.subject import Subject

KEPT = "; with the model's buffers put back it is the first again: right for a queue or a memory that passes fill"


def try_subject(subject: Subject, variant: str) -> Finding | None:
    """Make a model, a batch and a loss once, so that one mistake is one message; None where all is well."""
    name = f"subject{variant}"
    with protected():
        try:
            model, batch = new_model(subject), new_batch(subject)
            _same_device(model, batch)
            before = [buffer.detach().clone() for buffer in model.buffers()]
            first, second = _evaluated(subject, model, batch), _evaluated(subject, model, batch)
            repeats = distance(second, first) <= rounding(first)
            kept = not repeats and _repeats_from(subject, model, batch, before, first)
            facts_of(subject)  # here, so that no check finds what its first pass has changed
        except NotApplicable as lack:
            return Finding(name, f"it needs {lack}", mistake=True)
        except Exception as error:  # noqa: BLE001 - as in `tasks.run`
            return Finding(name, why(error), mistake=True)
    if not bool(first.isfinite()):
        return Finding(
            f"{name}.finite",
            f"the loss of a new model on one batch, in eval mode, is {float(first)}: {not_finite(subject)}",
            "A new model's loss on a typical batch is a finite number.",
            "Silent where a loop skips such steps, or a mean over a window leaves them out.",
            "Look at the place that is named, for a division by 0, a logarithm of 0, a row in which all is masked, and "
            "weights that were allocated and never filled.",
        )
    if not repeats:
        return Finding(
            f"{name}.repeats",
            f"the loss of one model in eval mode on one batch, with one seed, was {float(first):.6g} and then "
            f"{float(second):.6g}{KEPT if kept else ''}",
            "The same weights, batch and seed give the same loss in eval mode.",
            "Silent because training only sees a little more noise; no other check can be run on it.",
            "Look for state that a forward pass keeps, for dropout that eval mode does not end, and for random "
            "generators that torch.manual_seed does not reach.",
            light=YELLOW if kept else RED,
        )
    return None


def _repeats_from(subject: Subject, model: nn.Module, batch: object, before: list[Tensor], first: Tensor) -> bool:
    """Whether the first loss comes again once the buffers are as they were."""
    buffers = list(model.buffers())
    if [buffer.shape for buffer in buffers] != [buffer.shape for buffer in before]:
        return False
    with torch.no_grad():
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
    return bool(distance(_evaluated(subject, model, batch), first) <= rounding(first))


def _evaluated(subject: Subject, model: nn.Module, batch: object) -> Tensor:
    with seeded(), torch.no_grad():
        return loss_of(subject, model.eval(), batch).detach().clone()


def _same_device(model: nn.Module, batch: object) -> None:
    here = {tensor.device for tensor in model.parameters()}
    for key, value in fields(batch).items():
        if isinstance(value, Tensor) and here and value.dim() and value.device not in here:
            raise SubjectError(
                f"Subject.batch() puts {key!r} on {value.device} and the model is on {', '.join(map(str, here))}; "
                f"move it there in the function"
            )
