"""What an evaluation reports beside its loss, as it ought to be, and as it comes out where it goes wrong.

Legend: B batch, T time.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from andon.verify.access.batches import real_in
from andon.verify.access.calls import new_model
from andon.verify.access.larger_weights import sharpened
from andon.verify.access.logits import logits_of
from andon.verify.access.parts import find, part
from andon.verify.access.roles import IGNORE
from andon.verify.access.targets import targets_of, tokens_of, with_targets
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.observation.cross_entropy import cross_entropy
from andon.verify.observation.evaluations import evaluation_batches, losses_at_rest
from andon.verify.observation.micro_batches import weight_of
from andon.verify.subject import Batch, Subject
from andon.verify.vocabulary import METRICS

HALF = 0.5


class Due(NamedTuple):
    """What a metric has to be, and what it is called that others get in its place."""

    right: tuple[float, ...]
    wrong: dict[str, float]

    def require(self, found: float, what: str, allowed: float) -> None:
        """Fail where a value is known to be wrong; yellow where it is neither that nor right.

        Raises:
            CheckFailed: so it is.
        """
        if any(_is_near(found, each, allowed) for each in self.right):
            return
        right = " or ".join(dict.fromkeys(f"{each:.6g}" for each in self.right))
        message = f"{what} is {found:.6g}; it should be {right}"
        for name, value in self.wrong.items():
            if _is_near(found, value, allowed):
                raise CheckFailed(f"{message}, and {value:.6g} is {name}")
        raise Unusual(f"{message}; right where it is meant to be of other tokens")


class _Seen(NamedTuple):
    """What one batch holds, and the model makes of it at rest."""

    loss: float
    nats: float  # of a label: the cross-entropy of the logits, which a smoothed or a router's loss is not
    weight: float
    counted: int
    correct: int
    under: int  # labels as they stand that are the choice at their own place
    places: int
    real: int


def answered_batches(subject: Subject) -> list[Batch]:
    """Batches to evaluate in which half of the targets are what a sharpened model would choose."""
    model = sharpened(new_model(subject)).eval()
    generator, made = torch.Generator().manual_seed(0), list[Batch]()
    for batch in evaluation_batches(subject):
        targets_BT, choice_BT = targets_of(subject, batch), _logits(subject, model, batch).argmax(-1)
        chosen_BT = torch.rand(targets_BT.shape, generator=generator).to(targets_BT.device) < HALF
        answered_BT = torch.where(chosen_BT & (targets_BT != IGNORE), choice_BT, targets_BT)
        made.append(with_targets(subject, batch, answered_BT))
    return made


def reported(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Those whose names say what they are.

    Raises:
        NotApplicable: there are none.
    """
    found = {key: float(value) for key, value in metrics.items() if key in METRICS}
    if not found:
        raise NotApplicable(f"metrics by one of the names {', '.join(METRICS)}")
    return found


def due_metrics(subject: Subject, model: nn.Module, batches: list[Batch]) -> dict[str, Due]:
    """By name, what each metric has to be of this model and these batches."""
    training = model.training
    model.eval()
    losses = losses_at_rest(subject, model, batches)
    seen = [_look(subject, model, batch, loss) for batch, loss in zip(batches, losses, strict=True)]
    model.train(training)
    return {"perplexity": _perplexity(seen), "accuracy": _accuracy(seen), "tokens": _tokens(seen)}


def _look(subject: Subject, model: nn.Module, batch: Batch, loss: float) -> _Seen:
    targets_BT, logits_BTV = targets_of(subject, batch), _logits(subject, model, batch)
    choice_BT, counted_BT = logits_BTV.argmax(-1), targets_BT != IGNORE
    labels_BT = part(subject, batch, "labels") if "labels" in find(subject, batch) else tokens_of(subject, batch)
    return _Seen(
        loss,
        float(cross_entropy(logits_BTV, targets_BT)),
        weight_of(subject, batch),
        int(counted_BT.sum()),
        int((choice_BT == targets_BT)[counted_BT].sum()),
        int(((choice_BT == labels_BT) & (labels_BT >= 0)).sum()),
        targets_BT.numel(),
        int(real_in(subject, batch).sum()),
    )


def _perplexity(seen: list[_Seen]) -> Due:
    """By the loss, and by the logits alone, which is another where the loss is smoothed or has other parts."""
    right, wrong = _perplexities([(each.loss, each.weight) for each in seen])
    own, wrong_own = _perplexities([(each.nats, each.counted) for each in seen])
    return Due((right, own), wrong | {f"{name}, of the logits alone": value for name, value in wrong_own.items()})


def _perplexities(batches: list[tuple[float, float]]) -> tuple[float, dict[str, float]]:
    """The right one of batches' nats and weights, and by name the wrong ones."""
    total, mean = sum(weight for _, weight in batches), sum(loss for loss, _ in batches) / len(batches)
    nats = sum(loss * weight for loss, weight in batches) / total
    wrong = {
        "e to the mean of batches' means": math.exp(mean),
        "the mean of batches' own": sum(math.exp(loss) for loss, _ in batches) / len(batches),
        "the mean of batches' own, by their tokens": sum(math.exp(loss) * weight for loss, weight in batches) / total,
        "2 to the power of nats": 2**nats,
        "the last batch's": math.exp(batches[-1][0]),
        "the loss itself": nats,
    }
    return math.exp(nats), wrong


def _accuracy(seen: list[_Seen]) -> Due:
    correct, counted = sum(each.correct for each in seen), sum(each.counted for each in seen)
    places = sum(each.places for each in seen)
    wrong = {
        "the mean of batches' own": sum(each.correct / each.counted for each in seen) / len(seen),
        "the share of all places, ignored ones too": correct / places,
        "that of labels at their own place": sum(each.under for each in seen) / counted,
        "the last batch's": seen[-1].correct / seen[-1].counted,
    }
    percent = {f"{name}, in percent": 100 * value for name, value in wrong.items()}
    return Due((correct / counted, 100 * correct / counted), wrong | percent)


def _tokens(seen: list[_Seen]) -> Due:
    ways = {
        "labels": [each.counted for each in seen],
        "tokens": [each.real for each in seen],
        "places": [each.places for each in seen],
    }
    ends = (("first", 0), ("last", -1))
    wrong = {f"the {end} batch's {name}": float(way[at]) for name, way in ways.items() for end, at in ends}
    return Due(tuple(dict.fromkeys(float(sum(way)) for way in ways.values())), wrong)


def _logits(subject: Subject, model: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        return logits_of(subject, model, batch)


def _is_near(found: float, due: float, allowed: float) -> bool:
    """Within what rounding explains, of a perplexity's exponent too."""
    return abs(found - due) <= allowed * abs(due) * max(1.0, math.log(max(due, 1.0)))
