"""Autograd's gradients are the slope of the loss."""

from torch import Tensor

from andon.verify.access.calls import seeded
from andon.verify.access.larger_weights import fill_zero_parameters
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.gradients.compare import (
    NAMED,
    Place,
    compare_all,
    inputs_of,
    is_near,
    is_what_stops_leave_out,
    prepared,
    unheld_difference,
)
from andon.verify.gradients.held import Stops
from andon.verify.gradients.surrogates import Custom
from andon.verify.subject import Subject


def check_parameters(subject: Subject) -> str:
    """The gradient of every trainable parameter is the slope of the loss.

    Silent because a wrong gradient still points downhill more often than not: training is slower and ends worse.

    Look at the custom backward, `detach`, `no_grad`, in-place change or recomputation on the way from the loss to
    the parameter that is named; a ratio of 0.5 or 2 is a lost or doubled branch, one near 1 a constant or an
    epsilon.

    Yellow where the gradient is the slope only as the code holds something, or an autograd function passes on another
    by its nature: targets, teachers and straight-through estimators do.

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
    note = _compare(place, place.parameters)
    _require_moving(place)
    return note


def check_inputs(subject: Subject) -> str:
    """The gradient of what embedding layers return, and of features in the batch, is the slope of the loss.

    Silent because the parameters of the upper layers still learn; what lies before the fault learns something else.

    Look at residual connections, at the backward of norms and attention, and at anything detached on the way down.

    Yellow where an autograd function passes on another gradient by its nature, as straight-through estimators do.

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
    note = _agree(place, leaves)
    if any(parameter.dim() > 1 and not parameter.any() for parameter in place.model.parameters()):
        fill_zero_parameters(place.model)
        _agree(place, leaves)
    return note


def _agree(place: Place, leaves: dict[str, Tensor]) -> str:
    """Compare with what the code holds held, and say what that is where it matters.

    Raises:
        CheckFailed: autograd's gradient is the slope neither so nor with all moving.
        Unusual: it is a slope only as something is held, or a custom function passes another on by its nature.
    """
    stops, state = Stops(), list(place.model.buffers())
    try:
        note = compare_all(place.function, leaves, rtol=place.rtol, note=place.note, state=state, stops=stops).note
    except CheckFailed as wrong:
        if stops.found and is_what_stops_leave_out(place, leaves):
            return place.note
        custom = Custom(place.function)
        if surrogate := custom.surrogate():
            raise Unusual(f"{wrong}; {surrogate}: what lies behind is not measured") from wrong
        if is_near(place, leaves) and (near := custom.approximation()):
            raise Unusual(f"{wrong}; {near}: right for an approximation or a solver") from wrong
        raise
    return note


def _require_moving(place: Place) -> None:
    """Say so where what the code holds would move the loss with the parameters.

    Raises:
        Unusual: it would.
    """
    stops = Stops()
    with seeded(), stops.recording():
        place.function()
    if stops.places and (left_out := unheld_difference(place, place.parameters)):
        where = ", ".join(list(stops.places)[:NAMED]) + ", ..." * (len(stops.places) > NAMED)
        raise Unusual(
            f"{left_out}; that is what {where} takes out of the gradient (detach, no_grad, item): right for a target, "
            "a teacher or a straight-through estimator"
        )


CHECKS = (
    Check("gradients.parameters", check_parameters, tier=2),
    Check("gradients.inputs", check_inputs, tier=2),
)
