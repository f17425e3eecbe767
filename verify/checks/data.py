"""What is trained on: all of it, once an epoch, with the right targets, and nothing of what is held out.

Legend: B batch, T time.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from andon.verify.access.batches import real_in
from andon.verify.access.calls import needed, new_batch
from andon.verify.access.documents import documents_in
from andon.verify.access.parts import find, part
from andon.verify.access.roles import IGNORE, fields
from andon.verify.access.targets import is_shifted_inside, predicts_next, stand_under_tokens, targets_of, tokens_of
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.observation.label_places import label_reads_its_place
from andon.verify.subject import Batch, Documents, Subject

SEEN = 0.05  # of held-out windows that may stand in training text, by chance or boilerplate
LONGEST = 32
TOKENS = 2_000_000  # of an epoch that is looked at
BATCHES = 4
ALIKE, HALF = 0.9, 0.5  # of targets
FEWEST = 4  # targets of a row that is compared with others

Row = tuple[int, ...]


def check_targets(subject: Subject) -> None:
    """Each target that is not ignored is the token that follows in its row, in all training and validation batches.

    A model that sees both sides is not shown what it is to predict: most target tokens of an epoch are hidden.

    Silent because guessing two tokens ahead, or copying the input, also has a loss that falls.

    Premises: the labels are tokens of their row (compared), and a model that sees nothing later (measured where the
    loss's targets stand). Where the loss reads a label at its own place, labels that repeat the inputs teach to copy;
    where it shifts, labels that are shifted already teach to skip one. The token behind a row's last target, or behind
    a document's, may be padding or another document's.

    Look at where the labels' window begins, at shifts that happen twice, or nowhere, and at rows of labels that were
    shuffled apart from their inputs.

    Example:
        # wrong: labels are shifted already, and their window begins one later once more
        inputs, labels = tokens[:-1], tokens[1:]
        x = inputs[i : i + T]
        y = labels[i + 1 : i + 1 + T]

        # right
        inputs, labels = tokens[:-1], tokens[1:]
        x = inputs[i : i + T]
        y = labels[i : i + T]
    """
    if subject.causal is not False:
        _require_place_and_rows(subject)
    if predicts_next(subject):
        _require_next(subject)
    elif subject.causal is None and subject.epoch_batches is None:
        raise NotApplicable("labels that are the batch's own tokens, at their place or one ahead")
    else:
        _require_hidden(subject)


def _require_next(subject: Subject) -> None:
    """Fail where targets of the first batches, of an epoch's or of those held out, are not the tokens that follow."""
    with suppress(NotApplicable):  # labels that stand nowhere are told by their shift
        _require_one_place(subject)
    batches = [*(new_batch(subject, seed) for seed in range(BATCHES)), *_trained_on(subject)]
    if not sum(_require_next_in(subject, batch) for batch in batches):
        raise NotApplicable("a batch with counted labels")


def _require_next_in(subject: Subject, batch: Batch) -> int:
    """How many targets of a batch were compared with the tokens that follow.

    Raises:
        CheckFailed: some differ.
    """
    if "labels" not in find(subject, batch):
        raise NotApplicable("labels in the batch")
    tokens_BT = tokens_of(subject, batch)
    targets_BT, shown = _targets_or_labels(subject, batch)
    reads_own = label_reads_its_place(subject, batch) if _alike(targets_BT, tokens_BT) > ALIKE else True
    if reads_own is False or (reads_own is None and not shown):
        raise NotApplicable("logits at the places of the tokens: here the loss shifts, or may, and theirs are others")
    _refuse_other_shifts(tokens_BT, targets_BT)
    targets_BT = targets_of(subject, batch)  # from here on they are no mere labels
    ahead_BT = tokens_BT[:, 1:]
    counted_BT = (targets_BT[:, :-1] != IGNORE) & ~_is_last(subject, batch, targets_BT)[:, :-1]
    wrong, compared = counted_BT & (targets_BT[:, :-1] != ahead_BT), int(counted_BT.sum())
    if int(wrong.sum()) > HALF * compared:
        raise NotApplicable("labels that are the batch's own tokens")
    if bool(wrong.any()):
        row, position = wrong.nonzero()[0].tolist()
        raise CheckFailed(
            f"{int(wrong.sum())} of {compared} targets are not the token that follows; the first is row {row}, "
            f"position {position}: {int(targets_BT[row, position])}, and the token that follows is "
            f"{int(ahead_BT[row, position])}"
        )
    return compared


def _is_last(subject: Subject, batch: Batch, targets_BT: Tensor) -> Tensor:
    """(B, T): where a target is its row's last before padding, all one token, or its document's last."""
    tokens_BT, documents_BT = tokens_of(subject, batch), documents_in(subject, batch)
    last_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
    last_BT[:, :-1] = documents_BT[:, 1:] != documents_BT[:, :-1]
    for row, targets_T in enumerate(targets_BT):
        counted = (targets_T != IGNORE).nonzero()
        if len(counted) and len(tokens_BT[row, int(counted[-1]) + 1 :].unique()) == 1:
            last_BT[row, int(counted[-1])] = True
    return last_BT


def _refuse_other_rows(tokens_BT: Tensor, labels_BT: Tensor) -> None:
    """Fail where the labels of most rows are another row's tokens, at their place or one ahead, and not their own's."""
    counted_BT = labels_BT != IGNORE
    enough_B, counts_B = counted_BT.sum(1) >= FEWEST, counted_BT.sum(1).clamp_min(1)
    shares = []
    for other_T in tokens_BT:
        under_B = ((labels_BT == other_T) & counted_BT).sum(1)
        ahead_B = ((labels_BT[:, :-1] == other_T[1:]) & counted_BT[:, :-1]).sum(1)
        shares.append(torch.maximum(under_B / counts_B, ahead_B / counted_BT[:, :-1].sum(1).clamp_min(1)))
    same_BB = torch.stack(shares, 1)
    own_B = same_BB.diagonal()
    best_B, where_B = same_BB.max(1)
    swapped_B = enough_B & (own_B < HALF) & (best_B > ALIKE)
    if int(swapped_B.sum()) > HALF * int(enough_B.sum()):
        row = int(swapped_B.nonzero()[0])
        raise CheckFailed(
            f"the labels of {int(swapped_B.sum())} of {len(tokens_BT)} rows are the tokens of another row: those of "
            f"row {row} are row {int(where_B[row])}'s"
        )


def _require_place_and_rows(subject: Subject) -> None:
    """Fail where labels are another row's tokens, repeat the inputs for a loss that does not shift, or shift twice.

    Told from the labels as they stand, and from the loss: what the logits read that it compares each label with.
    """
    batch = new_batch(subject)
    if not {"labels", "tokens"} <= find(subject, batch).keys():
        return
    tokens_BT, labels_BT = tokens_of(subject, batch), part(subject, batch, "labels")
    if labels_BT.shape != tokens_BT.shape or labels_BT.is_floating_point():
        return
    labels_BT = labels_BT.masked_fill(labels_BT < 0, IGNORE)
    _refuse_other_rows(tokens_BT, labels_BT)
    under, ahead = _alike(labels_BT, tokens_BT), _alike(labels_BT[:, :-1], tokens_BT[:, 1:])
    if max(under, ahead) >= ALIKE and min(under, ahead) <= HALF:
        _require_place(under, ahead, label_reads_its_place(subject, batch))


def _require_place(under: float, ahead: float, reads_own: bool | None) -> None:
    """Fail where labels at their own tokens' places are compared there, or labels one ahead with what is before it."""
    if under > ahead and reads_own:
        raise CheckFailed(
            f"{under:.0%} of the labels repeat the inputs, and the loss compares each with the logits at its own "
            "place, which have seen it: the model learns to copy"
        )
    if ahead > under and reads_own is False:
        raise CheckFailed(
            f"{ahead:.0%} of the labels are the token that follows, and the loss compares each with logits that have "
            "not seen the token before it: they are shifted twice"
        )


def _alike(labels_BT: Tensor, tokens_BT: Tensor) -> float:
    counted_BT = labels_BT != IGNORE
    return float((labels_BT == tokens_BT)[counted_BT].double().mean()) if bool(counted_BT.any()) else 0.0


def _targets_or_labels(subject: Subject, batch: Batch) -> tuple[Tensor, bool]:
    """The targets, and that they are; where nothing shows them, the labels as they stand."""
    try:
        return targets_of(subject, batch), True
    except NotApplicable:
        labels_BT = part(subject, batch, "labels")
        if labels_BT.shape != tokens_of(subject, batch).shape:
            raise
        return labels_BT.masked_fill(labels_BT < 0, IGNORE), False


def _streams(subject: Subject) -> dict[str, Iterable[Any]]:
    """What is trained on in the first epoch, and what is held out, where the subject has them."""
    streams: dict[str, Iterable[Any]] = {}
    if subject.epoch_batches is not None:
        streams["epoch_batches"] = subject.epoch_batches(0)
    if subject.validation_batches is not None:
        streams["validation_batches"] = subject.validation_batches()
    return streams


def _trained_on(subject: Subject) -> list[Batch]:
    """The first batches of an epoch, and of what is held out, that hold labels."""
    first = [batch for stream in _streams(subject).values() for batch in islice(_singly(stream), BATCHES)]
    return [batch for batch in first if "labels" in find(subject, batch)]


def _require_hidden(subject: Subject) -> None:
    """Fail where most targets of an epoch's batches stand in their inputs.

    Raises:
        NotApplicable: there is no epoch, or it has no labels of the tokens' shape.
    """
    counted = shown = 0
    for batch in _singly(needed(subject, "epoch_batches")(0)):
        if "labels" not in find(subject, batch):
            raise NotApplicable("labels in an epoch's batches")
        tokens_BT, targets_BT = tokens_of(subject, batch), targets_of(subject, batch)
        counted += int((targets_BT != IGNORE).sum())
        shown += int((targets_BT == tokens_BT).sum())
    if not counted:
        raise NotApplicable("a batch with counted labels")
    if shown > HALF * counted:
        raise CheckFailed(
            f"{shown} of the {counted} tokens that are an epoch's targets stand at their place in its batches, and the "
            "model sees both sides: it has nothing to guess"
        )


def _require_one_place(subject: Subject) -> None:
    """One loss takes the batches of `Subject.batch`, of an epoch and of what is held out: their labels stand alike."""
    sources = {"batch": [new_batch(subject)]} | _streams(subject)
    places = {}
    for name, batches in sources.items():
        first = next(_singly(batches), None)
        if first is not None and "labels" in find(subject, first):
            places[name] = stand_under_tokens(subject, first)
    if len(set(places.values())) > 1:
        words = {True: "under their own tokens", False: "one ahead"}
        said = ", ".join(f"in Subject.{name} {words[inside]}" for name, inside in places.items())
        raise CheckFailed(f"labels stand {said}: one loss cannot take both")


def check_padding(subject: Subject) -> None:
    """Padding is never a target, and every real token after a document's first is one, the end of text among them.

    Silent because predicting padding is easy and lowers the loss, and because a model that was never trained to end
    goes on only when it generates.

    Look at padding and end of text that share one id, at a padding id of 0 that is taken for none, and at masks
    made from ids.

    Example:
        # wrong: padding has the id of end of text, which is then ignored everywhere
        tokenizer.pad_token = tokenizer.eos_token
        labels = batch["input_ids"].clone()
        labels[labels == tokenizer.pad_token_id] = -100

        # right
        tokenizer.pad_token = tokenizer.eos_token
        labels = batch["input_ids"].clone()
        labels[batch["attention_mask"] == 0] = -100

    Reference: huggingface/transformers#23530.
    """
    for seed in range(BATCHES):
        _require_ignored_padding(subject, new_batch(subject, seed))
    if subject.collate_padded is not None:
        _require_ends(subject, subject.collate_padded)


def _require_ignored_padding(subject: Subject, batch: Batch) -> None:
    """Fail where what the mask marks is a target."""
    real_BT, targets_BT = real_in(subject, batch), targets_of(subject, batch)
    if "mask" not in find(subject, batch):
        return
    follows = predicts_next(subject) and is_shifted_inside(subject, batch)  # the label under the next token
    padding_BT = ~real_BT[:, 1:] if follows else ~real_BT[:, :-1]
    wrong = (targets_BT[:, :-1] != IGNORE) & padding_BT
    if bool(wrong.any()):
        raise CheckFailed(f"{int(wrong.sum())} of {int((~real_BT).sum())} padding positions are targets")


def _require_ends(subject: Subject, collate: Callable[[Documents], Batch]) -> None:
    """Fail where padding a short document and a long one leaves out targets, the ends of text among them."""
    words = [int(word) for word in tokens_of(subject, new_batch(subject)).unique()]
    words = [word for word in words if word not in (subject.eos_id, subject.pad_id)]
    ends = [] if subject.eos_id is None else [subject.eos_id]
    documents = [words[:3] + ends, (words * 9)[:9] + ends]
    batch = collate(documents)
    tokens_BT, targets_BT = tokens_of(subject, batch), targets_of(subject, batch)
    counted = int((targets_BT != IGNORE).sum())
    fewest = sum(len(document) - 1 for document in documents)
    if not fewest <= counted <= fewest + 2 * len(documents):  # a collator may add marks of its own
        raise CheckFailed(
            f"documents of {len(documents[0])} and {len(documents[1])} tokens, padded to {tokens_BT.shape[1]}, have "
            f"{counted} targets; their tokens after the first are {fewest}"
        )
    if ends and int((targets_BT == ends[0]).sum()) < len(documents):
        raise CheckFailed(
            f"of {len(documents)} ends of text (id {ends[0]}) {int((targets_BT == ends[0]).sum())} are targets"
        )


def check_rows(subject: Subject) -> None:
    """The rows of a batch are different ones.

    Yellow alone, as a group of answers to one prompt, or a batch to be learned by heart, repeats rows on purpose.
    Premise: rows of several different tokens, in batches that differ from each other; most rows of every batch looked
    at stand in it more than once.

    Silent because the loss falls as ever: each step learns from one example, at the price of a whole batch.

    Look at an index that all rows share, at a window that is drawn once a batch, at workers with one seed, and at
    micro-batches that are one batch.

    Example:
        # wrong: one start for all rows
        start = torch.randint(len(data) - T, ())
        x = torch.stack([data[start : start + T] for _ in range(B)])

        # right
        starts = torch.randint(len(data) - T, (B,))
        x = torch.stack([data[start : start + T] for start in starts])
    """
    compared = [_require_different_rows(subject, name, batches) for name, batches in _sources(subject).items()]
    if not any(compared):
        raise NotApplicable("batches of several rows that differ from each other")


def _require_different_rows(subject: Subject, name: str, batches: list[Batch]) -> bool:
    """Whether there was something to compare: several batches of several rows that are not all the same.

    Raises:
        Unusual: in each of them rows repeat others.
    """
    rows = [[row for one in _singly([batch]) for row in _whole_rows(subject, one)] for batch in batches]
    rows = [each for each in rows if len(each) > 1]
    if len(rows) < 2 or all(each == rows[0] for each in rows):
        return False
    repeated = [len(each) - len(set(each)) for each in rows]
    if all(count >= HALF * len(each) for count, each in zip(repeated, rows, strict=True)):
        raise Unusual(
            f"in each of {len(rows)} batches of Subject.{name} rows repeat others: {repeated[0]} of "
            f"{len(rows[0])} in the first; right only where examples are repeated on purpose"
        )
    return True


def _whole_rows(subject: Subject, batch: Batch) -> list[tuple[Any, ...]]:
    """All that a batch has of each row of several different tokens."""
    tokens_BT = tokens_of(subject, batch)
    parts = [value for value in fields(batch).values() if isinstance(value, Tensor) and value.dim()]
    parts = [part for part in parts if len(part) == len(tokens_BT)]
    return [
        tuple(tuple(part[row].flatten().tolist()) for part in parts)
        for row, tokens_T in enumerate(tokens_BT)
        if len(tokens_T.unique()) > 1
    ]


def _sources(subject: Subject) -> dict[str, list[Batch]]:
    """The first batches, and what an epoch and held-out data begin with; a step's micro-batches are one batch."""
    drawn = [new_batch(subject, seed) for seed in range(BATCHES)]
    return {"batch": drawn} | {name: list(islice(stream, BATCHES)) for name, stream in _streams(subject).items()}


def check_epochs(subject: Subject) -> None:
    """Epochs hold the same rows, most of them once, in different orders that depend on the epoch's number alone.

    Where all batches are full, an epoch may leave out what does not fill one more. Examples that are augmented at
    random need only differ from one epoch to the next.

    Silent because the loss of one order is like that of another, and rows that are never seen are never missed.

    Look at what seeds the order, at shuffling what is shuffled already, and at the last batch.

    Example:
        # wrong: without set_epoch the sampler gives every epoch the same order
        sampler = DistributedSampler(dataset, shuffle=True)
        loader = DataLoader(dataset, batch_size=8, sampler=sampler)
        for epoch in range(epochs):
            train_one_epoch(model, loader)

        # right
        sampler = DistributedSampler(dataset, shuffle=True)
        loader = DataLoader(dataset, batch_size=8, sampler=sampler)
        for epoch in range(epochs):
            sampler.set_epoch(epoch)
            train_one_epoch(model, loader)

    Reference: PyTorch documentation, torch.utils.data.distributed.DistributedSampler.
    """
    epoch = needed(subject, "epoch_batches")
    if subject.random_augmentation:
        _require_drawn_anew(_rows(subject, epoch(0)), _rows(subject, epoch(1)))
        return
    orders = {number: _rows(subject, epoch(number)) for number in (1, 0, 2)}
    again = _rows(subject, epoch(1))
    if orders[1] != again:
        raise CheckFailed(f"epoch 1 differs, read twice, in {_moved(orders[1], again)} of {len(again)} rows")
    spare = _left_out(subject, epoch(0))
    for number in (1, 2):
        missing, added = Counter(orders[0]) - Counter(orders[number]), Counter(orders[number]) - Counter(orders[0])
        if max(missing.total(), added.total()) > spare:
            raise CheckFailed(
                f"epoch {number} lacks {missing.total()} of epoch 0's {len(orders[0])} rows and has "
                f"{added.total()} others"
            )
        if len(orders[0]) > 3 and orders[number] == orders[number - 1]:
            raise CheckFailed(f"epochs {number - 1} and {number} have their {len(orders[0])} rows in the same order")
    rows = Counter(orders[0])
    twice = sum(count - 1 for count in rows.values())
    if twice > 0.5 * len(orders[0]):
        raise CheckFailed(f"{twice} of an epoch's {len(orders[0])} rows are repetitions of others")


def check_held_out(subject: Subject) -> None:
    """Held-out text is not trained on: at most a few of its windows also stand in the training batches.

    Silent because it flatters: the validation loss is a training loss.

    Look at how the split is cut, before or after shuffling, and at which files both sides read.

    Example:
        # wrong: the training set still holds the rows that are held out
        valid = dataset.select(range(1000))
        train = dataset

        # right
        valid = dataset.select(range(1000))
        train = dataset.select(range(1000, len(dataset)))

    Reference: axolotl-ai-cloud/axolotl#3627.
    """
    train, held_out = (
        _rows(subject, needed(subject, "epoch_batches")(0)),
        _rows(subject, needed(subject, "validation_batches")()),
    )
    if not train or not held_out:
        raise NotApplicable("batches to train on and held-out ones")
    length = min(LONGEST, *map(len, held_out), *map(len, train))
    seen = {row[start : start + length] for row in train for start in range(len(row) - length + 1)}
    windows = [row[start : start + length] for row in held_out for start in range(0, len(row) - length + 1, length)]
    known = sum(window in seen for window in windows)
    if known > SEEN * len(windows):
        raise CheckFailed(
            f"{known} of {len(windows)} held-out windows of {length} tokens stand in the training batches"
        )


def _refuse_other_shifts(tokens_BT: Tensor, targets_BT: Tensor) -> None:
    """Fail where targets are the batch's tokens, at another distance than one."""
    time = tokens_BT.shape[1]
    for shift in (0, -1, 2, 3):
        here = slice(max(0, -shift), time - max(0, shift))
        there = slice(max(0, shift), time + min(0, shift))
        counted = targets_BT[:, here] != IGNORE
        same = counted & (targets_BT[:, here] == tokens_BT[:, there])
        is_next = (targets_BT[:, :-1] == tokens_BT[:, 1:]) & (targets_BT[:, :-1] != IGNORE)
        if int(same.sum()) > ALIKE * int(counted.sum()) and int(is_next.sum()) < HALF * int(counted.sum()):
            raise CheckFailed(
                f"{int(same.sum())} of {int(counted.sum())} targets are the token {shift} ahead, and "
                f"{int(is_next.sum())} the one that follows"
            )


def _singly(batches: Iterable[Any]) -> Iterator[Batch]:
    """Batches, those of a list of micro-batches one by one."""
    for batch in batches:
        yield from batch if isinstance(batch, list) and not isinstance(batch[0], Tensor) else [batch]


def _rows(subject: Subject, batches: Iterable[Batch]) -> list[Row]:
    """Rows of tokens in the order in which they come."""
    rows: list[Row] = []
    count = 0
    for one in _singly(batches):
        tokens_BT, real_BT = tokens_of(subject, one), real_in(subject, one)
        rows += [tuple(row[real].tolist()) for row, real in zip(tokens_BT, real_BT, strict=True)]
        count += tokens_BT.numel()
        if count > TOKENS:
            raise NotApplicable(f"epochs of at most {TOKENS:,} tokens")
    return rows


def _require_drawn_anew(first: list[Row], second: list[Row]) -> None:
    """Fail where examples that are said to change at random are the same in the second epoch, and in the same order."""
    if len(first) > 3 and first == second:
        raise CheckFailed(
            f"the {len(first)} rows of epoch 1 are those of epoch 0 in their order; Subject(random_augmentation=True) "
            "says that each is drawn anew"
        )


def _left_out(subject: Subject, batches: Iterable[Any]) -> int:
    """How many rows an epoch may leave out: fewer than a batch, or a step's list of them, where all are as large."""
    sizes = {sum(len(tokens_of(subject, one)) for one in _singly([each])) for each in batches}
    return sizes.pop() - 1 if len(sizes) == 1 else 0


def _moved(first: list[Row], second: list[Row]) -> int:
    return sum(a != b for a, b in zip(first, second, strict=False)) + abs(len(first) - len(second))


CHECKS = (
    Check("data.targets", check_targets),
    Check("data.padding", check_padding),
    Check("data.rows", check_rows),
    Check("data.epochs", check_epochs, ("epoch_batches",)),
    Check("data.held_out", check_held_out, ("epoch_batches", "validation_batches")),
)
