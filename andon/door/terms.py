"""The terms that a loss is the sum of, and those of them that nothing learns from."""

from collections.abc import Iterator

from torch import Tensor

from andon.verify.capturing.micro_batch import SCALES, Captured
from andon.verify.capturing.torch_calls import Entry

ADDS = ("add", "__add__", "__radd__", "add_", "__iadd__", "sub", "__sub__", "sub_", "__isub__")


def idle_terms_of(captured: Captured) -> dict[str, float]:
    """By what each is called, what a term without a gradient is, beside others that have one."""
    made = {id(entry.result): entry for entry in captured.entries if isinstance(entry.result, Tensor)}
    terms = list(_terms(captured.loss, made))
    names = {id(part): name for name, part in captured.parts.items()}
    return {
        names.get(id(each), f"term {place} of {len(terms)}"): float(each.detach())
        for place, each in enumerate(terms, start=1)
        if not each.requires_grad and len(terms) > 1
    }


def _terms(value: Tensor, made: dict[int, Entry]) -> Iterator[Tensor]:
    """Numbers that are added up, factors aside, in their order."""
    entry = made.get(id(value))
    given = [each for each in entry.args if isinstance(each, Tensor)] if entry is not None else []
    own = entry is not None and entry.module is None and all(each.numel() == 1 for each in given)
    if entry is not None and own and entry.name in ADDS:
        for each in given:
            yield from _terms(each, made)
    elif entry is not None and own and entry.name in SCALES and len(given) == 1:
        yield from _terms(given[0], made)
    elif value.numel() == 1:
        yield value
