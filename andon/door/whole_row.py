"""What a module says of a token in the whole row, held to what it said with a cache: asked in a copy of the process.

The module is called on the whole row as it was called on the prompt.

Legend: B batch, n tokens of the prompt.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from andon.door.closeness import apart, is_half
from andon.door.containers import copied
from andon.door.guard import keep_out
from andon.door.readable import is_readable
from andon.verify.access.batches import tensors_in

TOKENS = 3  # after the prompt
EXACT, HALF = 1e-3, 5e-2  # of what is said: rounding in single precision, and in half
UNKNOWN = "arguments that grow with the row"
UNLIKE = "an answer (B, T, ...) or (B, ...)"
CHANGING = "a module whose answer for a token is the same whatever follows it, and whenever it is asked"
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
    later: list[Arguments] = field(default_factory=list)  # tensors alone
    rest: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # tensors after the last pass, and copies


def is_prompt(value: Any) -> bool:
    """Whole numbers (B, n), n above 1."""
    return _is_text(value) and value.shape[1] > 1


def prompts(first: Arguments, later: Mapping[int | str, Any]) -> list[int | str]:
    """The arguments that were a prompt, and are the next token of each row later."""
    return [key for key, each in first.items() if is_prompt(each) and _follows(later.get(key), each)]


def ask(text: Text, seen: Cached, result: Any, end: Callable[[dict[str, Any]], None]) -> None:
    """In a child: it ends here."""
    over = []

    def ends() -> None:
        over.append(True)
        end({"cached": asdict(seen)})

    keep_out(ends, lambda: bool(over))
    try:
        seen.lack = "a module that writes nothing when it is called"
        seen.lack = _compare(text, seen, result)
    except Exception as error:  # noqa: BLE001 - a call that the script does not make, our own change, provoked it
        seen.lack = f"a module that can be called with the whole row: {type(error).__name__}: {error}"
    ends()


def _compare(text: Text, seen: Cached, result: Any) -> str:
    """Measure how far the two answers are apart; returns what is lacking for that."""
    whole, cached = _whole(text), _answer(result)
    if whole is None or cached is None:
        return UNKNOWN
    seen.prompt = next(each.shape[1] for each in text.first.values() if _is_text(each))
    answers = _answers(text.module, whole, whole, text.first)
    if len(answers) < 3 or answers[0].dim() != cached.dim():
        return UNLIKE
    seen.close = HALF if is_half(text.module, cached) else EXACT
    return _measure(seen, cached, *answers)


def _measure(seen: Cached, cached: Tensor, said: Tensor, again: Tensor, short: Tensor) -> str:
    """Of the answer for the whole row, the same once more, and that for the prompt alone."""
    if apart(again, said) > seen.close or _beginning_apart(said, short) > seen.close:
        return CHANGING
    last, now = _last(said), _last(cached)
    if last.shape != now.shape:
        return UNLIKE
    seen.apart = apart(now, last)
    return ""


def _beginning_apart(said: Tensor, short: Tensor) -> float:
    """How far the answer for the prompt's tokens is from that for the prompt alone, where each has its own."""
    count = short.shape[1] if short.dim() > 2 else 0
    return apart(said[:, :count], short) if count > 1 else 0.0


def _last(answer: Tensor) -> Tensor:
    """(B, T, ...) or (B, ...) to (B, ...)."""
    return answer[:, -1] if answer.dim() > 2 else answer


def _answers(module: nn.Module, *calls: Arguments) -> list[Tensor]:
    """Those that there are."""
    answers = [_answer(_called(module, each)) for each in calls]
    return [each for each in answers if each is not None]


def _answer(result: Any) -> Tensor | None:
    """What a module says of each row: the first numbers that it returns."""
    return next((each for each in tensors_in(result) if each.is_floating_point() and each.dim() > 1), None)


def _called(module: nn.Module, arguments: Arguments) -> Any:
    """With containers of its own."""
    own = {key: copied(each) for key, each in arguments.items()}
    args = [own[key] for key in sorted(key for key in own if isinstance(key, int))]
    return module(*args, **{key: each for key, each in own.items() if isinstance(key, str)})


def _whole(text: Text) -> Arguments | None:
    """The first call's arguments for all tokens; None where it is not known what one would be."""
    last, whole = text.later[-1], dict(text.first)
    prompt = text.first[prompts(text.first, last)[0]]
    for key, first in text.first.items():
        if isinstance(first, Tensor) and key in last:
            whole[key] = _grown(first, [each[key] for each in text.later if key in each], prompt)
            if whole[key] is None:
                return None
    return whole


def _grown(first: Tensor, later: list[Tensor], prompt: Tensor) -> Tensor | None:
    """One argument for all tokens, from those for the prompt and for each token after it."""
    dims, count = _changed(first, later[-1]), prompt.shape[1]
    if not dims:
        return first
    if len(dims) > 1 or first.shape[dims[0]] != count or len(later) < TOKENS:
        return None
    sizes = [each.shape[dims[0]] if each.dim() == first.dim() else -1 for each in later]
    if sizes[-1] == count + TOKENS:
        return later[-1]
    if sizes != [1] * TOKENS:
        return None
    return torch.cat([first, *_followers(first, later, prompt)], dims[0])


def _changed(first: Tensor, later: Tensor) -> list[int]:
    """In which dimensions their sizes differ."""
    if first.dim() != later.dim():
        return [0, 0]
    return [dim for dim in range(first.dim()) if first.shape[dim] != later.shape[dim]]


def _followers(first: Tensor, later: list[Tensor], prompt: Tensor) -> list[Tensor]:
    """What was given for each token; positions count on, whatever the script gave in their place."""
    if first is prompt or not _counts(first):
        return later
    return [first[..., -1:] + place for place in range(1, TOKENS + 1)]


def _counts(first: Tensor) -> bool:
    """Whether it ends in numbers that count up along its last dimension: positions."""
    return not first.is_floating_point() and bool((first[..., -1] - first[..., -2] == 1).all())


def _follows(value: Any, prompt: Tensor) -> bool:
    return _is_text(value) and value.shape == (len(prompt), 1)


def _is_text(value: Any) -> bool:
    """Whole numbers (B, n)."""
    is_tensor = isinstance(value, Tensor) and value.dim() == 2 and is_readable(value)
    return is_tensor and value.dtype in (torch.int64, torch.int32)
