"""Which head reads which: by what the gradients of one head's output reach.

Legend: A width of all query heads, R width of all key heads, D width of states.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from andon.verify.access.calls import loss_of
from andon.verify.errors import NotApplicable
from andon.verify.observation.blocks import blocks_of
from andon.verify.subject import Batch, Subject


def heads_of(subject: Subject, model: nn.Module, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Weights of queries, and of keys and values, and what their heads return at the last position (A)."""
    for query, pair, out in _projections(blocks_of(model)[0]):
        seen: list[Tensor] = []
        hook = out.register_forward_pre_hook(lambda _, arguments, seen=seen: seen.append(arguments[0]))
        try:
            loss_of(subject, model, batch)
        finally:
            hook.remove()
        result_A = seen[0].flatten(0, -2)[-1] if seen else torch.zeros(0)
        if result_A.requires_grad and len(result_A) == len(query) and rows_reached(result_A.sum(), pair):
            return query, pair, result_A
    raise NotApplicable(
        "attention with a matrix each for queries, keys, values and output, and fewer keys than queries"
    )


def rows_reached(value: Tensor, matrices: tuple[Tensor, ...]) -> set[int]:
    """The rows of these matrices on which a value depends."""
    gradients = torch.autograd.grad(value, matrices, retain_graph=True, allow_unused=True)
    return {int(row) for g in gradients if g is not None for row in g.any(1).nonzero()}


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
