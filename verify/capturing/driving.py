"""`driven`: a function that trains runs in a thread of its own, and waits at its pauses until it is told to go on."""

import contextlib
import gc
import threading
import weakref
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from andon.verify.capturing.replacing import Function, replaced
from andon.verify.errors import NotApplicable
from andon.verify.observation.optimizers import tensors_of

PATIENCE = 10.0  # seconds that a function has to end
Said = Mapping[str, float]  # by the function where it pauses: what it logs, for one
Pause = Callable[[Said], str]  # the function waits in it; it returns what it was told
PauseAt = Callable[[Pause], Any]


class Stopped(BaseException):
    """Nobody drives the function any more."""


class Driven:
    """A function in a thread of its own; as a `verify.Loop`, what it trains."""

    def __init__(self, function: Callable[[], Any], pause_at: PauseAt | None) -> None:
        self._talk = _Talk()
        self._windows = _Windows(self._talk.pause) if pause_at is None else None
        if pause_at is not None:
            pause_at(self._talk.pause)
        thread = threading.Thread(target=_run, args=(function, self._talk, self._windows), daemon=True)
        thread.start()
        self.close = weakref.finalize(self, _stop, self._talk, thread)
        self._talk.answer()  # what it says at its first pause, before any step

    @property
    def model(self) -> nn.Module:
        """The module whose pass began the window; with `pause_at`, nothing tells which it is."""
        return self._trained().model

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer that holds the model's parameters."""
        return self._trained().optimizer

    def proceed(self, told: str = "step") -> Said:
        """Let the function go on to its next pause, which returns `told`; what it says there.

        Raises:
            RuntimeError: it has ended.
            Exception: whatever it raised.
        """
        self._talk.told.put(told)
        return self._talk.answer()

    def step(self) -> Said:
        """Let it go on to its next pause."""
        return self.proceed()

    def save(self, folder: Path) -> None:
        """A function that only waits cannot be told to.

        Raises:
            NotApplicable: always.
        """
        raise NotApplicable(f"a run that can be saved between two steps, into {folder.name}: a Loop with `save`")

    def validate(self) -> float:
        """A function that only waits cannot be told to.

        Raises:
            NotApplicable: always.
        """
        raise NotApplicable("a run that can be evaluated between two steps: a Loop with `validate`")

    def _trained(self) -> "_Windows":
        if self._windows is None or self._windows.found is None:
            raise NotApplicable("a model and its optimizer: verify.driven finds them where it pauses by itself")
        return self._windows


def driven(function: Callable[[], Any], *, pause_at: PauseAt | None = None) -> Driven:
    """Hold a function that trains between its steps: `Subject(loop=lambda: verify.driven(train))`.

    It runs in a thread of its own, and waits before the first forward pass with gradients, and again before the first
    one after each step of a torch.optim optimizer: with `step()` it makes one whole window of its own, what follows the
    optimizer's step (a schedule, `zero_grad`, an evaluation, the next batch) included. `model` and `optimizer` are
    those of the window.

    `pause_at(pause)` says where else it is to wait: it is called once, before the function runs, and is to see to it
    that the function's thread calls `pause(said)` there, as a callback of a Trainer can. `said`, a mapping, is what
    `step()` returns, and `pause` returns what `proceed(told)` was given, `"step"` by default.

    The function ends, through its `finally` blocks, when what is returned is closed (`close()`) or not used any more.

    Raises:
        RuntimeError: the function ended before its first pause.
        Exception: whatever the function raised before it.
    """
    return Driven(function, pause_at)


class _Talk:
    """What the two threads say to each other."""

    def __init__(self) -> None:
        self.told: SimpleQueue[str | None] = SimpleQueue()
        self.said: SimpleQueue[Said | BaseException] = SimpleQueue()
        self._over: BaseException | None = None

    def pause(self, said: Said) -> str:
        """In the function's thread: wait."""
        self.said.put(dict(said))
        told = self.told.get()
        if told is None:
            self.told.put(None)  # a `finally` block may come here again
            raise Stopped
        return told

    def answer(self) -> Said:
        """In the other: what it says at its pause."""
        if self._over is not None:
            raise self._over
        said = self.said.get()
        if isinstance(said, BaseException):
            self._over = said
            raise said
        return said


def _run(function: Callable[[], Any], talk: _Talk, windows: "_Windows | None") -> None:
    try:
        with windows.open() if windows is not None else contextlib.nullcontext():
            function()
    except Stopped:
        return
    except BaseException as error:  # noqa: BLE001 - raised where the function is driven
        talk.said.put(error)
    else:
        if windows is not None and windows.found is not None and windows.stepped:
            talk.said.put({})  # where the last step ends
        talk.said.put(RuntimeError("the run that is driven is over: let it train for more steps"))


def _stop(talk: _Talk, thread: threading.Thread) -> None:
    """End a function that nobody drives any more."""
    talk.told.put(None)
    if thread is not threading.current_thread():
        thread.join(PATIENCE)


class _Windows:
    """Pauses of a thread: where a pass with gradients begins and none has since the last step."""

    def __init__(self, pause: Pause) -> None:
        self.found: tuple[nn.Module, Optimizer] | None = None
        self._pause, self.stepped = pause, True  # since the last pause
        self._optimizers: list[Optimizer] = []  # in this thread

    @property
    def model(self) -> nn.Module:
        """The module that begins the window."""
        assert self.found is not None
        return self.found[0]

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer that ends it."""
        assert self.found is not None
        return self.found[1]

    @contextlib.contextmanager
    def open(self) -> Generator[None]:
        """In the function's thread."""
        own = threading.get_ident()

        def stepped(optimizer: Optimizer, *_: Any) -> None:
            if threading.get_ident() == own:
                self.stepped = True
                if not any(optimizer is each for each in self._optimizers):
                    self._optimizers.append(optimizer)

        handle = register_optimizer_step_post_hook(stepped)
        try:
            with _passes_told(self._passing):
                yield
        finally:
            handle.remove()

    def _passing(self, module: nn.Module) -> None:
        """A module is called."""
        if not self.stepped or not torch.is_grad_enabled() or not any(p.requires_grad for p in module.parameters()):
            return
        optimizer = _holding(module, self._optimizers) or _holding(module, _optimizers())
        if optimizer is None:  # of a part that learns elsewhere, or later
            return
        self.stepped, self.found = False, (module, optimizer)
        self._pause({})


def _holding(module: nn.Module, known: list[Optimizer]) -> Optimizer | None:
    """The optimizer that holds most of a module's parameters that learn, the newest of several."""
    own = {id(p) for p in module.parameters() if p.requires_grad}
    held = [len(own & {id(p) for p in tensors_of(each)}) for each in known]
    best = max(range(len(known)), key=lambda number: (held[number], number), default=None)
    return known[best] if best is not None and held[best] else None


def _optimizers() -> list[Optimizer]:
    """All that there are in this process: those of one that has not stepped are told in no other way."""
    return [each for each in gc.get_objects() if issubclass(type(each), Optimizer)]


_TOLD: dict[int, Callable[[nn.Module], None]] = {}  # by thread
_LOCK = threading.Lock()
_PLACE = contextlib.ExitStack()  # ours in the place of torch's function, while a thread is to be told


@contextlib.contextmanager
def _passes_told(tell: Callable[[nn.Module], None]) -> Generator[None]:
    """`tell` is called before each call of a module in this thread; torch's function is as before after the last."""
    with _LOCK:
        if not _TOLD:
            _PLACE.enter_context(replaced(nn.Module, "__call__", _telling))
        _TOLD[threading.get_ident()] = tell
    try:
        yield
    finally:
        with _LOCK:
            del _TOLD[threading.get_ident()]
            if not _TOLD:
                _PLACE.close()


def _telling(call: Function) -> Function:
    def called(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        tell = _TOLD.get(threading.get_ident())
        if tell is not None:
            tell(module)
        return call(module, *args, **kwargs)

    return called
