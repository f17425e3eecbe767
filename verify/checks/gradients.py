"""Autograd's gradients are the slope of the loss."""

from torch import Tensor

from andon.verify.checks.table import Check
from andon.verify.errors import NotApplicable
from andon.verify.gradients.compare import Place, compare_all, inputs_of, prepared
from andon.verify.observation.perturb import fill_zero_parameters
from andon.verify.subject import Subject


def check_parameters(subject: Subject) -> str:
    """The gradient of every trainable parameter is the slope of the loss.

    Silent because a wrong gradient still points downhill more often than not: training is slower and ends worse.

    Look at the custom backward, `detach`, `no_grad`, in-place change or recomputation on the way from the loss to
    the parameter that is named; a ratio of 0.5 or 2 is a lost or doubled branch, one near 1 a constant or an
    epsilon.

    Example:
        # wrong: the derivative of relu(x) ** 2 is 2 * relu(x)
        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            return grad_output * x.relu()

        # right
        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            return grad_output * 2 * x.relu()

    Reference: PyTorch documentation, torch.autograd.gradcheck.
    """
    place = prepared(subject, training=True)
    return _compare(place, place.parameters)


def check_inputs(subject: Subject) -> str:
    """The gradient of what embedding layers return, and of features in the batch, is the slope of the loss.

    Silent because the parameters of the upper layers still learn; what lies before the fault learns something else.

    Look at residual connections, at the backward of norms and attention, and at anything detached on the way down.

    Example:
        # wrong: leaves out that the norm itself depends on x
        @staticmethod
        def backward(ctx, grad_output):
            x, rms = ctx.saved_tensors
            return grad_output / rms

        # right
        @staticmethod
        def backward(ctx, grad_output):
            x, rms = ctx.saved_tensors
            x_hat = x / rms
            return (grad_output - x_hat * (grad_output * x_hat).mean(-1, keepdim=True)) / rms

    Reference: PyTorch documentation, torch.autograd.gradcheck.
    """
    place = prepared(subject, training=True)
    leaves = inputs_of(place)
    if not leaves:
        raise NotApplicable("a layer that turns ids into vectors, or floating features in the batch")
    return _compare(place, leaves)


def _compare(place: Place, leaves: dict[str, Tensor]) -> str:
    """As the model begins; where it begins with a matrix of zeros, which hides what is behind, once more without."""
    state = list(place.model.buffers())
    note = compare_all(place.function, leaves, rtol=place.rtol, note=place.note, state=state).note
    if any(parameter.dim() > 1 and not parameter.any() for parameter in place.model.parameters()):
        fill_zero_parameters(place.model)
        compare_all(place.function, leaves, rtol=place.rtol, state=state)
    return note


CHECKS = (
    Check("gradients.parameters", check_parameters, tier=2),
    Check("gradients.inputs", check_inputs, tier=2),
)
