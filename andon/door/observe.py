"""Watches torch in the process of a script: what it calls, when and from where. Nothing that it computes changes.

Torch's own global hooks where there are some, and otherwise the same function with a note before and after it.
"""

import functools
import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from andon.door import places
from andon.door.comparing import Comparing
from andon.door.records import Clip, Optimizing, Passes, Run, Scheduling
from andon.door.windows import Windows
from andon.verify.access.batches import tensors_in

OUTPUTS = 8  # tensors of a pass's result that are looked at

SCHEDULERS = (
    lr_scheduler.LRScheduler,
    lr_scheduler.ReduceLROnPlateau,
    lr_scheduler.CosineAnnealingWarmRestarts,
    lr_scheduler.SequentialLR,
    lr_scheduler.ChainedScheduler,
)


def begin(options: dict[str, Any]) -> None:
    """Watch from here to the process's end, or to the limits of `options`."""
    from andon.door.ending import Ending

    run = Run()
    windows = Windows(run, options)
    Observer(run, windows, Ending(run, options, windows.fork)).install()


class Observer:
    """The notes before and after what torch does."""

    def __init__(self, run: Run, windows: Windows, ending: Any) -> None:
        self.run, self.windows, self.ending = run, windows, ending
        self._depth = 0
        self._span: Passes | None = None
        self._random: Tensor | None = None  # numbers where the last pass without a backward pass ended
        self._drawn = False  # whether they have moved between two such passes of this stretch
        self._comparing = Comparing(run)
        self._in_backward = False
        self._in_schedule = 0

    def install(self) -> None:
        """Put all notes in their places."""
        register_optimizer_step_pre_hook(self.before_step)
        register_optimizer_step_post_hook(self.after_step)
        self._around_calls()
        self._around_backward()
        _after(Optimizer, "__init__", self.optimizer_made)
        _after(lr_scheduler.LRScheduler, "__init__", self.schedule_made)
        for kind in SCHEDULERS:
            if "step" in vars(kind):
                self._around_schedule(kind)
        for name in ("clip_grad_norm_", "clip_grad_value_"):
            self._around_clip(name)
        _after(torch, "save", self.saved)
        self._around_scaler()
        self.ending.install()

    def _around_calls(self) -> None:
        call, observer = nn.Module.__call__, self

        def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if observer._depth or observer.run.over or not places_of_interest(module):
                return call(module, *args, **kwargs)
            observer._depth += 1
            try:
                passes = observer.before_pass(module, args, kwargs)
                result = observer.windows.call(module, call, args, kwargs, training=passes.with_gradients > 0)
            finally:
                observer._depth -= 1
            observer.after_pass(passes, result)
            return result

        nn.Module.__call__ = called

    def before_pass(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Passes:
        """An outermost forward pass begins."""
        chain = places.chain()
        passes = self.run.passes.setdefault(chain, Passes(chain))
        if self._span is not passes and passes.trained == 0:
            passes.spans += 1
            self._span, self._drawn, self._random = passes, False, None
        if passes.trained == 0 and self._random is not None and not self._drawn:
            self._drawn = not torch.equal(self._random, torch.get_rng_state())
            passes.draws += self._drawn
        if passes.trained == 0 and self.run.steps and not torch.is_grad_enabled():
            self._comparing.begin()
        elif passes.trained:
            self._comparing.end()
        gradients = torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())
        if gradients and id(module) not in self.run.modules:
            self.run.modules[id(module)] = module
        passes.count += 1
        passes.training_mode += module.training
        passes.with_gradients += gradients
        passes.modules[id(module)] = module
        passes.rows.note((*args, *kwargs.values()))
        for each in self.run.optimizing.values():
            if each.watch is not None and each.model is module and gradients:
                each.watch.before_forward(module, args, kwargs)
        return passes

    def after_pass(self, passes: Passes, result: Any) -> None:
        """It has ended; whether it is one of training shows once a gradient reaches what it returned."""
        self._await_gradient(passes, result)
        self._random = torch.get_rng_state() if passes.trained == 0 else None

    def _await_gradient(self, passes: Passes, result: Any) -> None:
        observer, arrived = self, []

        def arrives(_: Any) -> None:
            if not arrived:
                arrived.append(True)
                passes.trained += 1
                observer._span = None

        for tensor in tensors_in(result)[:OUTPUTS]:
            if tensor.grad_fn is not None:
                tensor.grad_fn.register_prehook(arrives)

    def _around_backward(self) -> None:
        observer = self

        def wrap(backward: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(backward)
            def noted(tensors: Any, *args: Any, **kwargs: Any) -> Any:
                if observer._in_backward or observer.run.over:
                    return backward(tensors, *args, **kwargs)
                observer._in_backward = True
                try:
                    observer.before_backward(tensors)
                    result = backward(tensors, *args, **kwargs)
                finally:
                    observer._in_backward = False
                return result

            return noted

        setattr(Tensor, "backward", wrap(Tensor.backward))  # noqa: B010 - a plain assignment has another type
        setattr(torch.autograd, "backward", wrap(torch.autograd.backward))  # noqa: B010 - a plain assignment has a type

    def before_backward(self, tensors: Any) -> None:
        """A backward pass begins."""
        self.run.backwards += 1
        loss = tensors if isinstance(tensors, Tensor) else next(iter(tensors), None)
        self.run.loss_place = places.here()
        if isinstance(loss, Tensor) and loss.numel() == 1 and loss.device.type == "cpu":
            value = float(loss.detach())
            self.run.losses.append(value)
            for each in self.run.optimizing.values():
                if each.watch is not None and each.last_step == self.run.steps:
                    each.watch.loss(value)
        for each in self.run.optimizing.values():
            window = each.window
            window.backwards += 1
            if window.clips and window.clips[-1].backwards and _carries(each.optimizer):
                window.grown_after_clip = True
        self.windows.backward(loss)

    def _around_clip(self, name: str) -> None:
        clip = getattr(nn.utils, name)
        observer = self

        @functools.wraps(clip)
        def noted(parameters: Any, bound: float, *args: Any, **kwargs: Any) -> Any:
            parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
            norm = clip(parameters, bound, *args, **kwargs)
            observer.clipped(parameters, float(bound), norm)
            return norm

        for owner in (nn.utils, nn.utils.clip_grad):
            setattr(owner, name, noted)

    def clipped(self, parameters: list[Tensor], bound: float, norm: Any) -> None:
        """Gradients were clipped."""
        if self.run.over:
            return
        known, place = {id(p) for p in parameters}, places.here()
        value = float(norm) if isinstance(norm, Tensor) and norm.device.type == "cpu" else float("nan")
        for each in self.run.optimizing.values():
            if any(id(p) in known for group in each.optimizer.param_groups for p in group["params"]):
                scaled = self.run.scaler is not None and self.run.scaler.scaled(each.optimizer)
                each.window.clips.append(Clip(place, bound, value, each.window.backwards, scaled))

    def optimizer_made(self, optimizer: Optimizer) -> None:
        """An optimizer has been constructed."""
        if self.run.over:
            return
        self.run.optimizing[id(optimizer)] = Optimizing(optimizer, places.here())

    def before_step(self, optimizer: Optimizer, *_: Any) -> None:
        """An optimizer is about to move weights."""
        if self.run.over:
            return
        each = self.run.optimizing.get(id(optimizer))
        if each is None:
            self.optimizer_made(optimizer)
            each = self.run.optimizing[id(optimizer)]
        each.stepped = places.here()
        each.window.partial = _accumulation_goes_on()
        self.windows.before_step(each)
        if each.watch is not None:
            each.watch.before_step()

    def after_step(self, optimizer: Optimizer, *_: Any) -> None:
        """It has moved them."""
        if self.run.over:
            return
        each = self.run.optimizing[id(optimizer)]
        if each.watch is not None:
            each.watch.after_step()
        each.steps += 1
        self.run.steps += 1
        each.last_step = self.run.steps
        self._close(each)
        self.windows.after_step(each)
        self.ending.after_step()

    def _close(self, each: Optimizing) -> None:
        window = each.window
        each.backwards[window.backwards] += 1
        each.rates.append(tuple(float(group.get("lr", "nan")) for group in each.optimizer.param_groups))
        each.clipped["windows"] += 1
        each.clipped["any"] += bool(window.clips)
        each.clipped["grown"] += window.grown_after_clip
        acted = [clip for clip in window.clips if clip.backwards and clip.norm > clip.max_norm]
        each.clipped["acted"] += bool(acted)
        each.clipped["grown and acted"] += window.grown_after_clip and bool(acted)
        each.clipped["late"] += bool(window.clips) and all(clip.backwards == 0 for clip in window.clips)
        each.clipped["scaled"] += any(clip.scaled for clip in window.clips)
        each.clipped["partial"] += window.partial
        each.clip = window.clips[-1] if window.clips else each.clip
        each.window = type(window)()
        for schedule in self.run.scheduling.values():
            if schedule.optimizer == id(each.optimizer):
                schedule.per_step[schedule.since_step] += each.steps > 1
                schedule.since_step = 0

    def schedule_made(self, scheduler: Any) -> None:
        """A schedule has been constructed; its first step is its constructor's."""
        optimizer = getattr(scheduler, "optimizer", None)
        self.run.scheduling[id(scheduler)] = Scheduling(scheduler, places.here(), id(optimizer))

    def _around_schedule(self, kind: Any) -> None:
        step, observer = kind.step, self

        @functools.wraps(step)
        def noted(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            observer._in_schedule += 1
            try:
                return step(scheduler, *args, **kwargs)
            finally:
                observer._in_schedule -= 1
                observer.schedule_stepped(scheduler)

        kind.step = noted

    def schedule_stepped(self, scheduler: Any) -> None:
        """A schedule has gone on; not where another one drives it, nor in its constructor."""
        each = self.run.scheduling.get(id(scheduler))
        if each is None or self._in_schedule:
            return
        each.stepped = places.here()
        each.calls += 1
        each.since_step += 1
        optimizing = self.run.optimizing.get(each.optimizer)
        each.before_first_step += optimizing is not None and optimizing.steps == 0

    def saved(self, *_: Any) -> None:
        """A file has been written by torch."""
        self.run.saves += 1

    def _around_scaler(self) -> None:
        self.run.scaler = Scaling()
        scaler = torch.amp.grad_scaler.GradScaler
        for name in ("scale", "unscale_", "update"):
            _after_self(scaler, name, getattr(self.run.scaler, name))


class Scaling:
    """Which gradients are under a loss scale."""

    def __init__(self) -> None:
        self.active = self.ever = False
        self.unscaled: weakref.WeakSet[Any] = weakref.WeakSet()

    def scale(self, scaler: Any, *_: Any) -> None:
        """A loss was scaled."""
        self.active = scaler.is_enabled() and scaler.get_scale() != 1.0
        self.ever = self.ever or self.active

    def unscale_(self, _: Any, optimizer: Any, *__: Any) -> None:
        """An optimizer's gradients are themselves again."""
        self.unscaled.add(optimizer)

    def update(self, *_: Any) -> None:
        """A step is over."""
        self.unscaled.clear()
        self.active = False

    def scaled(self, optimizer: Any) -> bool:
        """Whether this optimizer's gradients are."""
        return self.active and optimizer not in self.unscaled


def places_of_interest(module: nn.Module) -> bool:
    """Whether a call of it is a pass of a model: it has parameters, of its own or below."""
    return next(module.parameters(), None) is not None


def _after(owner: Any, name: str, note: Callable[..., None]) -> None:
    """Note a call of `owner.name` once it has returned; what is noted is its first argument."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def noted(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        note(*args[:1])
        return result

    setattr(owner, name, noted)


def _after_self(owner: Any, name: str, note: Callable[..., None]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        note(self, *args)
        return result

    setattr(owner, name, noted)


def _carries(optimizer: Optimizer) -> bool:
    """Whether gradients that are there already will be added to."""
    gradients = (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
    first = next(gradients, None)
    return first is not None and bool(first.detach().reshape(-1)[:1024].any())


def _accumulation_goes_on() -> bool:
    """Whether accelerate has been told that this micro-batch does not end its window."""
    state = sys.modules.get("accelerate.state")
    shared = getattr(getattr(state, "GradientState", None), "_shared_state", None) if state else None
    return bool(shared) and shared.get("sync_gradients") is False
