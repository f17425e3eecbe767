"""An evaluation gone through in a child, with losses and right answers that are known: what comes of its figures?

Whatever the child would leave behind ends it first: it writes, removes and sends nothing.
"""

import inspect
import io
import os
import re
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from multiprocessing import active_children
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.overrides import TorchFunctionMode

from andon.door import places
from andon.door.fork import descriptors
from andon.door.guard import keep_out
from andon.door.holding import held
from andon.door.records import Passes, Run
from andon.door.windows import Windows
from andon.verify.access.batches import tensors_in
from andon.verify.capturing.replacing import around

KNOWN = (2.0, 3.0)  # each loss is the first of them in one child, with all right, and the second in another, with none
GOOD_AND_BAD = (1e-3, 30.0)  # the same, to see what the script does then
ALL = 1 << 30
TRAINS = "trains on"  # how most children end
PLACES = 2  # of a script that are looked at
SECONDS = 10.0  # of a child
SEVERAL = 2  # passes, before a function that returns has gone through an evaluation
LOSSES = (
    "cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "kl_div", "ctc_loss",
)  # fmt: skip
AS_NUMBERS = ("item", "__float__", "tolist")
IGNORED = -100
YIELDS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
EXACT = 1e-5
WATCHERS = ("tqdm._monitor",)  # modules of threads that nobody waits for
PRINTED = re.compile(r"-?\d+\.(\d+)(?![\d.])")


@dataclass
class Rehearsed:
    """What one child saw."""

    line: str
    loss: float  # that each loss was made
    passes: int = 0
    rows: int = 0
    targets: int = 0  # of losses that count them
    unknown: bool = False  # whether the script's losses may be sums: they are made known where they become numbers
    items: list[tuple[int, float]] = field(default_factory=list)  # losses that became numbers, by their pass
    values: list[tuple[float, float]] = field(default_factory=list)  # what came of it all, and to what it is rounded
    follows: bool = False  # whether this is of what the script does then
    kept: int = 0  # times that weights were taken or saved
    rates: list[float] = field(default_factory=list)  # where training goes on
    plateaus: list[tuple[str, float]] = field(default_factory=list)  # what ReduceLROnPlateau was given, by its mode
    end: str = ""  # TRAINS, or the line that would have written something


class Rehearsals:
    """Begins children where a script evaluates."""

    def __init__(self, run: Run, windows: Windows) -> None:
        self.run, self.windows = run, windows
        self._known: dict[Any, int] = {}  # places, and the last of their stretches that was gone through
        self._child: Rehearsal | None = None

    def before(self, passes: Passes, values: tuple[Any, ...]) -> None:
        """A pass is about to be made."""
        if self._child is not None:
            self._child.passing(values)
        elif self._is_due(passes):
            follows = passes.chain in self._known
            self._known[passes.chain] = ALL if follows else passes.stretches
            for place, loss in enumerate(GOOD_AND_BAD if follows else KNOWN):
                if self.windows.fork.begin():
                    self._begin(Rehearsal(loss, self, right=place == 0, follows=follows), passes, values)
                    return

    def _begin(self, child: "Rehearsal", passes: Passes, values: tuple[Any, ...]) -> None:
        self._child = child
        try:
            child.begin(passes, values)
        except BaseException as error:  # noqa: BLE001 - the child must not go on with the script, whatever happens
            self.windows.fork.end({"reason": f"{type(error).__name__}: {error}"})

    def _is_due(self, passes: Passes) -> bool:
        """Whether the script begins to evaluate here what it trains, alone: it shares no file, process or thread."""
        known = self._known.get(passes.chain)
        new = known < passes.stretches if known is not None else len(self._known) < PLACES
        evaluates = new and bool(self.run.steps) and not passes.trained and not torch.is_grad_enabled()
        trained = {id(each.model) for each in self.run.optimizing.values()}
        can = evaluates and self.windows.fork.possible and self.windows.options["checks"]
        return can and bool(trained & passes.modules.keys()) and is_alone()


class Rehearsal(TorchFunctionMode):
    """In a child: makes losses and comparisons known, until the evaluation is over."""

    def __init__(self, loss: float, rehearsals: Rehearsals, *, right: bool, follows: bool) -> None:
        super().__init__()
        self.seen, self.right = Rehearsed("", loss, follows=follows), right
        self.fork, self.run = rehearsals.windows.fork, rehearsals.run
        self.frames: list[FrameType] = []
        self.text = io.StringIO()
        self.over = False
        self._means = False  # whether the script takes means of losses that are known
        self.begun = time.monotonic()

    def begin(self, passes: Passes, values: tuple[Any, ...]) -> None:
        """From the first pass on."""
        self.seen.line = str(passes.chain[0]) if passes.chain else ""
        self.frames = _script_frames()
        sys.stdout = sys.stderr = self.text
        self._keep_out()
        self.passing(values)
        sys.setprofile(self._profile)
        self.__enter__()

    def passing(self, values: tuple[Any, ...]) -> None:
        """Another pass; one of training ends it all."""
        if torch.is_grad_enabled():
            self.end(TRAINS)
        if time.monotonic() - self.begun > SECONDS:
            self.end()
        self.seen.passes += 1
        given = tensors_in(values)
        self.seen.rows += len(given[0]) if given and given[0].dim() else 0

    def _keep_out(self) -> None:
        """What is kept is noted, and nothing is written."""
        signal.signal(signal.SIGALRM, lambda *_: self.end())
        signal.alarm(int(2 * SECONDS))
        around(torch, "save", lambda _: lambda saved, *_, **__: self._save(saved))
        around(nn.Module, "state_dict", lambda taken: _before(taken, self._keep))
        around(lr_scheduler.ReduceLROnPlateau, "step", lambda step: _before(step, self._plateau))
        keep_out(self.end, lambda: self.over)

    def _keep(self, module: nn.Module, *_: Any, **__: Any) -> None:
        """Weights are taken: of what learns, and of no copy."""
        moved = held(self.run, least=1)
        self.seen.kept += any(id(p) in moved for p in module.parameters())

    def _save(self, saved: Any) -> None:
        """A module may be saved as it is; its state was taken before."""
        parts = saved.values() if isinstance(saved, Mapping) else [saved]
        for each in parts:
            if isinstance(each, nn.Module):
                self._keep(each)

    def _plateau(self, schedule: Any, figure: Any, *_: Any) -> None:
        self.seen.plateaus.append((schedule.mode, float(figure)))

    def end(self, where: str = "") -> None:
        """Answer, and end this child."""
        self.over = True
        self.seen.end = where or str(places.here() or "")
        try:
            sys.setprofile(None)
            optimizers = [each.optimizer for each in self.run.optimizing.values()]
            self.seen.rates = [float(group["lr"]) for each in optimizers for group in each.param_groups]
            printed = PRINTED.finditer(self.text.getvalue())
            self.seen.values += [(float(each[0]), 0.6 * 10.0 ** -len(each[1])) for each in printed]
            self.fork.end({"rehearsed": asdict(self.seen)})
        finally:
            os._exit(0)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its functions."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name == "backward":
            self.end(TRAINS)
        result = func(*args, **kwargs)
        if name in LOSSES:
            return self._loss(result, func, args, kwargs)
        if name in ("eq", "__eq__") and len(args) > 1 and _are_answers(*args[:2]):
            return (args[0] >= 0) & (args[1] >= 0) if self.right else torch.zeros_like(result)
        if name in AS_NUMBERS and isinstance(result, float):
            return self._number(result)
        return result

    def _number(self, value: float) -> float:
        """What a number on its own becomes: as it is where it follows known losses or answers, or counts."""
        times = value / self.seen.loss
        if value != round(value) and abs(times - round(times)) > EXACT and not self._means:
            value, self.seen.unknown = self.seen.loss, True
        self.seen.items.append((self.seen.passes, value))
        return value

    def _loss(self, result: Tensor, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        given = _signature(func).bind(*args, **kwargs)
        given.apply_defaults()
        target, reduction = given.arguments.get("target"), given.arguments.get("reduction", "mean")
        counted = _counted(target, given.arguments.get("ignore_index", IGNORED))
        self.seen.targets += int(counted.sum())
        self._means = self._means or reduction in ("mean", "batchmean")
        if reduction == "none":
            return torch.full_like(result, self.seen.loss) * (counted if counted.shape == result.shape else 1)
        return torch.full_like(result, self.seen.loss * (int(counted.sum()) if reduction == "sum" else 1))

    def _profile(self, frame: FrameType, event: str, value: Any) -> None:
        """Python calls this where functions return."""
        if event != "return" or not any(frame is each for each in self.frames):
            return
        if self.seen.passes >= SEVERAL and not self.seen.follows:
            self.seen.values = [(each, 1e-5 * abs(each)) for each in _numbers(value)]
            self.text = io.StringIO()
            self.end()


def _before(function: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
    def noted(*args: Any, **kwargs: Any) -> Any:
        note(*args, **kwargs)
        return function(*args, **kwargs)

    return noted


@cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def _are_answers(one: Any, other: Any) -> bool:
    """Whether two tensors are classes beside classes, or yes and no beside the same."""
    both = isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape and one.dim() > 0
    return both and not one.is_floating_point() and not other.is_floating_point()


def _counted(target: Any, ignore: int) -> Tensor:
    """Which targets a loss counts."""
    if not isinstance(target, Tensor):
        return torch.ones(1, dtype=torch.bool)
    return torch.ones_like(target, dtype=torch.bool) if target.is_floating_point() else target != ignore


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in what a function returns."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1):
        yield float(value)
    elif isinstance(value, Mapping):
        yield from _numbers(list(value.values()))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for each in value:
            yield from _numbers(each)


def _script_frames() -> list[FrameType]:
    """The script's functions that are running; a generator's yields look like returns."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - how the standard library's logging does it
    found = []
    while frame is not None:
        if places.is_script(frame.f_code.co_filename) and not frame.f_code.co_flags & YIELDS:
            found.append(frame)
        frame = frame.f_back
    return found


def is_alone() -> bool:
    """Whether nothing that is read or written from here on is shared with the script's own process."""
    threads = [each for each in threading.enumerate() if type(each).__module__ not in WATCHERS]
    return (
        len(threads) == 1 and not active_children() and not any(map(_is_shared, descriptors())) and not _maps_shared()
    )


def _maps_shared() -> bool:
    """Whether memory is written that other processes, or a file, have as well; tqdm's lock is no such memory."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    return any(line.split()[1].startswith("rw-s") and "/shm/sem." not in line for line in lines)


def _is_shared(descriptor: int) -> bool:
    """Whether it is a file, whose place two processes have in common, or a way to another process."""
    with suppress(OSError):
        kind = os.fstat(descriptor).st_mode
        return stat.S_ISREG(kind) or stat.S_ISSOCK(kind) or stat.S_ISFIFO(kind)
    return False
