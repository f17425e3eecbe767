"""Parity with another implementation that has the same weights."""

import torch

from andon.verify.access.batches import real_in, small_batch
from andon.verify.access.calls import gradients, loss_of, needed
from andon.verify.access.larger_weights import perturbed_model
from andon.verify.access.targets import targets_of
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable
from andon.verify.observation.cross_entropy import cross_entropy
from andon.verify.observation.perturb import logits_eval, rounding_tolerance
from andon.verify.observation.tolerances import require_close
from andon.verify.subject import Subject

GRADIENT = 1e-3


def check_logits(subject: Subject) -> None:
    """With the same weights, the logits are those of the reference implementation.

    Silent because a model that differs from its architecture still learns.

    Look at what differs from the paper: layout of rotations, order of heads, epsilons, activations.

    Example:
        # wrong: rotates neighboring pairs; Hugging Face's Llama weights are made for halves
        def rotate(x):
            x1, x2 = x[..., 0::2], x[..., 1::2]
            return torch.stack((-x2, x1), dim=-1).flatten(-2)

        # right
        def rotate(x):
            x1, x2 = x.chunk(2, dim=-1)
            return torch.cat((-x2, x1), dim=-1)

    Reference: huggingface/transformers#25199.
    """
    reference_logits, model, batch = needed(subject, "reference_logits"), perturbed_model(subject), small_batch(subject)
    with torch.no_grad():
        expected = reference_logits(model, batch)
    real = real_in(subject, batch)
    actual = logits_eval(subject, model, batch)
    require_close(actual[real], expected[real], rounding_tolerance(subject, model, batch), "logits and the reference's")


def check_loss(subject: Subject) -> None:
    """The loss is the cross-entropy of the reference implementation's logits.

    Silent because a loss with another divisor or other labels falls as well.

    Look at labels, shift and divisor.

    Example:
        # wrong: the mean counts ignored positions, whose loss is 0
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
        loss = losses.mean()

        # right
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
        loss = losses.sum() / (labels != -100).sum()

    Reference: Lightning-AI/litgpt#751.
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

    Example:
        # wrong: the derivative of x * sigmoid(x) lacks its second term
        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            return grad_output * torch.sigmoid(x)

        # right
        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            s = torch.sigmoid(x)
            return grad_output * s * (1 + x * (1 - s))

    Reference: PyTorch documentation, Extending PyTorch.
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
