"""Parity with another implementation that has the same weights."""

import torch

from andon.verify.access.batches import real_in, small_batch
from andon.verify.access.calls import gradients, loss_of, needed
from andon.verify.access.targets import targets_of
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable
from andon.verify.observation.cross_entropy import cross_entropy
from andon.verify.observation.perturb import logits_eval, perturbed_model, rounding_tolerance
from andon.verify.observation.tolerances import require_close
from andon.verify.subject import Subject

GRADIENT = 1e-3


def check_logits(subject: Subject) -> None:
    """Logits are the reference's.

    Silent because a model that differs from its architecture still learns.

    Look at what differs from the paper: layouts of rotations, order of heads, epsilons, activations.
    """
    reference_logits, model, batch = needed(subject, "reference_logits"), perturbed_model(subject), small_batch(subject)
    with torch.no_grad():
        expected = reference_logits(model, batch)
    real = real_in(subject, batch)
    actual = logits_eval(subject, model, batch)
    require_close(actual[real], expected[real], rounding_tolerance(subject, model, batch), "logits and the reference's")


def check_loss(subject: Subject) -> None:
    """The loss is the cross-entropy of the reference's logits.

    Silent for the same reason.

    Look at labels, shift and divisor.
    """
    reference_logits, model, batch = needed(subject, "reference_logits"), perturbed_model(subject), small_batch(subject)
    with torch.no_grad():
        expected = cross_entropy(reference_logits(model, batch), targets_of(subject, batch))
        actual = loss_of(subject, model, batch)
    require_close(actual, expected, rounding_tolerance(subject, model, batch), "the loss and the reference's")


def check_gradients(subject: Subject) -> None:
    """Gradients are those of the reference's loss, where its logits have a graph to the same weights.

    Silent because a wrong gradient points downhill too.

    Look at custom backward functions.
    """
    reference_logits, model, batch = needed(subject, "reference_logits"), perturbed_model(subject), small_batch(subject)
    value = cross_entropy(reference_logits(model, batch), targets_of(subject, batch))
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not value.requires_grad:
        raise NotApplicable("a reference whose logits have a graph to the model's parameters")
    found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    for (name, actual), expected in zip(gradients(subject, model, batch).items(), found, strict=True):
        if expected is None:
            continue
        error = float((actual.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-12))
        if not error <= max(GRADIENT, 10 * rounding_tolerance(subject, model, batch)):
            raise CheckFailed(f"the gradient of {name} is {error:.2g} of its norm from the reference's")


CHECKS = (
    Check("reference.logits", check_logits, ("reference_logits",)),
    Check("reference.loss", check_loss, ("reference_logits",)),
    Check("reference.gradients", check_gradients, ("reference_logits",)),
)
