"""What a loss is made of: each part of it is meant, and each part that is meant is in it.

Legend: B batch, T time.
"""

import torch
from torch import nn

from andon.verify.access.batches import other_tokens, small_batch
from andon.verify.access.calls import gradients, loss_of, new_batch, new_model
from andon.verify.access.larger_weights import perturbed_model
from andon.verify.access.parts import find
from andon.verify.access.roles import IGNORE
from andon.verify.access.targets import require_cross_entropy, targets_of, tokens_of, with_targets, with_tokens
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual, left_out_by
from andon.verify.observation.cross_entropy import cross_entropy_gradients
from andon.verify.observation.perturb import logits_eval, rounding_tolerance
from andon.verify.observation.shapes import repeated_losses
from andon.verify.observation.tolerances import distance, norm_of
from andon.verify.observation.unused import unused_scalars
from andon.verify.subject import Batch, Subject

NAMED = 3
NOTHING = 1e-6  # of a parameter's gradient: what the cross-entropy adds to it where it adds nothing


def check_unused(subject: Subject) -> None:
    """Each single number that a pass makes of trainable parameters is a part of the loss, or is read.

    Yellow alone, as such a number may be a metric that its caller reads later.

    Silent because the loss falls without it: experts are not balanced, a second head does not learn.

    Look at the line that is named: at a result that is not added, and at a function's result that is not used.

    Example:
        # wrong: the balancing loss is computed, and never added
        hidden, balance = self.experts(hidden)
        return F.cross_entropy(self.head(hidden).flatten(0, 1), labels.flatten())

        # right
        hidden, balance = self.experts(hidden)
        return F.cross_entropy(self.head(hidden).flatten(0, 1), labels.flatten()) + 0.01 * balance

    Reference: Fedus et al. 2021, arXiv:2101.03961, section 2.2.
    """
    left = unused_scalars(subject, new_model(subject).train(), new_batch(subject))
    if left:
        said = ", ".join(f"{line} ({value:.4g})" for line, value in list(left.items())[:NAMED])
        raise Unusual(
            f"{len(left)} number(s) with a gradient are neither a part of the loss nor read: made at {said}; right for "
            "metrics, which `detach` or `no_grad` would say"
        )


def check_rows(subject: Subject) -> None:
    """A row of which every label is ignored has no part in the loss.

    Asked where the loss is a cross-entropy, and of no mixture, which balances all tokens.

    Yellow alone, as a second objective may be meant to learn from every token.

    Silent because there is little of it, and it falls as well.

    Look at losses beside the main one: at labels of their own, which the mask of prompts and padding does not reach.

    Example:
        # wrong: the second head learns prompts, which the labels leave out
        ahead = F.cross_entropy(far[:, :-2].flatten(0, 1), input_ids[:, 2:].flatten())

        # right
        ahead = F.cross_entropy(far[:, :-2].flatten(0, 1), labels[:, 2:].flatten())
    """
    require_cross_entropy(subject)
    if subject.mixture_of_experts:
        raise left_out_by("mixture_of_experts", True, "a loss that balances no tokens")
    model, batch = perturbed_model(subject), small_batch(subject)
    tokens_BT, targets_BT = tokens_of(subject, batch), targets_of(subject, batch).clone()
    if "labels" not in find(subject, batch) or len(tokens_BT) < 2:
        raise NotApplicable("several rows, and labels of their own")
    targets_BT[0] = IGNORE
    if not bool((targets_BT != IGNORE).any()):
        raise NotApplicable("a batch with counted labels in several rows")
    ignored = with_targets(subject, batch, targets_BT)
    changed_BT = tokens_BT.clone()
    changed_BT[0] = other_tokens(tokens_BT)[0]
    before, after = (gradients(subject, model, each) for each in (ignored, with_tokens(subject, ignored, changed_BT)))
    tolerance = 10 * rounding_tolerance(subject, model, batch, loss_of)
    size, moved = norm_of(before.values()), norm_of(after[name] - each for name, each in before.items())
    if not moved <= tolerance * size:
        raise Unusual(
            f"with all labels of a row ignored, other tokens in it move the gradient by {moved / size:.2g} of itself, "
            f"and rounding explains {tolerance:.0e}: right for a second objective that learns from every token"
        )


def check_reach(subject: Subject) -> None:
    """What moves the logits gets a gradient from their own cross-entropy, not from another part of the loss alone.

    Asked where the loss has such a part.

    Yellow alone, as what chooses may be meant to learn from its balance alone.

    Silent because the other part gives a gradient, so that the parameter moves: it learns anything but its task.

    Look at routers: a weight that is divided by itself is always 1, and takes the gradient away.

    Example:
        # wrong: with one expert a token, the weight divided by the sum of the weights is 1
        weight, chosen = probs.topk(1)
        weight = weight / weight.sum(-1, keepdim=True)

        # right
        weight, chosen = probs.topk(1)

    Reference: Fedus et al. 2021, arXiv:2101.03961, section 2.1.
    """
    model, batch = perturbed_model(subject), small_batch(subject)
    whole = gradients(subject, model, batch)
    own = cross_entropy_gradients(subject, model, batch, targets_of(subject, batch))
    if all(norm_of([each - own[name]]) <= 1e-3 * norm_of([each]) for name, each in whole.items()):
        raise NotApplicable("a loss with another part than its cross-entropy")
    other = [name for name, each in whole.items() if norm_of([own[name]]) <= NOTHING * norm_of([each]) and each.any()]
    moving = [name for name in other if _moves_logits(subject, model, batch, name)]
    if moving:
        raise Unusual(
            f"{len(moving)} parameter(s) move the logits and have no gradient from their cross-entropy, only from "
            f"another part of the loss: {', '.join(moving[:NAMED])}; right for what is to be balanced alone"
        )


def check_shapes(subject: Subject) -> None:
    """A loss compares each number with its own target: not each with all of them.

    Seen in a pass, at torch's own losses of differences: one whose input and target are both repeated along each other.

    Silent because the loss falls to the variance of the targets: the model learns their mean.

    Look at a dimension of 1 that only one side has: `squeeze(-1)` the one, or `unsqueeze(-1)` the other.

    Example:
        # wrong: (B, 1) and (B,) are compared as (B, B)
        loss = F.mse_loss(model(x), y)

        # right
        loss = F.mse_loss(model(x).squeeze(-1), y)

    Reference: PyTorch documentation, Broadcasting semantics.
    """
    found = repeated_losses(subject, new_model(subject).eval(), new_batch(subject))
    if found:
        first = found[0]
        raise CheckFailed(
            f"{first.name} at {first.line} is given {first.shapes[0]} and {first.shapes[1]}, and compares them as "
            f"{first.result}: each number with every target"
        )


def _moves_logits(subject: Subject, model: nn.Module, batch: Batch, name: str) -> bool:
    """Whether other numbers in this parameter make other logits; it is put back."""
    parameter = model.get_parameter(name)
    before, kept = logits_eval(subject, model, batch), parameter.detach().clone()
    noise = torch.randn(kept.shape, generator=torch.Generator().manual_seed(0)).to(kept)
    with torch.no_grad():
        parameter.add_(noise * kept.square().mean().sqrt())
    after = logits_eval(subject, model, batch)
    with torch.no_grad():
        parameter.copy_(kept)
    return distance(after, before) > rounding_tolerance(subject, model, batch)


CHECKS = (
    Check("objective.unused", check_unused),
    Check("objective.rows", check_rows),
    Check("objective.reach", check_reach),
    Check("objective.shapes", check_shapes),
)
