"""What of a captured Subject its own passes show, in the words of its fields: `--write` puts each in a line."""

from typing import Any

from andon.verify.access.calls import new_batch
from andon.verify.access.parts import find
from andon.verify.access.targets import predicts_next, require_cross_entropy, require_plain, require_value
from andon.verify.errors import NotApplicable
from andon.verify.observation.protect import protected
from andon.verify.subject import CROSS_ENTROPY, Subject


def traits(subject: Subject, *, labels_are_targets: bool) -> dict[str, Any]:
    """Roles of the batch's parts, the objective and causality, each as far as it is shown."""
    with protected():
        found: dict[str, Any] = {"roles": _roles(subject)}
        try:
            if labels_are_targets and _is_cross_entropy(subject):
                found["objective"] = CROSS_ENTROPY
            if predicts_next(subject):
                found["causal"] = True
        except NotApplicable:  # a batch without tokens
            pass
    return {name: value for name, value in found.items() if value}


def _roles(subject: Subject) -> dict[str, str]:
    return {role: str(key) for role, key in find(subject, new_batch(subject)).items()}


def _is_cross_entropy(subject: Subject) -> bool:
    """Whether the loss is nothing but the mean cross-entropy of labels alike, in its gradient and in its value."""
    try:
        for requires in (require_cross_entropy, require_plain, require_value):
            requires(subject)
    except NotApplicable:
        return False
    return True
