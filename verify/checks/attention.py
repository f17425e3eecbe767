"""Who may see whom: attention masks, as any correct implementation keeps them.

Legend: B batch, T time, P positions that are changed, V vocab, A width of all query heads.
"""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from andon.verify.access.batches import (
    evenly_spaced,
    first_positions,
    other_tokens,
    real_in,
    rows_of,
    small_batch,
)
from andon.verify.access.calls import loss_of, new_batch
from andon.verify.access.documents import documents_in
from andon.verify.access.larger_weights import perturbed_model
from andon.verify.access.parts import find, part
from andon.verify.access.roles import IGNORE, replaced
from andon.verify.access.targets import (
    predicts_next,
    require_plain,
    shown_targets,
    targets_of,
    tokens_of,
    with_targets,
    with_tokens,
)
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual, left_out_by
from andon.verify.observation.evaluations import draws_at_rest
from andon.verify.observation.heads import heads_of, rows_reached
from andon.verify.observation.perturb import logits_eval, rounding_tolerance
from andon.verify.observation.tolerances import distance, require_close
from andon.verify.subject import Batch, Subject

TOKENS = 1024  # of one forward pass: a large model takes seconds for them
LONGEST = 256
SHORT = 16
SAME_KERNEL = 0.1  # of rounding: the same kernels on the same shapes, so that what is hidden adds exact zeros
NORMED = 1e-3  # of heads' results: an epsilon in the norm
HEADS = 32  # heads that are looked at
HALF = 0.5
FAINT = 1e-7  # of the logits' rms: what no influence at all may leave
SEEDS = range(4)
NEVER = "no row is ever padded on this side"
OTHER_PART = "a part of the loss beside its cross-entropy is meant to read every token"


def check_causality(subject: Subject) -> None:
    """No logit depends on a later token.

    Silent because the loss falls faster, not slower: the model reads the answer. Text generated later is nonsense.

    Look at the mask's diagonal, at `is_causal`, and at shifts of labels or keys.

    Example:
        # wrong: the mask lets position t see position t + 1
        mask_TT = torch.ones(T, T, dtype=torch.bool).tril(1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_TT)

        # right
        mask_TT = torch.ones(T, T, dtype=torch.bool).tril()
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_TT)

    Reference: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3.
    """
    if subject.causal is False:
        raise left_out_by("causal", False, "a causal model")
    if not predicts_next(subject):
        raise NotApplicable("a causal model")
    model, batch = perturbed_model(subject), first_positions(subject, new_batch(subject), LONGEST)
    time = tokens_of(subject, batch).shape[1]
    positions = [1 + index for index in evenly_spaced(time - 1, max(4, TOKENS // time))]
    for chosen in [[position] for position in positions[:8]] if subject.mixture_of_experts else [positions]:
        many = rows_of(subject, batch, [0] * len(chosen))
        tokens_PT = tokens_of(subject, many)
        later_PT = torch.arange(time) >= torch.tensor(chosen)[:, None]
        changed_PT = torch.where(later_PT.to(tokens_PT.device), other_tokens(tokens_PT), tokens_PT)
        before = logits_eval(subject, model, many)
        after = logits_eval(subject, model, with_tokens(subject, many, changed_PT))
        tolerance = SAME_KERNEL * rounding_tolerance(subject, model, many)
        for index, position in enumerate(chosen):
            moved = distance(after[index, :position], before[index, :position])
            if not moved <= tolerance:
                raise CheckFailed(
                    f"changing the tokens from position {position} on moves logits before it by {moved:.2g} of their "
                    f"rms, and rounding explains {tolerance:.0e}"
                )


def check_influence(subject: Subject) -> None:
    """Each token changes the logits at its own position, at the next one, and at all others that it can reach.

    In a model in which most tokens change the logits at the previous position, each does. Where the positions that a
    token changes have a gap, or end earlier than those that an earlier token changes, that is said as unusual.

    Yellow for gaps and early ends, and where nothing sees a later position although `causal=False` says so.

    Silent because a model that misses some tokens still learns from the others, only worse.

    Look at a causal mask in a model that should see both sides, at masks that hide the previous token, at windows
    whose bounds are reversed, and at sequences that are cut short.

    Example:
        # wrong: an encoder that predicts masked words sees nothing to the right of them
        q, k, v = self.project(x)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)

        # right
        q, k, v = self.project(x)
        out = F.scaled_dot_product_attention(q, k, v)

    Reference: Devlin et al. 2019, arXiv:1810.04805, section 3.1.
    """
    model, batch = perturbed_model(subject), first_positions(subject, new_batch(subject), SHORT)
    reach, possible = _reach(subject, model, batch)
    reach |= ~possible
    time = len(reach)
    offsets = _offsets(reach & possible, possible, subject)
    for source in range(time):
        for target in (source + offset for offset in offsets):
            if 0 <= target < time and not reach[source, target]:
                raise CheckFailed(
                    f"changing the token at position {source} moves the logits at position {target} by nothing, in "
                    f"{len(tokens_of(subject, batch))} rows of the batch"
                )
    _require_no_gap(reach, possible)


def _offsets(seen: Tensor, possible: Tensor, subject: Subject) -> tuple[int, ...]:
    """Which neighbors of a position each token is to reach: those that most tokens of this model do.

    Raises:
        NotApplicable: no token reaches another position.
        Unusual: the model is said to see both sides, and no position sees a later one.
    """
    mixes = {offset: _share(seen, possible, offset) for offset in (1, -1)}
    if not bool((seen & ~torch.eye(len(seen), dtype=torch.bool, device=seen.device)).any()):
        raise NotApplicable("a model in which positions see others")
    if subject.causal is False and not mixes[-1] and bool(possible.diagonal(-1).any()):
        raise Unusual("no position sees a later one, and causal=False says that some do; causal=True if none should")
    required = [1] if predicts_next(subject) else [offset for offset, share in mixes.items() if share >= HALF]
    return (0, *required)


def _share(seen: Tensor, possible: Tensor, offset: int) -> float:
    """The part of the tokens that could reach the position at this offset which do."""
    could = possible.diagonal(offset)
    return float(seen.diagonal(offset)[could].double().mean()) if bool(could.any()) else 0.0


def _require_no_gap(reach: Tensor, possible: Tensor) -> None:
    """Say so where what a token influences has a gap, or ends before what an earlier one does.

    Raises:
        Unusual: so it is, as in dilated or chunked attention.
    """
    time, seen = len(reach), reach & possible
    last = [int(seen[source].nonzero().max()) if seen[source].any() else source for source in range(time)]
    for source, end in enumerate(last):
        hole = next((target for target in range(source, end) if not reach[source, target]), None)
        if hole is not None:
            raise Unusual(
                f"the token at position {source} influences logits up to position {end}, but not at {hole}: right "
                "for dilated or sparse attention"
            )
        if bool(possible.triu().sum() == time * (time + 1) // 2) and end < max(last[:source], default=0):
            raise Unusual(
                f"the token at position {source} influences logits up to position {end} only, and an earlier one "
                f"does up to {max(last[:source])}: right for attention in chunks or buckets"
            )


def check_rows(subject: Subject) -> None:
    """A row's logits depend on that row alone: not on the other rows, their order or their number.

    Silent because the other rows are as good a text as any; evaluation and generation see other rows, or none.

    Look at reshapes that mix batch and heads, at `batch_first`, at statistics over the batch, at `squeeze`, and at
    masks that rows share.

    Example:
        # wrong: expects (T, B, D), so that each row attends to the other rows of the batch
        self.attn = nn.MultiheadAttention(dim, heads)
        out, _ = self.attn(x_BTD, x_BTD, x_BTD)

        # right
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        out, _ = self.attn(x_BTD, x_BTD, x_BTD)

    Reference: PyTorch documentation, torch.nn.MultiheadAttention.
    """
    if subject.mixture_of_experts:
        raise left_out_by("mixture_of_experts", True, "rows that share no expert's capacity")
    model, batch = perturbed_model(subject), first_positions(subject, new_batch(subject), LONGEST)
    if draws_at_rest(subject, model):
        raise NotApplicable("a model that draws no random numbers in eval mode: another number of rows draws others")
    batch = rows_of(subject, batch, [index % len(tokens_of(subject, batch)) for index in range(3)])
    tokens_BT = tokens_of(subject, batch)
    tokens_BT = torch.stack([tokens_BT[0], other_tokens(tokens_BT)[1], other_tokens(tokens_BT, 1)[2]])
    batch = with_tokens(subject, batch, tokens_BT)
    together, tolerance = logits_eval(subject, model, batch), rounding_tolerance(subject, model, batch)
    real_BT = real_in(subject, batch)

    def compare(other: Batch, rows: list[int], what: str) -> None:
        for index, row in enumerate(rows):
            logits = logits_eval(subject, model, other)[index][real_BT[row]]
            require_close(logits, together[row][real_BT[row]], tolerance, f"logits of row {row} {what}")

    compare(rows_of(subject, batch, [2, 0, 1]), [2, 0, 1], "with the rows in another order")
    compare(rows_of(subject, batch, [1]), [1], "alone and in a batch of 3")
    compare(with_tokens(subject, batch, torch.cat([tokens_BT[:1], other_tokens(tokens_BT)[1:]])), [0], "beside others")


def check_padding(subject: Subject) -> None:
    """Tokens that the mask marks as padding change neither the logits of real tokens nor the loss.

    Yellow for padding on a side where this code never has it, and for a loss that has other parts.

    Silent because each run sees one kind of padding; results then depend on which rows were batched together.

    Look at whether the mask reaches attention on every path, at its polarity, and at labels at padding.

    Example:
        # wrong: the mask stays behind, so real tokens attend to the padding on their left
        batch = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        outputs = model(input_ids=batch["input_ids"], labels=labels)

        # right
        batch = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        outputs = model(**batch, labels=labels)

    Reference: Alpha-VLLM/LLaMA2-Accessory#43.
    """
    batch = small_batch(subject)
    if part(subject, batch, "mask").shape != tokens_of(subject, batch).shape:
        raise NotApplicable("a mask (B, T)")
    model = perturbed_model(subject)
    for side, never in _sides(subject):
        padded, changed = _padded(subject, batch, side)
        real, what = real_in(subject, padded), f"with other {side} padding"
        before, after = (logits_eval(subject, model, each) for each in (padded, changed))
        if never and not bool(before[real].isfinite().all()):
            continue  # code that never pads here: a token with nothing to attend to is not a number
        tolerance = rounding_tolerance(subject, model, padded)
        with _right_where(never):
            require_close(after[real], before[real], tolerance, f"real tokens' logits {what}")
        if _counts_real_ones(subject, padded, side):
            with torch.no_grad():
                losses = [loss_of(subject, model, each) for each in (padded, changed)]
            if never and not bool(losses[0].isfinite()):
                continue  # as above, in the sum over all places
            with _right_where(never or ("" if _is_plain(subject) else OTHER_PART)):
                require_close(losses[1], losses[0], tolerance, f"losses {what}")


def _counts_real_ones(subject: Subject, padded: Batch, side: str) -> bool:
    """Whether there are targets, and none that padding predicts: a loss that makes its labels counts a first token."""
    said = side == "right" or "labels" in find(subject, padded)
    return said and bool((targets_of(subject, padded) != IGNORE).any())


def _padded(subject: Subject, batch: Batch, side: str) -> tuple[Batch, Batch]:
    """The batch with a third of each row marked as padding on this side, without targets there, twice: other tokens."""
    found, tokens_BT = find(subject, batch), tokens_of(subject, batch)
    time = tokens_BT.shape[1]
    hidden_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
    hidden_BT[:, time - time // 3 :] = side == "right"
    hidden_BT[:, : time // 3] = side == "left"
    padded = replaced(batch, {found["mask"]: part(subject, batch, "mask").masked_fill(hidden_BT, 0)})
    if "labels" in found:
        real_BT = real_in(subject, padded)
        targets_BT = targets_of(subject, padded).masked_fill(~real_BT | ~real_BT.roll(-1, 1), IGNORE)
        padded = with_targets(subject, padded, targets_BT)
    return padded, with_tokens(subject, padded, torch.where(hidden_BT, other_tokens(tokens_BT), tokens_BT))


@contextmanager
def _right_where(reason: str) -> Generator[None]:
    """What fails within it is unusual, and right for this reason; a failure without one."""
    try:
        yield
    except CheckFailed as wrong:
        if reason:
            raise Unusual(f"{wrong}; right where {reason}") from wrong
        raise


def _is_plain(subject: Subject) -> bool:
    """Whether the loss is nothing but the mean cross-entropy of its labels."""
    try:
        require_plain(subject)
    except NotApplicable:
        return False
    return True


def _sides(subject: Subject) -> list[tuple[str, str]]:
    """On which sides padding may stand, and where a fault there is right: nowhere if the code itself pads so.

    Code that never pads on a side may do anything with such rows, and a mask of ones need not be read.
    """
    masks = _masks(subject)
    on_left, on_right = (any(bool((mask[:, column] == 0).any()) for mask in masks) for column in (0, -1))
    left = [("left", "" if on_left else NEVER)]
    return left if on_left and not on_right else [("right", "" if on_right else NEVER), *left]


def _masks(subject: Subject) -> list[Tensor]:
    """The masks (B, T) of some batches, and of rows of two lengths."""
    batches = [new_batch(subject, seed) for seed in SEEDS]
    if subject.collate_padded is not None:
        batches.append(subject.collate_padded([[1, 2, 3, 4], [1, 2]]))
    masks = [part(subject, each, "mask") for each in batches if "mask" in find(subject, each)]
    return [mask for mask in masks if mask.dim() == 2]


def check_documents(subject: Subject) -> None:
    """In a packed row no document's logits depend on another document.

    Silent because the other document is harmless noise to the loss, which is only a little worse, while one text
    leaks into the next.

    Look at whether document numbers or restarting positions reach the mask, and at which document a separator is
    in.

    Example:
        # wrong: under a plain causal mask the documents of a packed row see those before them
        q, k, v = self.project(packed)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)

        # right
        q, k, v = self.project(packed)
        mask_BTT = (document_ids[:, :, None] == document_ids[:, None, :]).tril()
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_BTT[:, None])

    Reference: huggingface/trl#784.
    """
    batch = packed_batch(subject)
    model = perturbed_model(subject)
    documents_BT = documents_in(subject, batch)
    row = int((documents_BT != documents_BT[:, :1]).any(1).nonzero()[0])
    numbers = documents_BT[row].unique_consecutive()
    chosen = [numbers[index] for index in evenly_spaced(len(numbers), 6)]
    many = rows_of(subject, batch, [row] * len(chosen))
    tokens = tokens_of(subject, many)
    inside = documents_BT[row] == torch.stack(chosen)[:, None]
    before = logits_eval(subject, model, many)
    after = logits_eval(subject, model, with_tokens(subject, many, torch.where(inside, other_tokens(tokens), tokens)))
    tolerance = SAME_KERNEL * rounding_tolerance(subject, model, many)
    real_T = real_in(subject, many)[0]
    for index, number in enumerate(chosen):
        others = ~inside[index] & real_T
        moved = distance(after[index, others], before[index, others])
        if not moved <= tolerance:
            raise CheckFailed(
                f"changing document {int(number)} of a packed row moves the logits of the row's other documents by "
                f"{moved:.2g} of their rms, and rounding explains {tolerance:.0e}"
            )


def check_groups(subject: Subject) -> None:
    """With N query heads and K key/value heads, query head n uses key/value head n // (N / K).

    The part of the output that belongs to head n comes from query head n alone.

    Silent because any pairing can be learned; pretrained weights, and caches, are paired by this rule.

    Look at `repeat` where `repeat_interleave` is meant, and at reshapes of the heads.

    Example:
        # wrong: of two key heads, repeat makes 0 1 0 1, where the query heads need 0 0 1 1
        k = k.repeat(1, n_rep, 1, 1)
        v = v.repeat(1, n_rep, 1, 1)

        # right
        k = k.repeat_interleave(n_rep, dim=1)
        v = v.repeat_interleave(n_rep, dim=1)

    Reference: Ainslie et al. 2023, arXiv:2305.13245, section 2.2; onnx/onnx#7274.
    """
    model, batch = perturbed_model(subject), _text(subject)
    query, pair, result_A = heads_of(subject, model, batch)
    width = len(query)
    size = len(rows_reached(result_A[0], (query,)))
    if not size or width % size or len(pair[0]) % size:
        raise NotApplicable("attention whose queries are a matrix each, with heads one after another")
    heads, groups = width // size, len(pair[0]) // size
    if groups in (1, heads):
        raise NotApplicable("grouped queries: more than one key head, and fewer than query heads")
    for head in range(min(heads, HEADS)):
        reached = {row // size for row in rows_reached(result_A[head * size], (query,))}
        if reached != {head}:
            raise CheckFailed(
                f"what the output takes for head {head} of {heads} reads query head "
                f"{', '.join(map(str, sorted(reached)))}"
            )
        found = {row // size for row in rows_reached(result_A[head * size], pair)}
        expected = head // (heads // groups)
        if found != {expected}:
            raise CheckFailed(
                f"query head {head} of {heads} reads key head {', '.join(map(str, sorted(found)))} of {groups}; "
                f"by the rule it is {expected}"
            )


def check_normed(subject: Subject) -> None:
    """Where queries are normalized, so are keys: scaling the matrix of either one then has no effect.

    Silent because attention that normalizes only one of the two is learned with; its scores are then bounded on one
    side only.

    Look at which of the two the norm is called on, and at which result goes on.

    Example:
        # wrong: the result of k_norm is thrown away
        q = self.q_norm(q)
        self.k_norm(k)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)

        # right
        q = self.q_norm(q)
        k = self.k_norm(k)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)

    Reference: Henry et al. 2020, arXiv:2010.04245.
    """
    model, batch = perturbed_model(subject), _text(subject)
    query, pair, result_A = heads_of(subject, model, batch)
    deaf = [_is_deaf(subject, model, batch, weight, result_A) for weight in (query, *pair)]
    if not any(deaf):
        raise NotApplicable("attention that norms its queries or keys")
    if sum(deaf) != 2 or not deaf[0]:
        one, other = ("queries", "keys") if deaf[0] else ("keys", "queries")
        raise CheckFailed(
            f"{one} of twice the size change nothing, {other} of twice the size change what heads return: 1 of the 2 "
            "is normed"
        )


def _text(subject: Subject) -> Batch:
    """The first row of batch 0, up to its last real token: at padding a query may be nothing."""
    batch = rows_of(subject, new_batch(subject), [0])
    real_T = real_in(subject, batch)[0]
    return first_positions(subject, batch, int(real_T.nonzero().max()) + 1 if bool(real_T.any()) else len(real_T))


def packed_batch(subject: Subject) -> Batch:
    """A batch of the subject's with two documents in a row, that says so.

    Raises:
        NotApplicable: it makes none.
    """
    for seed in SEEDS:
        batch = new_batch(subject, seed)
        documents_BT = documents_in(subject, batch)
        if bool((documents_BT != documents_BT[:, :1]).any()):
            return batch
    raise NotApplicable("a batch with several documents in a row, and their numbers or restarting positions")


def _reach(subject: Subject, model: torch.nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """(T, T) twice: whether changing token p moves the logits at q in any row, and whether it could."""
    tokens_BT = tokens_of(subject, batch)
    documents_BT, real_BT = documents_in(subject, batch), real_in(subject, batch)
    time, counted_BT = tokens_BT.shape[1], _counted(subject, tokens_BT)
    reach = torch.zeros(time, time, dtype=torch.bool, device=tokens_BT.device)
    possible = reach.clone()
    for row in evenly_spaced(len(tokens_BT), 2):
        many = rows_of(subject, batch, [row] * time)
        tokens = tokens_of(subject, many)
        changed = torch.where(torch.eye(time, dtype=torch.bool, device=tokens.device), other_tokens(tokens), tokens)
        before = logits_eval(subject, model, many)
        after = logits_eval(subject, model, with_tokens(subject, many, changed))
        threshold = FAINT * float(before[before.isfinite()].double().square().mean().sqrt())
        could = (documents_BT[row] == documents_BT[row][:, None]) & real_BT[row] & real_BT[row][:, None]
        moved = (after - before).abs().nan_to_num(0.0).amax(-1) > threshold
        could &= ~(_is_idle_end(moved.any(1), counted_BT[row])[:, None] | _is_idle_end(moved.any(0), counted_BT[row]))
        reach |= moved & could
        possible |= could
    return reach, possible


def _counted(subject: Subject, tokens_BT: Tensor) -> Tensor:
    """(B, T): where the loss's gradient shows a target on batch 0; nowhere where it shows no cross-entropy."""
    shown_BT = shown_targets(subject)
    if shown_BT is None:
        return torch.zeros_like(tokens_BT, dtype=torch.bool)
    return shown_BT[:, : tokens_BT.shape[1]] != IGNORE


def _is_idle_end(moves_T: Tensor, counted_T: Tensor) -> Tensor:
    """(T,): from where to the row's end nothing moves and nothing counts: padding that no mask need mark."""
    return ~(moves_T | counted_T).flip(0).cummax(0).values.flip(0)


def _is_deaf(subject: Subject, model: nn.Module, batch: Batch, weight: Tensor, result_A: Tensor) -> bool:
    """Whether heads return the same with this matrix twice as large."""
    weight.data.mul_(2)
    _, _, again_A = heads_of(subject, model, batch)
    weight.data.div_(2)
    return distance(again_A, result_A) < NORMED


CHECKS = (
    Check("attention.causality", check_causality),
    Check("attention.influence", check_influence),
    Check("attention.rows", check_rows),
    Check("attention.padding", check_padding),
    Check("attention.documents", check_documents),
    Check("attention.groups", check_groups),
    Check("attention.normed", check_normed),
)
