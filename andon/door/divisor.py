"""Whether a captured loss can be held against the mean cross-entropy of its labels, and of others."""

import torch

from andon.door.questions.targets import shown_in
from andon.verify.access.batches import rows_of
from andon.verify.access.calls import loss_of, new_batch, new_model, seeded
from andon.verify.access.facts import CrossEntropy
from andon.verify.access.targets import labeled, tokens_of
from andon.verify.capturing.micro_batch import Captured
from andon.verify.errors import NotApplicable
from andon.verify.observation.protect import protected
from andon.verify.subject import Subject

# What takes the batch's labels to be the targets: asked where the loss's own gradient shows that they are.
OF_LABELS = ("loss.definition", "loss.shapes", "loss.ignored", "loss.gradient")
OF_OTHER_LABELS = OF_LABELS[1:]  # with some of them left out
LABELS = "labels that its gradient shows to be what the loss predicts"
DIVISOR = "a loss whose divisor is computed from its batch: here twice the rows make twice the loss"
WHOLE = 1e-3


def lack_of_labels(captured: Captured, subject: Subject, *, accumulates: bool) -> dict[str, str]:
    """What is not asked of the labels, and why.

    Where a step has several micro-batches, their loss may be a part of a mean over all of them. A divisor that was
    computed before what was captured, as transformers' `num_items_in_batch`, stays what it was when labels change.
    """
    with protected():
        try:
            shown = shown_in(captured)
            labels = labeled(subject, new_batch(subject))
        except NotApplicable:
            return dict.fromkeys(OF_LABELS, LABELS)
        if shown.targets.shape != labels.shape or not bool((shown.targets == labels).all()):
            return dict.fromkeys(OF_LABELS, LABELS)
        mean = abs(float(shown.weights.sum()) - 1.0) <= WHOLE
        if not mean and accumulates:
            return dict.fromkeys(OF_LABELS, LABELS)
        if _is_a_sum(captured, shown) or not _grows_with_rows(subject):
            return {}
        return dict.fromkeys(OF_OTHER_LABELS if mean else OF_LABELS, DIVISOR)


def _is_a_sum(captured: Captured, shown: CrossEntropy) -> bool:
    """Whether each label weighs 1, and nothing divides them."""
    weights = shown.weights[shown.counted]
    return captured.factor == 1 and bool(((weights - 1).abs() <= WHOLE).all())


def _grows_with_rows(subject: Subject) -> bool:
    """Whether twice the rows make twice the loss; not where the script's code does not take them."""
    batch, model, losses = new_batch(subject), new_model(subject).eval(), []
    try:
        rows = [*range(len(tokens_of(subject, batch)))]
        for each in (batch, rows_of(subject, batch, [*rows, *rows])):
            with seeded(), torch.no_grad():
                losses.append(float(loss_of(subject, model, each)))
    except Exception:  # noqa: BLE001 - our own change provoked it
        return False
    return losses[0] != 0 and abs(losses[1] / losses[0] - 2) <= WHOLE
