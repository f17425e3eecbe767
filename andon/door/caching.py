"""Texts that are generated with a cache, a token at a time, as they are noted while the script runs.

Some tokens after a prompt a copy of the process asks what the module says of the whole row: `door.whole_row`.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from andon.door.containers import copied, held_in
from andon.door.records import Passes, Run
from andon.door.whole_row import TOKENS, Arguments, Cached, Text, ask, is_prompt, prompts
from andon.door.windows import Windows

CHILDREN = 2  # of a run
TRIES = 16  # prompts of one place of the script after which no token was seen to come
MOST = 4_000_000  # numbers of a cache


class Caching:
    """Passes in eval mode without gradients, one after the other."""

    def __init__(self, run: Run, windows: Windows) -> None:
        self.run, self.windows = run, windows
        self._text: Text | None = None
        self._tries: Counter[int] = Counter()
        self._children = 0

    def end(self) -> None:
        """A pass of another kind."""
        self._text = None

    def begins(self, passes: Passes, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A pass in eval mode without gradients begins."""
        now: Arguments = {**dict(enumerate(args)), **kwargs}
        if self._children >= CHILDREN or not self.windows.options["checks"] or not self.windows.fork.possible:
            self._text = None
        elif self._text is not None and _goes_on(self._text, module, now):
            self._text.later.append({key: copied(value) for key, value in now.items() if isinstance(value, Tensor)})
            self._tries[id(passes)] = 0
        else:
            self._begin(passes, module, now)

    def _begin(self, passes: Passes, module: nn.Module, now: Arguments) -> None:
        self._text = None
        begins = any(is_prompt(each) for each in now.values())
        if begins and self._tries[id(passes)] < TRIES and _is_small(held_in(now.values())):
            self._tries[id(passes)] += 1
            self._text = Text(module, {key: copied(each) for key, each in now.items()})

    def ends(self, passes: Passes, module: nn.Module, now: Mapping[int | str, Any], result: Any) -> None:
        """It has ended: what it leaves in its cache must be what the next one is given."""
        text = self._text
        if text is None or text.module is not module:
            return
        if len(text.later) == TOKENS:
            self._compare(passes, text, result)
            return
        left = held_in((*now.values(), result))
        if _is_small(left):
            text.rest = {id(each): (each, each.detach().clone()) for each in left}
        else:
            self._text = None

    def _compare(self, passes: Passes, text: Text, result: Any) -> None:
        """The text is long enough: a child looks at it."""
        self._text = None
        self._children += 1
        if self.windows.fork.begin():
            self.run.over = True  # what is called there is no pass of the script's
            seen = Cached(type(text.module).__name__, str(passes.chain[0]) if passes.chain else "")
            ask(text, seen, result, self.windows.fork.end)


def _is_small(cache: list[Tensor]) -> bool:
    return sum(each.numel() for each in cache) <= MOST


def _goes_on(text: Text, module: nn.Module, now: Arguments) -> bool:
    """Whether it is given the next token of each row, and the cache as the pass before left it, with room for all."""
    found = prompts(text.first, now)
    if module is not text.module or not found:
        return False
    tokens = text.first[found[0]].shape[1] + len(text.later)
    kept = [each for each in held_in(now.values()) if each.dim() > 1]
    return any(max(each.shape) >= tokens for each in kept) and all(_is_as_left(text, each) for each in kept)


def _is_as_left(text: Text, now: Tensor) -> bool:
    _, left = text.rest.get(id(now), (None, None))
    return left is not None and now.shape == left.shape and torch.equal(now, left)
