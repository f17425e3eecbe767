"""What a batch's tokens are, and what they are to predict: inferred from its parts.

Legend: B batch, T time.
"""

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary

from andon.verify.access.calls import loss_of, new_batch, new_model, seeded
from andon.verify.access.facts import CrossEntropy, facts_of
from andon.verify.access.larger_weights import perturbed_model
from andon.verify.access.parts import find, part
from andon.verify.access.roles import IGNORE, fields, replaced
from andon.verify.errors import NotApplicable
from andon.verify.subject import Batch, Subject

HALF = 0.5
ALIKE = 1e-3  # of a weight in float32
NEAR = 1e-3  # of a loss, beside the cross-entropy of what the model returns: bfloat16's rounding in their mean
SAY = "Subject(objective='cross_entropy') says so"
_BY_VALUE = WeakIdKeyDictionary()  # whether a subject's loss is the cross-entropy of what its model returns
_COUNTS = WeakIdKeyDictionary()  # whether a subject's part that is called so says which labels count
_PADDING = WeakIdKeyDictionary()  # a subject's label that pads its rows
_IGNORED = WeakIdKeyDictionary()  # a subject's label that is not counted


def tokens_of(subject: Subject, batch: Batch) -> Tensor:
    """Token ids (B, T)."""
    return part(subject, batch, "tokens")


def with_tokens(subject: Subject, batch: Batch, tokens_BT: Tensor) -> Batch:
    """The batch with other tokens, all else as it is."""
    return replaced(batch, {find(subject, batch)["tokens"]: tokens_BT})


def is_shifted_inside(subject: Subject, batch: Batch) -> bool:
    """Whether the loss shifts labels (Hugging Face), or takes them as they stand.

    Told from the targets that its gradient shows, beside the labels of batch 0; else from where this batch has them.
    """
    own = new_batch(subject)
    if {"labels"} <= find(subject, own).keys() & find(subject, batch).keys():
        tokens_BT, labels_BT, shown_BT = tokens_of(subject, own), part(subject, own, "labels"), shown_targets(subject)
        if shown_BT is not None and labels_BT.shape == tokens_BT.shape and subject.causal is not False:
            shifted, as_they_are = _agreement(labels_BT[:, 1:], shown_BT[:, :-1]), _agreement(labels_BT, shown_BT)
            if max(shifted, as_they_are) > HALF:
                return shifted > as_they_are
    return stand_under_tokens(subject, batch)


def stand_under_tokens(subject: Subject, batch: Batch) -> bool:
    """Whether a batch's labels stand under their own tokens, or one to the left.

    Told from the batch itself: its labels repeat its tokens, or run ahead of them. No labels: the loss shifts.
    """
    found = find(subject, batch)
    if "labels" not in found:
        return True
    tokens_BT, labels_BT = tokens_of(subject, batch), part(subject, batch, "labels")
    if tokens_BT.shape != labels_BT.shape:
        raise NotApplicable("labels of the tokens' shape")
    if subject.causal is False:
        return False
    under = _agreement(tokens_BT, labels_BT)
    ahead = _agreement(tokens_BT[:, 1:], labels_BT[:, :-1])
    if max(under, ahead) < HALF:
        if isinstance(found["labels"], int):  # a pair (x, y) of random numbers, as tests have them
            return False
        raise NotApplicable("labels that are the batch's own tokens, at their place or one ahead")
    return under > ahead


def targets_of(subject: Subject, batch: Batch) -> Tensor:
    """(B, T): what the logits at each position are to predict, IGNORE where nothing is counted.

    Raises:
        NotApplicable: the loss is not shown to be a cross-entropy of the tokens' labels, and not said to be one.
    """
    require_cross_entropy(subject)
    return labeled(subject, batch)


def labeled(subject: Subject, batch: Batch) -> Tensor:
    """(B, T): what a batch's labels say that logits are to predict, whatever the loss makes of them."""
    tokens_BT = tokens_of(subject, batch)
    inside = is_shifted_inside(subject, batch)
    found = find(subject, batch)
    labels_BT = part(subject, batch, "labels") if "labels" in found else tokens_BT
    labels_BT = labels_BT.masked_fill((labels_BT < 0) | (labels_BT == _padding_label(subject)), IGNORE)
    if "counted" in found and _counts(subject):
        labels_BT = labels_BT.masked_fill(_counted(subject, batch, labels_BT) == 0, IGNORE)
    elif "labels" not in found and "mask" in found:
        labels_BT = labels_BT.masked_fill(_of_shape(part(subject, batch, "mask"), labels_BT, "mask") == 0, IGNORE)
    if not inside:
        return labels_BT
    targets_BT = torch.full_like(labels_BT, IGNORE)
    targets_BT[:, :-1] = labels_BT[:, 1:]
    return targets_BT


def _counts(subject: Subject) -> bool:
    """Whether the part that is to say which labels count leaves some out, or the loss is shown to listen to it."""
    if subject not in _COUNTS:
        batch = new_batch(subject)
        found = find(subject, batch)
        given = part(subject, batch, "counted") if "counted" in found else torch.zeros(1)
        _COUNTS[subject] = bool((given == 0).any()) or _is_read(subject, batch, found["counted"], given)
    return _COUNTS[subject]


def _is_read(subject: Subject, batch: Batch, key: str | int, given: Tensor) -> bool:
    """Whether the loss is another one where a part is zero at half of its places."""
    less = given.clone()
    less[..., : given.shape[-1] // 2] = 0
    model, losses = new_model(subject).eval(), []
    for each in (given, less):
        with seeded(), torch.no_grad():
            losses.append(float(loss_of(subject, model, replaced(batch, {key: each}))))
    return losses[0] != losses[1]


def _padding_label(subject: Subject) -> int:
    """The label at the ends of rows that the loss's gradient shows not to count on batch 0; IGNORE where none is."""
    if subject not in _PADDING:
        _PADDING[subject] = _uncounted_at_ends(subject, new_batch(subject))
    return _PADDING[subject]


def _uncounted_at_ends(subject: Subject, batch: Batch) -> int:
    shown_BT, found = shown_targets(subject), find(subject, batch)
    if shown_BT is None or "labels" not in found or part(subject, batch, "labels").shape != shown_BT.shape:
        return IGNORE
    labels_BT = part(subject, batch, "labels")
    if is_shifted_inside(subject, batch):
        labels_BT, shown_BT = labels_BT[:, 1:], shown_BT[:, :-1]
    idle_BT = (labels_BT >= 0) & (shown_BT == IGNORE)
    values = labels_BT[idle_BT].unique().tolist()
    if len(values) != 1:
        return IGNORE
    same_BT = labels_BT == values[0]
    at_ends_BT = same_BT.long().flip(1).cummin(1).values.flip(1).bool()
    return values[0] if torch.equal(same_BT, idle_BT) and torch.equal(same_BT, at_ends_BT) else IGNORE


def _counted(subject: Subject, batch: Batch, labels_BT: Tensor) -> Tensor:
    return _of_shape(part(subject, batch, "counted"), labels_BT, "counted")


def _of_shape(value: Tensor, labels_BT: Tensor, role: str) -> Tensor:
    """A part that says which labels count.

    Raises:
        NotApplicable: it has another shape than they.
    """
    if value.shape != labels_BT.shape:
        raise NotApplicable(f"{role} of the labels' shape {tuple(labels_BT.shape)}, not {tuple(value.shape)}")
    return value


def require_cross_entropy(subject: Subject) -> None:
    """Refuse a loss that neither shows nor says that it is a cross-entropy of the tokens' labels.

    Raises:
        NotApplicable: so it is; the message says what would say it.
    """
    if not subject.objective and shown_targets(subject) is None and not _is_by_value(subject):
        raise NotApplicable(f"a cross-entropy of the tokens' labels: {SAY}")


def require_plain(subject: Subject) -> None:
    """Refuse a cross-entropy that is smoothed, weighs its labels, or is one part of a loss among others.

    Raises:
        NotApplicable: so it is.
    """
    require_cross_entropy(subject)
    shown = facts_of(subject).cross_entropy
    if subject.objective or shown is None or shown_targets(subject) is None:
        return
    meant = not weighs_alike(shown) and _weighs_on_purpose(shown, new_batch(subject))
    if shown.smoothing or meant or not (shown.whole or subject.mixture_of_experts):
        raise NotApplicable(f"a loss that is nothing but the mean cross-entropy of labels alike: {SAY}")


def _weighs_on_purpose(shown: CrossEntropy, batch: Batch) -> bool:
    """Whether something explains why labels weigh unlike: a part of the batch, which word it is, or its place."""
    floats = [each for each in fields(batch).values() if isinstance(each, Tensor) and each.is_floating_point()]
    if any(each.numel() == shown.weights.numel() for each in floats):
        return True
    counted, last = shown.counted, shown.weights.shape[-1]
    places = torch.arange(last, device=counted.device).expand_as(shown.targets)
    return any(_depends_on(shown.weights[counted], kind[counted]) for kind in (shown.targets, places))


def _depends_on(weights: Tensor, kinds: Tensor) -> bool:
    """Whether what is alike in kind weighs alike, and some kinds have several."""
    groups = [weights[kinds == kind] for kind in kinds.unique()]
    several = [group for group in groups if len(group) > 1]
    return bool(several) and all(bool((group - group[0]).abs().max() <= ALIKE * group.abs().max()) for group in several)


def require_value(subject: Subject) -> None:
    """Refuse a loss that is not, in its value, the mean cross-entropy of the labels, and not said to be.

    Raises:
        NotApplicable: so it is.
    """
    shown = facts_of(subject).cross_entropy
    other = shown is not None and (shown.smoothing > 0 or not weighs_alike(shown))
    if not subject.objective and (other or not _is_by_value(subject)):
        raise NotApplicable(f"a loss that is the mean cross-entropy of the tokens' labels: {SAY}")


def weighs_alike(shown: CrossEntropy) -> bool:
    """Whether all labels that count weigh the same."""
    weights = shown.weights[shown.counted]
    return bool((weights - weights[0]).abs().max() <= ALIKE * weights[0].abs())


def shown_targets(subject: Subject) -> Tensor | None:
    """(B, T): the targets that the gradient of the loss shows on batch 0; None where it shows none of this layout.

    Raises:
        NotApplicable: rows are moments, and columns sequences.
    """
    shown = facts_of(subject).cross_entropy
    if shown is None:
        return None
    tokens_BT, targets = tokens_of(subject, new_batch(subject)), shown.targets
    rows, time = tokens_BT.shape
    for width in (time, time - 1):
        if targets.numel() == rows * width and targets.shape[0] in (rows, rows * width):
            targets_BT = torch.full_like(tokens_BT, IGNORE)
            targets_BT[:, :width] = targets.view(rows, width)
            _refuse_time_first(tokens_BT, targets_BT)
            return targets_BT
    return None


def predicts_next(subject: Subject) -> bool:
    """Whether logits are to predict the token that follows: said, or shown by batch 0.

    Where labels have nothing to do with the tokens, as in a pair (x, y) of random numbers, nothing says otherwise.
    """
    if subject.causal is not None:
        return subject.causal
    batch = new_batch(subject)
    tokens_BT, targets_BT = tokens_of(subject, batch), shown_targets(subject)
    if targets_BT is None:
        targets_BT = labeled(subject, batch)
    if _agreement(tokens_BT[:, 1:], targets_BT[:, :-1]) >= HALF:
        return True
    return isinstance(find(subject, batch).get("labels"), int) and _agreement(tokens_BT, targets_BT) < HALF


def _refuse_time_first(tokens_BT: Tensor, targets_BT: Tensor) -> None:
    along_rows = _agreement(tokens_BT[:, 1:], targets_BT[:, :-1])
    if _agreement(tokens_BT[1:], targets_BT[:-1]) > max(HALF, along_rows):
        raise NotApplicable("a batch whose rows are sequences (B, T): here columns are")


def _is_by_value(subject: Subject) -> bool:
    """Whether the loss is the mean cross-entropy of what the model returns: of a kernel, no logits are seen."""
    if subject not in _BY_VALUE:
        _BY_VALUE[subject] = _agrees_by_value(subject)
    return _BY_VALUE[subject]


def _agrees_by_value(subject: Subject) -> bool:
    """Of as many labels as the loss's gradient shows to count: means of others are alike by chance."""
    from andon.verify.access.logits import returned_logits  # late, as logits need what tokens are

    model, batch, shown = perturbed_model(subject), new_batch(subject), facts_of(subject).cross_entropy
    with torch.no_grad():
        loss, logits, targets_BT = loss_of(subject, model, batch), returned_logits(subject, model, batch), None
        if logits is None:
            return False
        targets_BT = labeled(subject, batch)
        counted_BT = targets_BT != IGNORE
        if shown is not None and int(shown.counted.sum()) != int(counted_BT.sum()):
            return False
        if not bool(counted_BT.any()) or not int(targets_BT.max()) < logits.shape[-1]:
            return False
        expected = functional.cross_entropy(logits[counted_BT].double(), targets_BT[counted_BT])
    return bool((loss.double() - expected).abs() <= NEAR * expected.abs().clamp_min(1.0))


def with_targets(subject: Subject, batch: Batch, targets_BT: Tensor) -> Batch:
    """The batch with other targets; where the loss shifts, the last column's cannot be said and is left out.

    Raises:
        NotApplicable: the batch has no labels.
    """
    found = find(subject, batch)
    if "labels" not in found:
        raise NotApplicable("labels in the batch")
    labels_BT = targets_BT
    if is_shifted_inside(subject, batch):
        labels_BT = torch.full_like(targets_BT, IGNORE)
        labels_BT[:, 1:] = targets_BT[:, :-1]
    ignored_BT = labels_BT == IGNORE
    labels_BT = labels_BT.masked_fill(ignored_BT, ignored_label(subject, batch))
    changes = {found["labels"]: labels_BT}
    if "counted" in found and _counts(subject):
        counted_BT = _counted(subject, batch, labels_BT)
        kept_BT = counted_BT.masked_fill(counted_BT == 0, 1)  # weights stay what they are
        changes[found["counted"]] = kept_BT.masked_fill(ignored_BT, 0)
        changes[found["labels"]] = labels_BT.clamp_min(0)
    return replaced(batch, changes)


def ignored_label(subject: Subject, batch: Batch) -> int:
    """The label that the loss does not count: the negative one in the batch, else what the loss takes.

    Found by trying, on the CPU alone: a label out of range would end a GPU's process.
    """
    labels_BT = part(subject, batch, "labels")
    negative = labels_BT[labels_BT < 0]
    if len(negative) or labels_BT.device.type != "cpu":
        return int(negative.min()) if len(negative) else IGNORE
    if subject not in _IGNORED:
        _IGNORED[subject] = next((label for label in (IGNORE, -1) if _is_taken(subject, batch, label)), IGNORE)
    return _IGNORED[subject]


def _is_taken(subject: Subject, batch: Batch, label: int) -> bool:
    changed_BT = part(subject, batch, "labels").clone()
    changed_BT[:, 1] = label
    try:
        with torch.no_grad():
            loss_of(subject, new_model(subject), replaced(batch, {find(subject, batch)["labels"]: changed_BT}))
    except (IndexError, RuntimeError, ValueError):
        return False
    return True


def _agreement(tokens_BT: Tensor, labels_BT: Tensor) -> float:
    counted = labels_BT >= 0
    return float((tokens_BT[counted] == labels_BT[counted]).double().mean()) if bool(counted.any()) else 0.0
