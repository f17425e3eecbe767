"""Which head reads which: grouped queries, found by what the gradients of one head's output reach.

Legend: T time, A width of all query heads, R width of all key heads, D width of states, H width of one head.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from andon.verify.access.batches import rows_of
from andon.verify.access.calls import loss_of, new_batch
from andon.verify.errors import CheckFailed, NotApplicable
from andon.verify.observation.blocks import blocks_of
from andon.verify.observation.perturb import awake
from andon.verify.observation.tolerances import distance
from andon.verify.subject import Batch, Subject

NORMED = 1e-3  # of heads' results: an epsilon in the norm
MOST = 32  # heads that are looked at


def check_groups(subject: Subject) -> None:
    """Neighboring query heads share a key head: head n of N reads key head n // (N / K), and query head n.

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
    model, batch = awake(subject), rows_of(subject, new_batch(subject), [0])
    query, pair, result_A = _asked(subject, model, batch)
    width = len(query)
    size = len(_rows_reached(result_A[0], (query,)))
    if not size or width % size or len(pair[0]) % size:
        raise NotApplicable("attention whose queries are a matrix each, with heads one after another")
    heads, groups = width // size, len(pair[0]) // size
    if groups in (1, heads):
        raise NotApplicable("grouped queries: more than one key head, and fewer than query heads")
    for head in range(min(heads, MOST)):
        asked = {row // size for row in _rows_reached(result_A[head * size], (query,))}
        if asked != {head}:
            raise CheckFailed(
                f"what the output takes for head {head} of {heads} reads query head "
                f"{', '.join(map(str, sorted(asked)))}"
            )
        found = {row // size for row in _rows_reached(result_A[head * size], pair)}
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
    model, batch = awake(subject), rows_of(subject, new_batch(subject), [0])
    query, pair, result_A = _asked(subject, model, batch)
    deaf = [_is_deaf(subject, model, batch, weight, result_A) for weight in (query, *pair)]
    if not any(deaf):
        raise NotApplicable("attention that norms its queries or keys")
    if sum(deaf) != 2 or not deaf[0]:
        one, other = ("queries", "keys") if deaf[0] else ("keys", "queries")
        raise CheckFailed(
            f"{one} of twice the size change nothing, {other} of twice the size change what heads return: 1 of the 2 "
            "is normed"
        )


def _is_deaf(subject: Subject, model: nn.Module, batch: Batch, weight: Tensor, result_A: Tensor) -> bool:
    """Whether heads return the same with this matrix twice as large."""
    weight.data.mul_(2)
    _, _, again_A = _asked(subject, model, batch)
    weight.data.div_(2)
    return distance(again_A, result_A) < NORMED


def _rows_reached(value: Tensor, matrices: tuple[Tensor, ...]) -> set[int]:
    gradients = torch.autograd.grad(value, matrices, retain_graph=True, allow_unused=True)
    return {int(row) for g in gradients if g is not None for row in g.any(1).nonzero()}


def _asked(subject: Subject, model: nn.Module, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Weights of queries, and of keys and values, and what their heads return at the last position (A)."""
    for query, pair, out in _projections(blocks_of(model)[0]):
        seen: list[Tensor] = []
        hook = out.register_forward_pre_hook(lambda _, arguments, seen=seen: seen.append(arguments[0]))
        try:
            loss_of(subject, model, batch)
        finally:
            hook.remove()
        result_A = seen[0].flatten(0, -2)[-1] if seen else torch.zeros(0)
        if result_A.requires_grad and len(result_A) == len(query) and _rows_reached(result_A.sum(), pair):
            return query, pair, result_A
    raise NotApplicable(
        "attention with a matrix each for queries, keys, values and output, and fewer keys than queries"
    )


def _projections(block: nn.Module) -> Iterator[tuple[Tensor, tuple[Tensor, ...], nn.Module]]:
    """By shape: queries (A, D), keys and values (R, D) with R below A, and what takes A; more than one where A is D."""
    for parent in block.modules():
        linear = [child for child in parent.children() if isinstance(child, nn.Linear)]
        if len(linear) != 4 or not all(child.weight.requires_grad for child in linear):
            continue
        for out in linear:
            wide = [child for child in linear if child is not out and len(child.weight) == out.in_features]
            narrow = [child for child in linear if child is not out and len(child.weight) < out.in_features]
            if len(wide) == 1 and len(narrow) == 2 and narrow[0].weight.shape == narrow[1].weight.shape:
                yield wide[0].weight, (narrow[0].weight, narrow[1].weight), out
