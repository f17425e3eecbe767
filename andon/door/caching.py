"""Texts that are generated with a cache: what a module says of one token and its cache, and of the whole row.

Some tokens after a prompt a copy of the process calls the module on the whole row, as it was called on the prompt.

Legend: B batch, n tokens of the prompt.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from andon.door.closeness import apart, is_half
from andon.door.guard import keep_out
from andon.door.readable import is_readable
from andon.door.records import Passes, Run
from andon.door.windows import Windows
from andon.verify.access.batches import tensors_in

TOKENS = 3  # after the prompt
CHILDREN = 2  # of a run
TRIES = 16  # prompts of one place of the script after which no token was seen to come
MOST = 4_000_000  # numbers of a cache
DEEP = 4  # containers within each other
EXACT, HALF = 1e-3, 5e-2  # of what is said: rounding in single precision, and in half
Arguments = dict[int | str, Any]  # by place or name


@dataclass
class Cached:
    """What one child saw; with `lack`, why it could not."""

    kind: str
    line: str
    prompt: int = 0
    apart: float = 0.0  # relative to what is said of the whole row
    close: float = EXACT  # rounding
    lack: str = ""


@dataclass
class Text:
    """A prompt, and the tokens that came after it."""

    module: nn.Module
    first: Arguments  # copied before the cache was filled
    given: list[int]  # containers of the first call, by id
    later: list[Arguments] = field(default_factory=list)
    rest: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # tensors after the last pass, and copies


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
            self._text.later.append({key: _copied(value) for key, value in now.items() if isinstance(value, Tensor)})
            self._tries[id(passes)] = 0
        else:
            self._begin(passes, module, now)

    def _begin(self, passes: Passes, module: nn.Module, now: Arguments) -> None:
        self._text = None
        begins = any(_is_text(each) and each.shape[1] > 1 for each in now.values())
        held = [each for each in now.values() if _is_container(each)]
        size = sum(each.numel() for one in held for each in _tensors(one))
        if begins and size <= MOST and self._tries[id(passes)] < TRIES:
            self._tries[id(passes)] += 1
            first = {key: _copied(each) for key, each in now.items()}
            self._text = Text(module, first, [id(each) for each in held])

    def ends(self, passes: Passes, module: nn.Module, now: Mapping[int | str, Any], result: Any) -> None:
        """It has ended: what it leaves in its cache must be what the next one is given."""
        text = self._text
        if text is None or text.module is not module:
            return
        if len(text.later) == TOKENS:
            self._text = None
            self._children += 1
            if self.windows.fork.begin():
                self._ask(text, Cached(type(module).__name__, str(passes.chain[0]) if passes.chain else ""), result)
            return
        left = [each for value in (*now.values(), result) if _is_container(value) for each in _tensors(value)]
        if sum(each.numel() for each in left) > MOST:
            self._text = None
        else:
            text.rest = {id(each): (each, each.detach().clone()) for each in left}

    def _ask(self, text: Text, seen: Cached, result: Any) -> None:
        """In a child: it ends here."""
        over = []

        def end() -> None:
            over.append(True)
            self.windows.fork.end({"cached": asdict(seen)})

        self.run.over = True  # what is called here is no pass of the script's
        keep_out(end, lambda: bool(over))
        try:
            seen.lack = "a module that writes nothing when it is called"
            seen.lack = _compare(text, seen, result)
        except Exception as error:  # noqa: BLE001 - a call that the script does not make, our own change, provoked it
            seen.lack = f"a module that can be called with the whole row: {type(error).__name__}: {error}"
        end()


def _compare(text: Text, seen: Cached, result: Any) -> str:
    """Measure how far the two answers are apart; returns what is lacking for that."""
    whole, cached = _whole(text), _answer(result)
    if whole is None or cached is None:
        return "arguments that grow with the row"
    seen.prompt = next(each.shape[1] for each in text.first.values() if _is_text(each))
    said, again, short = (_answer(_called(text.module, each)) for each in (whole, whole, text.first))
    if said is None or again is None or short is None or said.dim() != cached.dim():
        return "an answer (B, T, ...) or (B, ...)"
    count, seen.close = short.shape[1] if short.dim() > 2 else 0, HALF if is_half(text.module, cached) else EXACT
    if apart(again, said) > seen.close or (count > 1 and apart(said[:, :count], short) > seen.close):
        return "a module whose answer for a token is the same whatever follows it, and whenever it is asked"
    last, now = (each[:, -1] if each.dim() > 2 else each for each in (said, cached))
    if last.shape != now.shape:
        return "an answer (B, T, ...) or (B, ...)"
    seen.apart = apart(now, last)
    return ""


def _called(module: nn.Module, arguments: Arguments) -> Any:
    """With containers of its own."""
    own = {key: _copied(each) for key, each in arguments.items()}
    args = [own[key] for key in sorted(key for key in own if isinstance(key, int))]
    return module(*args, **{key: each for key, each in own.items() if isinstance(key, str)})


def _whole(text: Text) -> Arguments | None:
    """The first call's arguments for all tokens; None where it is not known what one would be."""
    names = [key for key, each in text.first.items() if _is_text(each) and each.shape[1] > 1]
    tokens = next(key for key in names if _is_next(text, key))
    count, whole = text.first[tokens].shape[1], dict(text.first)
    for key, first in text.first.items():
        if not isinstance(first, Tensor) or key not in text.later[-1]:
            continue
        later = [each[key] for each in text.later if key in each]
        dims = _changed(first, later[-1])
        if not dims:
            continue
        sizes = [each.shape[dims[0]] if each.dim() == first.dim() else -1 for each in later]
        if len(dims) > 1 or first.shape[dims[0]] != count or len(later) < TOKENS:
            return None
        if sizes[-1] == count + TOKENS:
            whole[key] = later[-1]
        elif sizes == [1] * TOKENS:
            whole[key] = torch.cat(
                [first, *(_positions(first) if key != tokens and _counts(first) else later)], dims[0]
            )
        else:
            return None
    return whole


def _counts(first: Tensor) -> bool:
    """Whether it ends in numbers that count up along its last dimension: positions."""
    return not first.is_floating_point() and bool((first[..., -1] - first[..., -2] == 1).all())


def _positions(first: Tensor) -> list[Tensor]:
    """Those that follow, whatever the script gave in their place."""
    return [first[..., -1:] + place for place in range(1, TOKENS + 1)]


def _changed(first: Tensor, later: Tensor) -> list[int]:
    """In which dimensions their sizes differ."""
    if first.dim() != later.dim():
        return [0, 0]
    return [dim for dim in range(first.dim()) if first.shape[dim] != later.shape[dim]]


def _is_next(text: Text, key: int | str) -> bool:
    later = text.later[-1].get(key)
    return isinstance(later, Tensor) and _is_text(later) and later.shape == (len(text.first[key]), 1)


def _goes_on(text: Text, module: nn.Module, now: Arguments) -> bool:
    """Whether it is given the next token of each row, and the cache as the pass before left it, with room for all."""
    nexts = [
        key
        for key, first in text.first.items()
        if _is_text(first) and first.shape[1] > 1 and _is_text(now.get(key)) and now[key].shape == (len(first), 1)
    ]
    if module is not text.module or not nexts:
        return False
    tokens = text.first[nexts[0]].shape[1] + len(text.later)
    caches = [list(_tensors(each)) for each in now.values() if _is_container(each)]
    kept = [each for cache in caches for each in cache if each.dim() > 1]
    as_left = all(id(each) in text.rest and _is_as(each, text.rest[id(each)][1]) for each in kept)
    return bool(kept) and as_left and any(max(each.shape) >= tokens for each in kept)


def _is_as(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _is_text(value: Any) -> bool:
    """Whole numbers (B, n)."""
    is_tensor = isinstance(value, Tensor) and value.dim() == 2 and is_readable(value)
    return is_tensor and value.dtype in (torch.int64, torch.int32)


def _is_container(value: Any) -> bool:
    """What may hold tensors."""
    return isinstance(value, list | tuple | Mapping) or _is_object(value)


def _is_object(value: Any) -> bool:
    """An object of a plain class."""
    plain = type(value).__new__ is object.__new__ and isinstance(getattr(value, "__dict__", None), dict)
    return plain and not isinstance(value, nn.Module | Tensor | type)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else list(vars(value).values())


def _tensors(value: Any, depth: int = DEEP) -> Iterator[Tensor]:
    """All of a container's."""
    if isinstance(value, Tensor):
        if is_readable(value):
            yield value
    elif depth and _is_container(value):
        for each in _parts(value):
            yield from _tensors(each, depth - 1)


def _copied(value: Any, depth: int = DEEP) -> Any:
    """Another container of other tensors; what is no plain container is the same."""
    if isinstance(value, Tensor):
        return value.detach().clone() if is_readable(value) else value
    if not depth:
        return value
    if type(value) in (list, tuple):
        return type(value)(_copied(each, depth - 1) for each in value)
    if type(value) is dict:
        return {key: _copied(each, depth - 1) for key, each in value.items()}
    if _is_object(value) and not isinstance(value, list | tuple | Mapping):
        made = object.__new__(type(value))
        vars(made).update({key: _copied(each, depth - 1) for key, each in vars(value).items()})
        return made
    return value


def _answer(result: Any) -> Tensor | None:
    """What a module says of each row: the first numbers that it returns."""
    return next((each for each in tensors_in(result) if each.is_floating_point() and each.dim() > 1), None)
