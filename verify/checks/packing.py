"""Packed and padded batches say of each document what it says alone.

Legend: B batch, T time.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from andon.verify.access.calls import gradients, loss_of, needed, new_batch
from andon.verify.access.documents import documents_in
from andon.verify.access.larger_weights import perturbed_model
from andon.verify.access.parts import find, part
from andon.verify.access.roles import IGNORE, replaced
from andon.verify.access.targets import targets_of, tokens_of
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.observation.packed_rows import Place, Row, documents_for_several_rows, is_cut, rows_in
from andon.verify.observation.perturb import logits_eval, rounding_tolerance
from andon.verify.observation.tolerances import distance, norm_of
from andon.verify.subject import Batch, Documents, Subject

LENGTHS = (5, 9, 2, 14, 3)
GRADIENT = 1e-3


def check_packed(subject: Subject) -> None:
    """A packed row is its documents side by side: each has the logits, loss and gradient that it has alone.

    Silent because documents that see each other, or targets across their border, only add a little noise.

    Look at the mask's borders, at positions that start again at 0, and at the last and first token of each document.

    Example:
        # wrong: a token sees all documents that stand before its own
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)

        # right
        same = document_ids[:, None, :, None] == document_ids[:, None, None, :]
        causal = torch.ones(T, T, dtype=torch.bool, device=q.device).tril()
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=same & causal)

    Reference: Krell et al. 2021, arXiv:2107.02027.
    """
    _compare(subject, needed(subject, "collate_packed"), "packed")


def check_padded(subject: Subject) -> None:
    """Padding changes nothing: each row of a padded batch has the logits, loss and gradient that it has alone.

    Silent because padding is mostly alike; a loss that counts it, or attention that sees it, is only a little off.

    Look at the mask, at positions under left padding, at labels at padding, and at the divisor of the loss.

    Example:
        # wrong: without the mask, tokens see the padding on their left
        tokenizer.padding_side = "left"
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        logits = model(batch["input_ids"]).logits

        # right (absolute positions need position_ids that start at the first real token, too)
        tokenizer.padding_side = "left"
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits

    Reference: Alpha-VLLM/LLaMA2-Accessory#43.
    """
    _compare(subject, needed(subject, "collate_padded"), "padded")


def check_conservation(subject: Subject) -> None:
    """Packing and padding keep every document whole and once, and make each of its tokens but the first a target.

    Silent because nobody misses tokens that are dropped, or notices those that are doubled.

    Look at documents that fill a row exactly, that do not fit beside others, or that come last.

    Example:
        # wrong: what does not fit in the row is cut off
        row = [token for document in documents for token in document]
        rows = [row[:max_length]]

        # right: a document that does not fit starts a new row
        rows = [[]]
        for document in documents:
            if rows[-1] and len(rows[-1]) + len(document) > max_length:
                rows.append([])
            rows[-1].extend(document)

    Reference: pytorch/torchtune#1697.
    """
    makers = [maker for maker in (subject.collate_packed, subject.collate_padded) if maker is not None]
    if not makers:
        raise NotApplicable("collate_packed or collate_padded")
    batch = new_batch(subject)
    time = tokens_of(subject, batch).shape[1]
    for make in makers:
        longest = _longest(make, _documents(subject, (time,))[0])
        for length in sorted({2, 3, longest - 1, longest}):
            documents = _documents(subject, (length, 3))
            made = make(documents)
            tokens, targets = tokens_of(subject, made).flatten().tolist(), targets_of(subject, made)
            for document in documents:
                count = _standing(document, tokens, targets.flatten().tolist())
                if count != 1:
                    raise CheckFailed(
                        f"a document of {len(document)} tokens stands {count} times in what was made of it"
                    )
            counted = int((targets != IGNORE).sum())
            alone = sum(int((targets_of(subject, make([each])) != IGNORE).sum()) for each in documents)
            fewest = sum(len(document) - 1 for document in documents)
            if counted != alone or counted < fewest:
                raise CheckFailed(
                    f"documents of {length} and 3 tokens have {counted} targets together and {alone} one by one; "
                    f"their tokens after the first are {fewest}"
                )


def _standing(document: Sequence[int], tokens: list[int], targets: list[int]) -> int:
    """How often a document stands in tokens, whole or with its last as the target of the one before."""
    *begin, last = document
    size = len(begin)
    whole = sum(tokens[i : i + size + 1] == [*begin, last] for i in range(len(tokens)))
    shifted = sum(
        tokens[i : i + size] == begin and targets[i + size - 1] == last for i in range(len(tokens) - size + 1)
    )
    return whole or shifted


def check_rows(subject: Subject) -> None:
    """Documents that fill several rows each stand in one of them, once and whole, with labels, positions and numbers.

    Asked of a `collate_packed` that makes several rows of more documents than one holds. Positions are those that a
    document has alone, or as far from each other where that is shown to be the same to the model; where the batch tells
    its documents apart, it does so in each row.

    Silent because documents are lost, doubled or cut where a row ends, which is a small share of all places.

    Look at the loop that begins a new row: what becomes of the document that did not fit, and of the last row.

    Yellow where a document goes on in the next row: streams of text are cut so on purpose.

    Example:
        # wrong: the document that did not fit is dropped, and so is the last row
        for document in documents:
            if len(row) + len(document) > max_length:
                rows.append(row)
                row = []
            else:
                row = row + document

        # right
        for document in documents:
            if len(row) + len(document) > max_length:
                rows.append(row)
                row = []
            row = row + document
        rows.append(row)

    Reference: pytorch/torchtune#1697.
    """
    make = needed(subject, "collate_packed")
    time = tokens_of(subject, new_batch(subject)).shape[1]
    documents = documents_for_several_rows(subject, _longest(make, _documents(subject, (time,))[0]))
    rows = rows_in(subject, make(documents))
    if len(rows) < 2:
        raise NotApplicable("a collate_packed that makes several rows of more documents than one holds")
    places = [_only_place(rows, document) for document in documents]
    for document, place in zip(documents, places, strict=True):
        _require_own(subject, document, place, make([document]))
    _require_told_apart(places)


def _only_place(rows: Sequence[Row], document: Sequence[int]) -> Place:
    """Where a document stands, which has to be one place."""
    places = [place for row in rows for place in row.places_of(document)]
    if len(places) == 1:
        return places[0]
    if not places and is_cut(rows, document):
        raise Unusual(
            f"a document of {len(document)} tokens ends in another of {len(rows)} rows than it begins in; right where "
            "rows are cut from one stream of text"
        )
    raise CheckFailed(f"a document of {len(document)} tokens stands {len(places)} times in {len(rows)} rows")


def _require_own(subject: Subject, document: Sequence[int], place: Place, alone: Batch) -> None:
    """Fail where a document has other targets or positions in its row than its own."""
    (row, begin), size = place, len(document) - 1
    targets = row.targets[begin : begin + size]
    wrong = [at for at, (target, due) in enumerate(zip(targets, document[1:], strict=True)) if target != due]
    if wrong:
        raise CheckFailed(
            f"in row {row.number} {len(wrong)} of {size} targets of a document are not its next token: the first is "
            f"{targets[wrong[0]]} at position {begin + wrong[0]}, and {document[wrong[0] + 1]} follows"
        )
    single = _only_place(rows_in(subject, alone), document)
    own, due = (each.row.positions[each.begin : each.begin + size] for each in (place, single))
    if own != due and not _are_distances_alone(subject, alone, single, own, due):
        raise CheckFailed(f"in row {row.number} a document at {begin} has positions from {own[0]}, and {due[0]} alone")


def _are_distances_alone(subject: Subject, batch: Batch, place: Place, own: list[int], due: list[int]) -> bool:
    """Whether positions are all as much further on, and are the same to the model, as those of rotations are."""
    if len({one - other for one, other in zip(own, due, strict=True)}) != 1:
        return False
    model, at = perturbed_model(subject), (place.row.number, slice(place.begin, place.begin + len(own)))
    positions_BT = part(subject, batch, "positions").clone()
    positions_BT[at] = torch.tensor(own).to(positions_BT)
    moved = replaced(batch, {find(subject, batch)["positions"]: positions_BT})
    there, here = (logits_eval(subject, model, each)[at] for each in (moved, batch))
    return distance(there, here) <= rounding_tolerance(subject, model, batch)


def _require_told_apart(places: Sequence[Place]) -> None:
    """Fail where two neighbors in a row have one number, of rows whose documents are told apart at all."""
    if all(len(set(place.row.documents)) < 2 for place in places):
        return
    for place in places:
        row = place.row
        starts = sorted(each.begin for each in places if each.row.number == row.number)
        numbers = [row.documents[start] for start in starts]
        if len(set(numbers)) < len(numbers):
            raise CheckFailed(
                f"row {row.number} holds {len(numbers)} documents, which begin at {starts} with the numbers {numbers}"
            )


def check_borders(subject: Subject) -> None:
    """In a packed row the last token of a document is not trained to predict the first token of the next one.

    Silent because one label in a document is noise; it teaches that any text may follow any other.

    Look at when labels are shifted: after packing, the last position of each document must be left out.

    Example:
        # wrong: the shift makes each document's last token predict the next document
        ids = torch.cat(documents)
        inputs, labels = ids[:-1], ids[1:]

        # right
        ids = torch.cat(documents)
        inputs, labels = ids[:-1], ids[1:].clone()
        ends = torch.tensor([len(document) for document in documents]).cumsum(0)
        labels[ends[:-1] - 1] = -100

    Reference: pytorch/torchtune#2613.
    """
    checked = 0
    batches = [new_batch(subject, seed) for seed in range(4)]
    if subject.collate_packed is not None:
        batches.append(subject.collate_packed(_documents(subject, LENGTHS)))
    for batch in batches:
        documents_BT, targets_BT = documents_in(subject, batch), targets_of(subject, batch)
        last_BT = documents_BT[:, :-1] != documents_BT[:, 1:]
        checked += int(last_BT.sum())
        wrong = last_BT & (targets_BT[:, :-1] != IGNORE)
        if bool(wrong.any()):
            row, position = wrong.nonzero()[0].tolist()
            raise CheckFailed(
                f"{int(wrong.sum())} of {int(last_BT.sum())} document borders are targets; the first is row {row}, "
                f"position {position}, which is to predict token {int(targets_BT[row, position])} of another document"
            )
    if not checked:
        raise NotApplicable("a batch with several documents in a row, and their numbers or restarting positions")


def _compare(subject: Subject, make: Callable[[Documents], Batch], how: str) -> None:
    documents = _documents(subject, LENGTHS)
    model, together = perturbed_model(subject), make(documents)
    tolerance = max(rounding_tolerance(subject, model, together), rounding_tolerance(subject, model, together, loss_of))
    singles = [make([document]) for document in documents]
    logits = logits_eval(subject, model, together)
    for document, single in zip(documents, singles, strict=True):
        here = logits_eval(subject, model, single)[_place(subject, single, document)]
        there = logits[_place(subject, together, document)]
        for position in range(min(len(there), len(here))):
            apart = distance(there[position], here[position])
            if not apart <= tolerance:
                raise CheckFailed(
                    f"{how}, position {position} of a document of {len(document)} has logits {apart:.2g} of their rms "
                    f"from those it has alone, and rounding explains {tolerance:.0e}"
                )
    _compare_losses(subject, model, together, singles, how, tolerance)


def _compare_losses(
    subject: Subject, model: nn.Module, together: Batch, singles: Sequence[Batch], how: str, tolerance: float
) -> None:
    counts = [int((targets_of(subject, single) != IGNORE).sum()) for single in singles]
    count = int((targets_of(subject, together) != IGNORE).sum())
    if count != sum(counts):
        raise CheckFailed(f"{how}, {len(singles)} documents have {count} targets; one by one they have {sum(counts)}")
    with torch.no_grad():
        loss = float(loss_of(subject, model, together))
        alone = [
            float(loss_of(subject, model, single)) if n else 0.0 for single, n in zip(singles, counts, strict=True)
        ]
    expected = sum(value * n for value, n in zip(alone, counts, strict=True)) / count
    if not abs(loss - expected) <= tolerance * max(1.0, expected):
        raise CheckFailed(
            f"{how}, {len(singles)} documents lose {loss:.5f} a target; one by one, weighted by their {counts} "
            f"targets, {expected:.5f}"
        )
    whole = gradients(subject, model, together)
    parts = [gradients(subject, model, single) for single, n in zip(singles, counts, strict=True) if n]
    weights = [n / count for n in counts if n]
    total = norm_of(whole.values())
    for name, gradient in whole.items():
        summed = sum(weight * part[name].double() for weight, part in zip(weights, parts, strict=True))
        error = norm_of([gradient.double() - summed])
        if not error <= max(GRADIENT, 10 * tolerance) * max(norm_of([gradient]), 1e-4 * total):
            raise CheckFailed(
                f"{how}, the gradient of {name} has norm {norm_of([gradient]):.4g}, and {error:.2g} of it is not in "
                f"the documents' own"
            )


def _place(subject: Subject, batch: Batch, document: Sequence[int]) -> tuple[int, slice]:
    """Row and positions of a document in a batch; without its last token where that is a target alone."""
    rows, size = tokens_of(subject, batch).tolist(), len(document)
    for row, tokens in enumerate(rows):
        for start in range(len(tokens) - size + 1):
            if tokens[start : start + size] == list(document):
                return row, slice(start, start + size)
    for row, (tokens, targets) in enumerate(zip(rows, targets_of(subject, batch).tolist(), strict=True)):
        for start in range(len(tokens) - size + 2):
            if [*tokens[start : start + size - 1], targets[start + size - 2]] == list(document):
                return row, slice(start, start + size - 1)
    raise CheckFailed(f"a document of {len(document)} tokens is not in what was made of it")


def _documents(subject: Subject, lengths: Sequence[int]) -> list[list[int]]:
    """Documents of these lengths of tokens that occur in batches; marks and padding are left out."""
    batch = new_batch(subject)
    words = [int(word) for word in tokens_of(subject, batch).unique() if word not in (subject.eos_id, subject.pad_id)]
    if len(words) < 2:
        raise NotApplicable("a batch with different tokens in it")
    generator = torch.Generator().manual_seed(0)
    return [[words[i] for i in torch.randint(len(words), (n,), generator=generator).tolist()] for n in lengths]


def _longest(make: Callable[[Documents], Batch], document: Sequence[int]) -> int:
    """The longest beginning of the document that comes through whole and is taken without complaint."""
    for length in range(len(document), 3, -1):
        try:
            made = make([document[:length]])
        except (ValueError, RuntimeError, IndexError, AssertionError):
            continue
        if made is not None:
            return length
    raise NotApplicable("a collator that takes documents of 4 tokens")


CHECKS = (
    Check("packing.packed", check_packed, ("collate_packed",)),
    Check("packing.padded", check_padded, ("collate_padded",)),
    Check("packing.conservation", check_conservation),
    Check("packing.rows", check_rows, ("collate_packed",)),
    Check("packing.borders", check_borders),
)
