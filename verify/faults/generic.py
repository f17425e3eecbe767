"""Generic faults: they can be injected into any subject, around its factories, to measure anybody's own checks.

A fault of a factory that the subject lacks is not injected.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from andon.verify.access.roles import IGNORE
from andon.verify.faults import changes
from andon.verify.subject import Subject


class GenericFault(NamedTuple):
    """A fault of any subject."""

    id: str
    area: str
    what: str
    factory: str  # of the subject, that it is put around
    change: Callable[..., Any]

    def inject(self, subject: Subject) -> Subject | None:
        """The subject with the fault; None where it lacks the factory."""
        old = getattr(subject, self.factory)
        if old is None:
            return None
        return replace(subject, **{self.factory: lambda *arguments: self.change(subject, old, *arguments)})


GENERIC_FAULTS = (
    GenericFault("loss-scaled", "loss", "the loss counts 1.5 times", "loss", lambda s, f, *a: 1.5 * f(*a)),
    GenericFault("loss-first-row", "loss", "only the first row of a batch is counted", "loss", changes.of_first_row),
    GenericFault("loss-half-detached", "loss", "half of the loss passes no gradient", "loss", changes.half_detached),
    GenericFault("loss-coarse", "loss", "the loss is rounded to bfloat16", "loss", changes.coarse),
    GenericFault(
        "labels-shifted", "loss", "labels are shifted once more", "loss", changes.with_labels(changes.shifted)
    ),
    GenericFault(
        "labels-last-lost",
        "loss",
        "the last position is not counted",
        "loss",
        changes.with_labels(changes.without_last),
    ),
    GenericFault(
        "labels-ignored-counted",
        "loss",
        "labels to ignore are counted",
        "loss",
        changes.with_labels(lambda labels_BT: labels_BT.masked_fill(labels_BT == IGNORE, 0)),
    ),
    GenericFault(
        "future-leak", "attention", "each token sees a tenth of the next", "model", changes.with_states(changes.leaking)
    ),
    GenericFault(
        "first-token-lost", "attention", "the first token is not seen", "model", changes.with_states(changes.blind)
    ),
    GenericFault(
        "rows-mixed",
        "attention",
        "each row sees a tenth of another",
        "model",
        changes.with_states(lambda x_BTD: x_BTD + 0.1 * x_BTD.roll(1, 0)),
    ),
    GenericFault(
        "dropout-in-eval",
        "determinism",
        "dropout goes on in evaluation",
        "model",
        changes.with_states(lambda x_BTD: torch.dropout(x_BTD, 0.1, True)),
    ),
    GenericFault(
        "state-kept", "determinism", "states grow with every call", "model", changes.with_states(changes.growing())
    ),
    GenericFault(
        "gradient-scaled", "gradients", "one gradient is 1% off", "loss", changes.with_gradient(lambda g: 1.01 * g)
    ),
    GenericFault(
        "gradient-zero", "gradients", "one tensor gets no gradient", "loss", changes.with_gradient(torch.zeros_like)
    ),
    GenericFault(
        "gradient-entry",
        "gradients",
        "one entry has the wrong sign",
        "loss",
        changes.with_gradient(changes.one_entry_turned),
    ),
    GenericFault(
        "gradient-coarse",
        "gradients",
        "one gradient is rounded to bfloat16",
        "loss",
        changes.with_gradient(lambda gradient: gradient.bfloat16().to(gradient.dtype)),
    ),
    GenericFault("parameter-forgotten", "optimizer", "one parameter is in no group", "optimizer", changes.forgetful),
    GenericFault("decay-everywhere", "optimizer", "norms and biases decay", "optimizer", changes.with_decay(True)),
    GenericFault("decay-nowhere", "optimizer", "nothing decays", "optimizer", changes.with_decay(False)),
    GenericFault("gradients-kept", "accumulation", "gradients are never cleared", "train_step", changes.not_cleared),
    GenericFault(
        "last-micro-batch-lost",
        "accumulation",
        "the last micro-batch is left out",
        "train_step",
        changes.without_last_batch,
    ),
    GenericFault(
        "clipped-twice",
        "clipping",
        "gradients are clipped again, to half the bound",
        "train_step",
        changes.clipped_again,
    ),
    GenericFault("updated-twice", "updates", "each step updates twice", "train_step", changes.updated_twice),
    GenericFault("weights-rounded", "updates", "weights are kept in bfloat16", "train_step", changes.rounded),
    GenericFault(
        "rate-late",
        "schedule",
        "the rate is the previous step's, and first 0",
        "lr_at",
        lambda s, rate, step: rate(step - 1) if step else 0.0,
    ),
    GenericFault(
        "rate-compounds",
        "schedule",
        "the rate falls by 1% a step besides",
        "lr_at",
        lambda s, rate, step: rate(step) * 0.99**step,
    ),
    GenericFault("rate-rises-again", "schedule", "beyond the last step the rate rises", "lr_at", changes.rising_again),
    GenericFault(
        "validation-mean-of-means", "evaluation", "batches' means are averaged", "validate", changes.mean_of_means
    ),
    GenericFault(
        "validation-left-in-eval", "evaluation", "the model stays in eval mode", "validate", changes.left_in_eval
    ),
    GenericFault("validation-draws", "evaluation", "validation draws random numbers", "validate", changes.drawing),
    GenericFault("resume-without-moments", "resume", "moments start at 0 again", "resume", changes.without_moments),
    GenericFault("resume-one-late", "resume", "a resume loses one step's data", "resume", changes.one_late),
    GenericFault(
        "epochs-alike", "data", "every epoch has the first's order", "epoch_batches", lambda s, epoch, index: epoch(0)
    ),
    GenericFault(
        "last-batch-lost",
        "data",
        "an epoch ends a batch early",
        "epoch_batches",
        lambda s, epoch, index: list(epoch(index))[:-1],
    ),
    GenericFault(
        "held-out-trained-on",
        "data",
        "validation batches are training batches",
        "validation_batches",
        changes.trained_on,
    ),
    GenericFault(
        "documents-joined", "data", "labels cross the ends of packed documents", "collate_packed", changes.joined
    ),
    GenericFault(
        "documents-unmarked", "attention", "packed documents see each other", "collate_packed", changes.unmarked
    ),
    GenericFault(
        "cache-forgets", "generation", "cached decoding loses the first token", "cached_logits", changes.forgotten_first
    ),
    GenericFault(
        "generation-strays", "generation", "the last token is not the likeliest", "generate", changes.second_best
    ),
)
BY_ID = {each.id: each for each in GENERIC_FAULTS}
