"""Correct code that was accused: mixtures whose tokens stand near a border between experts, and the model alone."""

from collections.abc import Callable
from functools import partial

from andon.verify import Subject
from tests.reports.routed_experts import subject as mixture
from tests.reports.small import Decoder, draw, loss

SHAPES = [(experts, chosen, rows) for experts in (3, 6, 8) for chosen in (1, 2) for rows in (4, 7)]
MIXTURES: dict[str, Callable[[], Subject]] = {
    f"top {chosen} of {experts} experts, {rows} rows": partial(
        mixture, divided=False, experts=experts, chosen=chosen, rows=rows, balance=0.0
    )
    for experts, chosen, rows in SHAPES
}
CORRECT = {"the decoder alone": lambda: Subject(name="decoder", model=Decoder, batch=draw, loss=loss), **MIXTURES}
