"""Notes on optimizers: where they are made, what is clipped before their steps, and what each window was."""

import math
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from andon.door import places
from andon.door.gradient_sample import sample, scaled_by
from andon.door.holding import held
from andon.door.idle import note_gradients, note_unheld
from andon.door.loading import resumed
from andon.door.records import Clip, Optimizing, Run, Window
from andon.door.safely import safely
from andon.door.windows import Windows
from andon.door.wrapping import after
from andon.verify.capturing.replacing import around
from andon.verify.observation.optimizers import tensors_of

SAME = 1e-3  # of a gradient in float32
MEASURED = 1e-3  # of its bound: a norm as far below is only measured
CLIPPING = {"clip_grad_norm_": "max_norm", "clip_grad_value_": "clip_value"}  # what their second argument is called


class StepNotes:
    """What is noted of each optimizer; `stepped` is called after each step."""

    def __init__(self, run: Run, windows: Windows, stepped: Callable[[], None]) -> None:
        self.run, self.windows, self.stepped = run, windows, stepped

    def install(self) -> None:
        """Note constructors, clipping and steps."""
        register_optimizer_step_pre_hook(lambda optimizer, *_: safely(self.run, self.before, optimizer))
        register_optimizer_step_post_hook(lambda optimizer, *_: safely(self.run, self.after, optimizer))
        after(Optimizer, "__init__", partial(safely, self.run, self.made))
        for name, bound in CLIPPING.items():
            self._around_clip(name, bound)

    def made(self, optimizer: Optimizer, *_: Any) -> None:
        """An optimizer has been constructed."""
        if not self.run.over:
            made = Optimizing(optimizer, places.here(), births=self.run.births.count)
            self.run.optimizing[id(optimizer)] = made

    def before(self, optimizer: Optimizer, *_: Any) -> None:
        """An optimizer is about to move weights."""
        if self.run.over:
            return
        if id(optimizer) not in self.run.optimizing:
            self.made(optimizer)
        each = self.run.optimizing[id(optimizer)]
        each.stepped = places.here()
        each.window.partial = _accumulation_goes_on()
        if each.window.gradient is not None:
            each.window.scale = _scale(each.window, sample(each.optimizer))
        if self.run.trail is not None:
            self.run.trail.before_step(optimizer)
        if not each.steps:
            resumed(each, self.run)
        self.windows.before_step(each)
        each.empty += bool(each.window.backwards) and _has_none(each.optimizer)
        note_gradients(each)
        note_unheld(each, self.run, lambda: held(self.run))
        self.run.loose.step()
        self.run.turns.begin(each, [other for other in self.run.optimizing.values() if other is not each])
        if each.watch is not None:
            each.watch.before_step()

    def after(self, optimizer: Optimizer, *_: Any) -> None:
        """It has moved them."""
        if self.run.over:
            return
        each = self.run.optimizing[id(optimizer)]
        self.run.turns.end(each)
        if each.watch is not None:
            each.watch.after_step()
        each.steps += 1
        self.run.begun = self.run.begun if self.run.steps else self.run.given
        self.run.steps += 1
        each.last_step = self.run.steps
        each.between.stepped(optimizer)
        self._tell_others(each)
        self._close(each)
        self.windows.after_step(each)
        self.stepped()

    def clipped(self, parameters: list[Tensor], bound: float, norm: Any) -> None:
        """Gradients were clipped."""
        if self.run.over:
            return
        known, place = {id(p) for p in parameters}, places.here()
        value = float(norm) if isinstance(norm, Tensor) and norm.device.type == "cpu" else float("nan")
        for each in self.run.optimizing.values():
            if any(id(p) in known for p in tensors_of(each.optimizer)):
                scaled = self.run.scaling.scaled(each.optimizer)
                each.window.clips.append(Clip(place, bound, value, each.window.backwards, scaled))

    def _around_clip(self, name: str, bound: str) -> None:
        def make(clip: Callable[..., Any]) -> Callable[..., Any]:
            def noted(parameters: Any, *args: Any, **kwargs: Any) -> Any:
                parameters = _listed(parameters)
                norm = clip(parameters, *args, **kwargs)
                safely(self.run, self.clipped, parameters, float(args[0] if args else kwargs[bound]), norm)
                return norm

            return noted

        around(nn.utils, name, make)
        setattr(nn.utils.clip_grad, name, getattr(nn.utils, name))

    def _tell_others(self, each: Optimizing) -> None:
        """To those that hold other tensors: its step has taken these gradients."""
        reached = each.window.leftovers.reached
        for other in self.run.optimizing.values():
            if other is not each and reached & other.window.leftovers.reached and not _share(each, other):
                other.window.leftovers.took(reached)

    def _close(self, each: Optimizing) -> None:
        window, each.window = each.window, Window()
        each.mixed = window.leftovers.mixed or each.mixed
        each.backwards[window.backwards] += 1
        each.rates.append(tuple(float(group.get("lr", "nan")) for group in each.optimizer.param_groups))
        each.kinds["all"] += 1
        for kind, is_so in _kinds(window).items():
            each.kinds[kind] += is_so
        each.clip = window.clips[-1] if window.clips else each.clip
        for schedule in self.run.scheduling.values():
            if schedule.optimizer == id(each.optimizer):
                schedule.per_step[schedule.since_step] += each.steps > 1
                schedule.since_step = 0


def _share(one: Optimizing, other: Optimizing) -> bool:
    """Whether two optimizers hold a tensor both."""
    own = {id(p) for p in tensors_of(one.optimizer)}
    return any(id(p) in own for p in tensors_of(other.optimizer))


def _listed(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """They may be a generator, which is gone once it was read."""
    return [parameters] if isinstance(parameters, Tensor) else list(parameters)


def _has_none(optimizer: Optimizer) -> bool:
    """Whether none of its tensors has a gradient."""
    return all(p.grad is None for p in tensors_of(optimizer))


def _kinds(window: Window) -> dict[str, bool]:
    """What was done in a window."""
    acted = any(clip.backwards and clip.norm > clip.max_norm for clip in window.clips)
    late = _are_late(window)
    return {
        "clipped": bool(window.clips),
        "grown": window.grown_after_clip,
        "grown and acted": window.grown_after_clip and acted,
        "grown alike": window.grown_alike,
        "late": late,
        "late and acted": late and not all(clip.norm < MEASURED * clip.max_norm for clip in window.clips),
        "scaled": any(clip.scaled for clip in window.clips),
        "partial": window.partial,
        "mixed": window.leftovers.mixed is not None,
        "dropped": 0 < window.dropped == window.backwards - 1 and window.scale == window.scale,
        "summed": window.added == window.backwards - 1 and abs(window.scale - 1) < SAME,
    }


def _are_late(window: Window) -> bool:
    """Whether gradients were clipped, and only before the window's first backward pass."""
    return bool(window.clips) and all(clip.backwards == 0 for clip in window.clips)


def _scale(window: Window, now: Tensor | None) -> float:
    """By what gradients were multiplied since the last backward pass, clipping aside."""
    clipped = [min(1.0, clip.max_norm / clip.norm) for clip in window.clips if clip.norm > 0]
    return scaled_by(window.gradient, now) / math.prod(clipped)


def _accumulation_goes_on() -> bool:
    """Whether accelerate has been told that this micro-batch does not end its window."""
    state = sys.modules.get("accelerate.state")
    shared = getattr(getattr(state, "GradientState", None), "_shared_state", None) if state else None
    return bool(shared) and shared.get("sync_gradients") is False
