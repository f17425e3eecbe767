"""Files that a script reads, and what of them is put to use: weights, an optimizer's state, a schedule's."""

import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

from andon.door import places
from andon.door.loaded import GoesOn, Loaded, Lost, Resumed, Saved, Written
from andon.door.records import Optimizing, Run
from andon.door.safely import safely
from andon.verify.capturing.replacing import around
from andon.verify.observation.optimizers import tensors_of

DEEP, WIDE = 3, 4096  # of a file's content that is looked at


class LoadNotes:
    """What is noted of each file."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._written: dict[str, int] = {}  # files, and after how many steps
        self._how_far: dict[str, Written] = {}

    def install(self) -> None:
        """Note what is written, read and put to use."""
        around(torch, "save", self._around_save)
        around(torch, "load", self._around_load)
        around(nn.Module, "load_state_dict", lambda load: _told(self.run, load, self._weights, self._loaded))
        around(Optimizer, "load_state_dict", lambda load: _told(self.run, load, self._optimizer))
        for kind in vars(lr_scheduler).values():  # what it imports is there, too
            is_schedule = isinstance(kind, type) and issubclass(kind, lr_scheduler.LRScheduler)
            if is_schedule and "load_state_dict" in vars(kind):
                around(kind, "load_state_dict", lambda load: _told(self.run, load, self._schedule))

    def _around_save(self, save: Callable[..., Any]) -> Callable[..., Any]:
        def saved(obj: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
            safely(self.run, self._save, obj, f)
            return save(obj, f, *args, **kwargs)

        return saved

    def _save(self, obj: Any, f: Any) -> None:
        self.run.saves += 1
        if self.run.trail is not None:
            self.run.trail.note_save(f)
        if isinstance(obj, Mapping) and not obj:
            self.run.empty_saves.append(places.here())
        self._written[_path(f)] = self.run.steps
        counts = {key: each.steps for key, each in self.run.optimizing.items()}
        self._how_far[_path(f)] = Written(self.run.given, counts)

    def _around_load(self, load: Callable[..., Any]) -> Callable[..., Any]:
        def loaded(f: Any, *args: Any, **kwargs: Any) -> Any:
            content = load(f, *args, **kwargs)
            if not self.run.over:
                safely(self.run, self._load, content, f)
            return content

        return loaded

    def _load(self, content: Any, f: Any) -> None:
        if self.run.trail is not None:
            self.run.trail.note_load(f)
        self._note(content, _path(f))

    def _note(self, content: Any, path: str) -> None:
        parts = list(_mappings(content, DEEP))
        own = bool(path) and self._written.get(path) == self.run.steps
        each = Loaded(places.here(), Path(path).name, own, _optimizers(parts), _epoch(parts), self._how_far.get(path))
        for part in parts:
            each.tensors |= {id(value): weakref.ref(value) for value in part.values() if isinstance(value, Tensor)}
        if each.optimizers or each.epoch:
            self.run.loads.append(each)

    def _weights(self, module: Any, state: Any) -> None:
        values = list(state.values()) if isinstance(state, Mapping) else []
        if values and self.run.steps and not self.run.over and _is_its_own(module, state):
            self.run.own_states.append(places.here())
        for each in self.run.loads:
            if any(each.holds(value) for value in values):
                each.models.append(module)

    def _loaded(self, module: Any, state: Any, keys: Any) -> None:
        unknown, missing = (getattr(keys, f"{kind}_keys", None) or [] for kind in ("unexpected", "missing"))
        if not missing:  # an attempt before was only one
            self.run.lost = [each for each in self.run.lost if each.owner != id(module)]
        prefixed, names = _prefixed(unknown, missing), frozenset(state)
        if not missing or (len(unknown) < len(names) and prefixed <= len(names) / 2):
            self.run.taken.add(names)
        elif unknown and not self.run.over:
            kind = type(module).__name__
            lost = Lost(places.here(), kind, names, len(missing), tuple(unknown[:3]), id(module), prefixed)
            self.run.lost.append(lost)

    def _optimizer(self, optimizer: Any, state: Any) -> None:
        for each in self.run.loads if isinstance(state, Mapping) and state.get("state") else ():
            each.optimizer_used = True
        each, saved = self.run.optimizing.get(id(optimizer)), next(iter(_optimizers([state])), None)
        file = next((file for file in reversed(self.run.loads) if saved in file.optimizers), None)
        if each is not None and saved is not None and file is not None and not self.run.over:
            each.goes_on.append(GoesOn(file, saved, each.steps, self.run.given))

    def _schedule(self, _: Any, __: Any) -> None:
        for each in self.run.loads:
            each.schedule_used = True


def resumed(each: Optimizing, run: Run) -> None:
    """Before an optimizer's first step: which files the weights that it moves came from, and what it begins with."""
    held = {id(p) for p in tensors_of(each.optimizer)}
    schedules = [one.scheduler for one in run.scheduling.values() if one.optimizer == id(each.optimizer)]
    for loaded in run.loads:
        if any(id(p) in held for model in loaded.models for p in model.parameters()):
            epochs = [getattr(schedule, "last_epoch", 0) for schedule in schedules]
            each.resumed.append(Resumed(loaded, not each.optimizer.state, max(epochs, default=None)))


def _told(
    run: Run,
    load: Callable[..., Any],
    note: Callable[[Any, Any], None],
    after: Callable[[Any, Any, Any], None] | None = None,
) -> Callable[..., Any]:
    def loads(owner: Any, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        safely(run, note, owner, state_dict)
        result = load(owner, state_dict, *args, **kwargs)
        if after is not None:
            safely(run, after, owner, state_dict, result)
        return result

    return loads


def _is_its_own(module: Any, state: Mapping[str, Any]) -> bool:
    """Whether what is to be put into a module are the tensors that it has."""
    pairs = [(state[name], p) for name, p in module.named_parameters() if name in state]
    return bool(pairs) and all(isinstance(one, Tensor) and one.data_ptr() == p.data_ptr() for one, p in pairs)


def _prefixed(unknown: list[str], missing: list[str]) -> int:
    """How many names that a module does not have are its own but for a prefix."""
    return sum(1 for one in unknown if any(_ends(one, other) for other in missing))


def _ends(one: str, other: str) -> bool:
    """Whether one of two names is the other with something before it."""
    return one.endswith(f".{other}") or other.endswith(f".{one}")


def _path(f: Any) -> str:
    return str(Path(f).resolve()) if isinstance(f, str | os.PathLike) else ""


def _mappings(value: Any, deep: int) -> Iterator[Mapping[str, Any]]:
    """A mapping and those in it, in its lists as well."""
    if not isinstance(value, Mapping | list | tuple) or len(value) > WIDE:
        return
    if isinstance(value, Mapping):
        yield value
    for each in (value.values() if isinstance(value, Mapping) else value) if deep else ():
        yield from _mappings(each, deep - 1)


def _epoch(parts: list[Mapping[str, Any]]) -> int:
    """Of the furthest schedule."""
    epochs = (part.get("last_epoch") for part in parts)
    return max((each for each in epochs if isinstance(each, int)), default=0)


def _optimizers(parts: list[Mapping[str, Any]]) -> list[Saved]:
    """Those that took a step."""
    states = (_saved(part) for part in parts if {"state", "param_groups"} <= part.keys())
    return [each for each in states if each.shapes]


def _saved(state: Mapping[str, Any]) -> Saved:
    groups = state["param_groups"]
    moments = [
        next((tuple(each.shape) for each in one.values() if isinstance(each, Tensor) and each.dim()), None)
        for one in state["state"].values()
        if isinstance(one, Mapping)
    ]
    shapes = [shape for shape in moments if shape is not None]
    rates = tuple(float(group.get("lr", "nan")) for group in groups)
    return Saved(len(groups), sum(len(group["params"]) for group in groups), shapes, rates)
