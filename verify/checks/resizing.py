"""A vocabulary that grows: what the model knew stays, and what is new can be learned.

Legend: B batch, T time, V vocab.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from andon.verify.access.calls import loss_of, needed, new_model
from andon.verify.access.facts import facts_of
from andon.verify.access.logits import logits_of
from andon.verify.access.targets import targets_of
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual, listed
from andon.verify.observation.answers import any_batch, is_cross_entropy
from andon.verify.observation.cross_entropy import cross_entropy
from andon.verify.observation.fresh_memory import UnfilledAsNan
from andon.verify.observation.model_state import shared_pairs
from andon.verify.observation.perturb import rounding_tolerance
from andon.verify.observation.settings import setting, settings_of
from andon.verify.observation.tolerances import distance, require_close, rms
from andon.verify.observation.uses import Uses
from andon.verify.subject import Batch, Subject

MORE = 5  # words
FARTHEST = 10.0  # of the old rows' scale, either way
SIZE = "vocab_size"


def check_vocabulary(subject: Subject) -> None:
    """A larger vocabulary leaves old words as they are, and gives new ones usable rows in embedding and head alike.

    The embedding is what tokens are seen to be looked up in, the vocabulary as wide as the logits. Old rows and all
    else are bit for bit the same, embedding and head stay one tensor where they were one, new rows are finite, logits
    of old words are the same, and the loss is the cross-entropy of all columns.

    Silent because old words go on as before: what is new, or no longer tied, is only learned badly.

    Look at what is copied into the new tensors, at memory that nobody fills, at the head's bias, and at tying after.

    Yellow where new rows are of another scale than the old ones, or zero, or the configuration keeps the old size: all
    can be mended later.

    Example:
        # wrong: the head is another tensor now, and has the old size
        old = model.embed.weight
        model.embed = nn.Embedding(size, old.shape[1])
        model.embed.weight.data[: len(old)] = old.data

        # right
        old = model.embed.weight
        model.embed = nn.Embedding(size, old.shape[1])
        nn.init.normal_(model.embed.weight, std=float(old.std()))
        model.embed.weight.data[: len(old)] = old.data
        model.head.weight = model.embed.weight

    Reference: Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models".
    """
    resize, batch = needed(subject, "resize_vocabulary"), any_batch(subject)
    old = new_model(subject).eval()
    with torch.no_grad(), Uses(old) as uses:
        logits_BTV = logits_of(subject, old, batch)
    words = logits_BTV.shape[-1]
    again = new_model(subject)
    with UnfilledAsNan():
        model = resize(again, words + MORE).eval()
    _require_names(old, model)
    _require_grown(old, model, words, uses.looked_up)
    _require_kept(old, model)
    _require_tied(old, model)
    grown = replace(subject, model=lambda: resize(subject.model(), words + MORE))
    _require_columns(grown, words)
    _require_logits(grown, model, batch, logits_BTV)
    _require_loss(grown, model, batch)
    _require_scale(old, model)
    _require_settings(old, model, words)


def _require_names(old: nn.Module, model: nn.Module) -> None:
    """Fail where a parameter is gone, with its numbers.

    Raises:
        NotApplicable: a parameter of a new name begins with them.
    """
    before, now = (dict(each.named_parameters(remove_duplicate=False)) for each in (old, model))
    new = [each.detach() for name, each in now.items() if name not in before]
    gone = [name for name in before if name not in now]
    for name in gone:
        if not any(_begins_with(each, before[name]) for each in new):
            raise CheckFailed(f"{name} is no parameter any more")
    if gone:
        raise NotApplicable(f"a resize_vocabulary that keeps the names of parameters, as {gone[0]}")


def _begins_with(now: Tensor, before: Tensor) -> bool:
    if not before.dim() or now.shape[1:] != before.shape[1:]:
        return torch.equal(now, before)
    return torch.equal(now[: len(before)], before)


def _require_grown(old: nn.Module, model: nn.Module, words: int, looked_up: set[str]) -> None:
    """Fail where a table of all words, in which tokens were looked up, has fewer rows than there are words now."""
    for name in sorted(looked_up):
        if len(old.get_parameter(name)) == words and len(model.get_parameter(name)) < words + MORE:
            raise CheckFailed(
                f"{name}, in which tokens are looked up, has {len(model.get_parameter(name))} rows, and there are "
                f"{words + MORE} words now"
            )


def _require_kept(old: nn.Module, model: nn.Module) -> None:
    """Fail where a parameter is of another dtype, not what it was where it was, or no number elsewhere."""
    now = dict(model.named_parameters(remove_duplicate=False))
    for name, before in old.named_parameters(remove_duplicate=False):
        if now[name].dtype != before.dtype:
            raise CheckFailed(f"{name} was {before.dtype} and is {now[name].dtype}")
        wrong = int((_old_part(now[name], before) != before).sum())
        if wrong:
            raise CheckFailed(f"{wrong} of the {before.numel()} old numbers of {name} are others")
        lost = int((~now[name].isfinite()).sum())
        if lost and bool(before.isfinite().all()):
            raise CheckFailed(
                f"{lost} of the {now[name].numel() - before.numel()} new numbers of {name} are not finite"
            )


def _old_part(now: Tensor, before: Tensor) -> Tensor:
    """The corner of a tensor where the old one was.

    Raises:
        CheckFailed: it is no larger one.
    """
    if now.dim() != before.dim() or any(one < other for one, other in zip(now.shape, before.shape, strict=True)):
        raise CheckFailed(f"a parameter of shape {tuple(before.shape)} has {tuple(now.shape)} in a larger vocabulary")
    return now.detach()[tuple(slice(size) for size in before.shape)]


def _require_tied(old: nn.Module, model: nn.Module) -> None:
    before, now = shared_pairs(old), shared_pairs(model)
    lost = [f"{one} and {other}" for one, other in before if (one, other) not in now]
    if lost:
        raise CheckFailed(f"{len(lost)} of {len(before)} pairs that were one tensor are two: {listed(lost)}")


def _require_columns(grown: Subject, words: int) -> None:
    """Fail where the loss is shown to be the cross-entropy of fewer columns than there are words."""
    shown = facts_of(grown).cross_entropy
    if shown is not None and shown.logits.shape[-1] < words + MORE:
        raise CheckFailed(
            f"the loss is the cross-entropy of {shown.logits.shape[-1]} words, and there are {words + MORE}"
        )


def _require_logits(subject: Subject, model: nn.Module, batch: Batch, old_BTV: Tensor) -> None:
    """Fail where logits of old words are others."""
    words = old_BTV.shape[-1]
    with torch.no_grad():
        new_BTV = logits_of(subject, model, batch)
    if new_BTV.shape[-1] < words + MORE:
        raise CheckFailed(f"{new_BTV.shape[-1]} words have logits, and there are {words + MORE}")
    tolerance = rounding_tolerance(subject, model, batch)
    require_close(new_BTV[..., :words], old_BTV, tolerance, "logits of the old words in a larger vocabulary")


def _require_loss(subject: Subject, model: nn.Module, batch: Batch) -> None:
    """Fail where a loss that was the cross-entropy of its logits is not that of all of them now."""
    if subject.mixture_of_experts or not is_cross_entropy(subject):
        return
    with torch.no_grad():
        logits_BTV, targets_BT = logits_of(subject, model, batch), targets_of(subject, batch)
        loss, due = loss_of(subject, model, batch), cross_entropy(logits_BTV, targets_BT)
    apart, tolerance = distance(loss, due), rounding_tolerance(subject, model, batch, loss_of)
    if not apart <= tolerance:
        raise CheckFailed(
            f"the loss in a vocabulary of {logits_BTV.shape[-1]} is {float(loss):.6g}, and the cross-entropy of its "
            f"logits {float(due):.6g}; rounding explains {tolerance:.0e} of it"
        )


def _require_scale(old: nn.Module, model: nn.Module) -> None:
    """Say where new rows are much larger or smaller than the old ones; biases may begin at zero."""
    now = dict(model.named_parameters())
    for name, before in old.named_parameters():
        if name in now and before.dim() > 1 and now[name].shape != before.shape and rms(before) > 0:
            added = now[name].detach()[len(before) :]
            share = rms(added) / rms(before)
            if added.numel() and not 1 / FARTHEST <= share <= FARTHEST:
                raise Unusual(
                    f"new rows of {name} have rms {rms(added):.3g}, and the old ones {rms(before):.3g}; right where "
                    "they are set before they are used"
                )


def _require_settings(old: nn.Module, model: nn.Module, words: int) -> None:
    for before, after in zip(settings_of(old), settings_of(model), strict=False):
        said = setting(after, SIZE)
        if setting(before, SIZE) == words and said == words:
            raise Unusual(
                f"the configuration says {SIZE} {said}, and there are {words + MORE} words; right where it is changed "
                "before the model is saved"
            )


CHECKS = (Check("resizing.vocabulary", check_vocabulary, ("resize_vocabulary",)),)
