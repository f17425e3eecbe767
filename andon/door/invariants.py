"""What the invariants around each optimizer and its model state, beside what they measured."""

from typing import NamedTuple


class Invariant(NamedTuple):
    """What is true of any correct loop, and why training does not show where it is not."""

    title: str
    silent: str


INVARIANTS = {
    "watch.stale": Invariant(
        "The optimizer holds the model's own parameters.",
        "because it moves tensors that nobody uses, and the loss moves with the batches.",
    ),
    "watch.tied": Invariant(
        "Weights that are one tensor stay one.", "because two copies learn as well, each from its own part."
    ),
    "watch.mode": Invariant(
        "A model with dropout is trained in train mode.", "because without dropout the loss falls faster."
    ),
    "watch.batches": Invariant(
        "Each step has a batch of its own.", "because the loss of a batch that is always the same falls fastest."
    ),
    "watch.gradients": Invariant(
        "A gradient reaches each parameter that asks for one.", "because the others learn around it."
    ),
    "watch.zero_grad": Invariant(
        "A step's gradient holds nothing of the step before.",
        "because it acts as a momentum, and the loss still falls.",
    ),
    "watch.updates": Invariant(
        "A step moves what has a gradient.", "because some entries move, and the loss falls by them."
    ),
    "watch.frozen": Invariant(
        "What requires no gradient stays as it is.", "because nobody looks at weights that are not trained."
    ),
    "watch.finite": Invariant(
        "Losses, gradients and weights are finite.", "because many loops skip or hide a step that is not."
    ),
    "watch.loss": Invariant("The loss moves.", "because a constant loss is no error."),
}
