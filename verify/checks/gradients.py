"""Autograd's gradients are the slope of the loss."""

from ..failure import NotApplicable
from ..gradients import compare_all, inputs_of, prepared
from ..prepare import unzeroed
from ..subject import Subject


def check_parameters(subject: Subject) -> str:
    """The gradient of every trainable parameter is the slope of the loss.

    Silent because a wrong gradient still points downhill more often than not: training is slower and ends worse.

    Look at the custom backward, `detach`, `no_grad`, in-place change or recomputation on the way from the loss to the
    parameter that is named; a ratio of 0.5 or 2 is a lost or doubled branch, one near 1 a constant or an epsilon.
    """
    place = prepared(subject, training=True)
    unzeroed(place.model)
    return compare_all(place.function, place.parameters, rtol=place.rtol, note=place.note).note


def check_inputs(subject: Subject) -> str:
    """The gradient that reaches what the first layers are given is the slope of the loss.

    Silent because the parameters of the upper layers still learn; what lies before the fault learns something else.

    Look at residual connections, at the backward of norms and attention, and at anything detached on the way down.
    """
    place = prepared(subject, training=True)
    unzeroed(place.model)
    leaves = inputs_of(place)
    if not leaves:
        raise NotApplicable("a layer that turns ids into vectors, or floating features in the batch")
    return compare_all(place.function, leaves, rtol=place.rtol, note=place.note).note
