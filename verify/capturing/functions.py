"""`capture`: a function that trains is run up to one micro-batch, which is returned as a Subject."""

import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from andon.verify.capturing import micro_batch
from andon.verify.capturing.methods import method_around
from andon.verify.capturing.replacing import Function, replaced
from andon.verify.capturing.torch_calls import Recorder, whole
from andon.verify.errors import NotApplicable, SubjectError
from andon.verify.observation.optimizers import tensors_of
from andon.verify.observation.protect import protected
from andon.verify.subject import Subject

THIRD = 3  # step: whatever is made in the first one is there


class _Captured(BaseException):
    """What was to be captured is."""


def capture(function: Callable[[], Any], *, step: int = THIRD) -> Subject:
    """Run a function that trains up to a micro-batch, and return that as a Subject.

    `step`: whose first micro-batch, counting an optimizer's steps from 1. The function ends within its own
    `backward()`, through its `finally` blocks: nothing of that step is made. Random numbers that it does not seed begin
    alike each time, and what it prints goes to stderr; random numbers, torch's global settings and `sys.argv` are
    afterwards as before.

    The Subject holds a copy of the model as it was before the pass, the micro-batch by the names of the arguments that
    it is given as, the loss as torch calls between the model and `backward()` made it, without a last constant factor,
    and the optimizer's class, groups and settings. What was computed in Python in between (a length, an `.item()`) is a
    constant to it. Set its other fields by `dataclasses.replace`.

    Raises:
        SubjectError: the function ended before, or what it does cannot be made again: an error in its message.
        Exception: whatever the function itself raises before.
    """
    if step < 1:
        raise SubjectError(f"capture(step={step!r}): steps count from 1")
    window = _Window(step)
    ends = suppress(_Captured, SystemExit)  # a script may end by the latter
    with protected(), redirect_stdout(sys.stderr), _as_before(), window.open(), ends:
        function()
    if window.subject is None:
        raise SubjectError(window.lack or _too_short(window))
    return window.subject


def _too_short(window: "_Window") -> str:
    taken = max(window.steps.values(), default=0)
    name = "" if window.passes else ", and called no module with parameters that learn"
    return (
        f"the function ended after {taken} steps of a torch.optim optimizer{name}: step {window.step} was to be "
        f"captured; let it train longer, or say capture(function, step={taken or 1})"
    )


class _Window:
    """What lies between two steps, of which one micro-batch is recorded."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.subject: Subject | None = None
        self.lack = ""
        self.passes = 0
        self.steps: dict[int, int] = {}
        self._optimizers: list[Optimizer] = []
        self._recorder: Recorder | None = None
        self._inside = 0

    @contextmanager
    def open(self) -> Generator[None]:
        """Be told of passes, backward passes and steps; all is as before at the end."""
        with ExitStack() as stack:
            stack.enter_context(replaced(nn.Module, "__call__", self._around_call))
            stack.enter_context(replaced(Tensor, "backward", self._around_backward))
            stack.enter_context(replaced(torch.autograd, "backward", self._around_backward))
            stack.enter_context(replaced(Optimizer, "__init__", self._around_making))
            stack.callback(register_optimizer_step_post_hook(self._stepped).remove)
            stack.callback(self._close)
            yield

    def _close(self) -> None:
        if self._recorder is not None:
            self._recorder.__exit__(None, None, None)
            self._recorder = None

    def _stepped(self, optimizer: Optimizer, *_: Any) -> None:
        self.steps[id(optimizer)] = self.steps.get(id(optimizer), 0) + 1
        if not any(optimizer is each for each in self._optimizers):
            self._optimizers.append(optimizer)

    def _around_making(self, init: Function) -> Function:
        def made(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            init(optimizer, *args, **kwargs)
            self._optimizers.append(optimizer)

        return made

    def _around_call(self, call: Function) -> Function:
        def called(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            if self._inside or not self._learns(module):
                return call(module, *args, **kwargs)
            self._inside += 1
            try:
                return self._pass(module, call, args, kwargs)
            finally:
                self._inside -= 1

        return called

    def _pass(self, module: nn.Module, call: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.passes += 1
        if self._recorder is None and torch.is_grad_enabled() and self._is_due(module):
            self._recorder = Recorder()
            self._recorder.__enter__()
        if self._recorder is None:
            return call(module, *args, **kwargs)
        self._recorder.keep(self._model_of(module, self._recorder))
        return self._recorder.call(module, call, args, kwargs)

    def _model_of(self, module: nn.Module, recorder: Recorder) -> nn.Module:
        """The model that calls the module by a method of its own, or called another so; else the module itself."""
        known = whole(module, recorder.models)
        found = method_around(module) if known is module else None
        if found is None:
            return known
        recorder.models.append(found.model)
        return found.model

    def _learns(self, module: nn.Module) -> bool:
        return any(p.requires_grad for p in module.parameters())

    def _is_due(self, module: nn.Module) -> bool:
        """Whether this is a pass of the step that is wanted, of a model that the optimizer trains."""
        if self.step == 1:
            return True
        return any(self.steps.get(id(each), 0) >= self.step - 1 for each in self._training(module))

    def _training(self, module: nn.Module) -> list[Optimizer]:
        own = {id(p) for p in module.parameters()}
        return [each for each in self._optimizers if any(id(p) in own for p in tensors_of(each))]

    def _around_backward(self, backward: Function) -> Function:
        def asked(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if self.subject is None and self._recorder is None and not self.lack:
                return backward(tensors, *args, **kwargs)
            if self._recorder is not None:
                self._take(tensors if isinstance(tensors, Tensor) else next(iter(tensors), None))
            raise _Captured

        return asked

    def _take(self, loss: Any) -> None:
        """Make the Subject of what was recorded."""
        recorder, self._inside = self._recorder, 1  # what is called from here on is none of the function's
        assert recorder is not None
        self._close()
        try:
            optimizer = next((each for each in self._training(self._first(recorder))), None)
            with torch.autocast("cpu", enabled=False):
                self.subject = micro_batch.as_subject(micro_batch.capture(recorder, loss, optimizer))
        except NotApplicable as lack:
            self.lack = f"what the function does cannot be captured: it needs {lack}"
        except Exception as error:  # noqa: BLE001 - whatever a replay of somebody's code raises is why it is not captured
            self.lack = (
                f"what the function does cannot be captured: made again, it raised {type(error).__name__}: {error}"
            )

    def _first(self, recorder: Recorder) -> nn.Module:
        """The first module whose pass was recorded."""
        return next(each.module for each in recorder.entries if each.module is not None)


@contextmanager
def _as_before() -> Generator[None]:
    """What a script finds as its own, put back."""
    words, path, main = sys.argv, sys.path, sys.modules["__main__"]
    before = list(words), list(path)
    try:
        yield
    finally:
        sys.argv, sys.path = words, path
        words[:], path[:] = before
        sys.modules["__main__"] = main
