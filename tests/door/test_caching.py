"""Texts that are generated with a cache, and what the whole row says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from andon.door.fork import Fork
from andon.door.records import Run
from andon.door.statements.caches import check_cache
from andon.door.whole_row import Cached
from andon.verify.errors import CheckFailed, NotApplicable
from tests.door.recorded import WORDS, Light, light_of
from tests.door.watching import Watching

pytestmark = pytest.mark.tier2
WIDTH, LENGTH = 16, 24
Cache = list[Tensor]


class Attends(nn.Module):
    """One layer of attention over a text; `fault` says what it does wrong with its cache."""

    def __init__(self, fault: str = "", *, sees_all: bool = False) -> None:
        super().__init__()
        self.fault, self.sees_all = fault, sees_all
        self.embed, self.place = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.query_key_value, self.head = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WORDS)

    def forward(self, ids: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """(B, n) to (B, n, V), and the cache: a list that is filled, or a new one."""
        before = cache[0].shape[1] if cache else 0
        begin = 0 if self.fault == "positions" else before
        x = self.embed(ids) + self.place(torch.arange(begin, begin + ids.shape[1]))
        q, k, v = self.query_key_value(x).chunk(3, -1)
        if self.fault == "keys" and cache:
            k = k * 0.5
        if cache:
            k, v = torch.cat((cache[0], k), 1), torch.cat((cache[1], v), 1)
        mask = torch.ones(ids.shape[1], k.shape[1], dtype=torch.bool).tril(before)
        if self.sees_all:
            mask = torch.ones_like(mask)
        y = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        if cache is not None:
            cache[:] = [k, v]
        return self.head(y), (cache if cache is not None else [k, v])


@pytest.fixture
def generated(tmp_path: Path) -> Callable[..., Run]:
    """A prompt and tokens after it."""

    def run(model: nn.Module, *, given: bool, between: Callable[[Cache], Any] = lambda _: None) -> Run:
        torch.manual_seed(0)
        fork = Fork(tmp_path, 5.0)
        watching = Watching(fork)
        ids, cache = torch.randint(1, WORDS, (2, 5)), [] if given else None
        model.eval()
        with torch.no_grad():
            logits, cache = watching.call(model, ids, cache)
            for _ in range(5):
                between(cache)
                logits, cache = watching.call(model, logits[:, -1:].argmax(-1), cache)
        watching.run.cached = [Cached(**each["cached"]) for each in fork.gather() if each.get("cached")]
        return watching.run

    return run


def reordered(cache: Cache) -> None:
    """As beams are."""
    cache[:] = [each.flip(0) for each in cache]


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize(
    ("model", "between", "light"),
    [
        (Attends, lambda _: None, None),
        (lambda: Attends("positions"), lambda _: None, CheckFailed),
        (lambda: Attends("keys"), lambda _: None, CheckFailed),
        (lambda: Attends(sees_all=True), lambda _: None, NotApplicable),
        (lambda: Attends("positions"), reordered, NotApplicable),
    ],
    ids=["right", "positions", "keys", "prompt that sees all", "beams"],
)
def test_a_cache_says_what_the_whole_row_says(
    generated: Callable[..., Run],
    model: Callable[[], nn.Module],
    between: Callable[[Cache], Any],
    light: Light,
    *,
    given: bool,
) -> None:
    """Behavior: red where the cached answer is another; not asked where rows change places, or later tokens matter."""
    torch.manual_seed(1)
    assert light is light_of(check_cache, generated(model(), given=given, between=between))
