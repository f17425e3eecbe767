"""Records what a script trains, as it is: the door's notes as marks of `andon.tracing`, and nothing else of the door.

A process that makes an optimizer is recorded, from there on; one that makes none is left alone.
"""

import atexit
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import dataloader

from andon.door.stepping import CLIPPING
from andon.door.wrapping import after
from andon.tracing.loop import FILE, Loop, run
from andon.tracing.phases import BACKWARD, FORWARD, Fetch, Phases, their_code
from andon.tracing.record import rank_of_environment
from andon.verify.capturing.replacing import around

CLIP = "clip"


def begin(options: dict[str, Any]) -> None:
    """Record from the first optimizer on to the process's end."""
    Recording(Path(options["trace"]), options["otlp"]).install()


class Recording:
    """The trace of this process, once it trains."""

    def __init__(self, folder: Path, otlp: str) -> None:
        self.folder, self.otlp = folder, otlp
        self.loop: Loop | None = None
        self._stack = ExitStack()
        self._pid = 0
        self._failure: BaseException | None = None
        self._inside = False  # a module's pass, or a backward pass

    def install(self) -> None:
        """Be told of fetches, passes, clipping and steps."""
        after(Optimizer, "__init__", self.open)
        around(dataloader._BaseDataLoaderIter, "__next__", self._around_fetch)  # noqa: SLF001 - iterators have no hooks
        around(nn.Module, "__call__", self._around_module)
        around(Tensor, "backward", self._around_backward)
        around(torch.autograd, "backward", self._around_backward)
        for name in CLIPPING:
            around(nn.utils, name, self._around_clip)
            setattr(nn.utils.clip_grad, name, getattr(nn.utils, name))
        register_optimizer_step_pre_hook(self._before_step)
        register_optimizer_step_post_hook(self._after_step)

    def _before_step(self, *_: Any) -> None:
        if phases := self.phases:
            phases.optimizer_begins()

    def _after_step(self, *_: Any) -> None:
        if phases := self.phases:
            phases.optimizer_ended()

    @property
    def phases(self) -> Phases | None:
        """Those of the recorded loop, in the process that is recorded: its children are not."""
        return self.loop.phases if self.loop and os.getpid() == self._pid else None

    def open(self, *_: Any) -> None:
        """The first optimizer has been made."""
        if self.loop is None:
            self._pid = os.getpid()
            self.loop = self._stack.enter_context(run(self._own_folder(), otlp=self.otlp or None))
            atexit.register(self.close)
            hook = sys.excepthook

            def failed(kind: type[BaseException], error: BaseException, trace: Any) -> None:
                self._failure = error
                hook(kind, error, trace)

            sys.excepthook = failed

    def close(self) -> None:
        """The process ends."""
        if os.getpid() == self._pid:
            error = self._failure
            self._stack.__exit__(type(error) if error else None, error, None)

    def _own_folder(self) -> Path:
        """The run's, or one below it where another process of the same rank has a trace there."""
        rank = rank_of_environment()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            (self.folder / (f"trace.rank{rank}.jsonl" if rank else FILE)).touch(exist_ok=False)
        except FileExistsError:
            return self.folder / str(os.getpid())
        return self.folder

    def _around_fetch(self, fetch: Callable[..., Any]) -> Callable[..., Any]:
        def fetched(batches: Any) -> Any:
            if not (phases := self.phases) or not torch.is_grad_enabled():
                return fetch(batches)
            moment = phases.trace.moment
            begun = moment()
            batch = fetch(batches)
            phases.fetched(Fetch(begun, moment(), their_code(sys._getframe(1))))  # noqa: SLF001 - as in `places`
            return batch

        return fetched

    def _around_module(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or self._inside:
                return call(module, *args, **kwargs)
            if (phases := self.phases) is None or next(module.parameters(), None) is None:
                return call(module, *args, **kwargs)
            if torch.is_grad_enabled():
                phases.enter(FORWARD)
            else:
                phases.forget_fetches()
            self._inside = True
            try:
                return call(module, *args, **kwargs)
            finally:
                self._inside = False

        return called

    def _around_backward(self, backward: Callable[..., Any]) -> Callable[..., Any]:
        def passed(*args: Any, **kwargs: Any) -> Any:
            if self._inside or not (phases := self.phases):
                return backward(*args, **kwargs)
            phases.enter(BACKWARD)
            self._inside = True  # `Tensor.backward` calls `torch.autograd.backward`, and a checkpoint its module
            try:
                return backward(*args, **kwargs)
            finally:
                self._inside = False
                phases.leave(BACKWARD)

        return passed

    def _around_clip(self, clip: Callable[..., Any]) -> Callable[..., Any]:
        def clipped(*args: Any, **kwargs: Any) -> Any:
            if not (phases := self.phases):
                return clip(*args, **kwargs)
            phases.enter(CLIP)
            try:
                return clip(*args, **kwargs)
            finally:
                phases.leave(CLIP)

        return clipped
