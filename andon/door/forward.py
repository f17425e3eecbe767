"""Notes on forward passes: from where they come, in which mode, and whether a backward pass follows."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from andon.door import places
from andon.door.caching import Caching
from andon.door.comparing import Comparing
from andon.door.merging import Merging
from andon.door.modes import Modes
from andon.door.readable import computes, is_readable
from andon.door.records import Passes, Run
from andon.door.rehearsal import Rehearsals
from andon.door.safely import safely
from andon.door.statistics import Statistics
from andon.door.uses import acts, drops, look_again, use_of
from andon.door.windows import Windows
from andon.door.wrapping import after
from andon.verify.access.batches import tensors_in
from andon.verify.capturing.methods import method_around
from andon.verify.capturing.replacing import around
from andon.verify.capturing.torch_calls import returned

OUTPUTS = 8  # tensors of a pass's result that are looked at


class ForwardNotes:
    """What is noted of each outermost pass of a module that has parameters."""

    def __init__(self, run: Run, windows: Windows) -> None:
        self.run, self.windows = run, windows
        self._stretch: Passes | None = None  # whose passes are made now, with no backward pass between them
        self._before: Passes | None = None  # whose the pass before this one was
        self._random: Tensor | None = None  # numbers where the last pass without a backward pass ended
        self._drawn = False  # whether they have moved between two such passes of this stretch
        self._comparing = Comparing(run)
        self._methods: set[tuple[type, str]] = set()
        self._rehearsals = Rehearsals(run, windows)
        self._modes = Modes()
        self._statistics = Statistics(run)
        self._merging = Merging(run)
        self._caching = Caching(run, windows)

    def install(self) -> None:
        """Note every call of a module."""
        around(nn.Module, "__call__", self._around)
        after(nn.Module, "__setstate__", partial(safely, self.run, self._statistics.made))

    def _around(self, call: Callable[..., Any], *, method: str = "") -> Callable[..., Any]:
        def called(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            if self.run.inside:
                self._modes.part()
            skips = self.run.inside is not None or method in self.run.loops or self.run.over
            if skips or not safely(self.run, _has_numbers, module):
                return call(module, *args, **kwargs)
            self.run.inside = method
            self._modes.begin(module if method else None)
            try:
                passes = safely(self.run, self.before, module, args, kwargs)
                training = passes is not None and passes.with_gradients > 0
                result = self.windows.call(module, call, args, kwargs, training=training, method=bool(method))
            finally:
                self.run.inside = None
            if passes is not None:
                given = {**dict(enumerate(args)), **kwargs}
                safely(self.run, self._ended, method, passes, module, given, result)
            return result

        return called

    def _ended(self, method: str, passes: Passes, module: nn.Module, given: dict[Any, Any], result: Any) -> None:
        if self._modes.end():
            self._is_no_pass(method, passes)
        if method not in self.run.loops:
            self._merging.ends(passes, module, result)
            self.after(passes, result)
            self._note_use(passes, module, result)
        self._caching.ends(passes, module, given, result)

    def _is_no_pass(self, method: str, passes: Passes) -> None:
        """All that a method has called was called in a mode that the method had set."""
        self.run.loops.add(method)
        passes.count -= 1
        self.run.passes = {key: each for key, each in self.run.passes.items() if each.count}

    def _look_for_method(self, module: nn.Module) -> None:
        """From its next call on, a method of a model that calls its parts is that model's pass."""
        found = method_around(module)
        if found is None or (found.owner, found.name) in self._methods:
            return
        self._methods.add((found.owner, found.name))
        self.run.owners[id(found.model)] = found.model
        around(found.owner, found.name, partial(self._around, method=f"{found.owner.__qualname__}.{found.name}"))

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Passes:
        """An outermost pass begins."""
        chain = places.chain()
        key = chain, torch.is_grad_enabled()
        if key not in self.run.passes and not self.run.inside:
            self._look_for_method(module)
        passes = self.run.passes.setdefault(key, Passes(chain))
        if not passes.trained:
            self._go_on(passes)
        self._compare(passes)
        self._evaluated(passes, module, args, kwargs)
        gradients = torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())
        if gradients:
            self.run.modules.setdefault(id(module), module)
            self._statistics.trains(module)
            self._tell_watches(module, args, kwargs)
        passes.count += 1
        passes.training_mode += module.training
        passes.with_gradients += gradients
        passes.modules[id(module)] = module
        given = (*args, *kwargs.values())
        self._note_given(passes, module, given, gradients=gradients)
        self._rehearsals.before(passes, given)
        return passes

    def after(self, passes: Passes, result: Any) -> None:
        """It has ended; whether it is one of training shows once a gradient reaches what it returned."""
        self._await_gradient(passes, result)
        passes.carrying.returned(result)
        self._comparing.noise.clear()
        self._random = torch.get_rng_state() if passes.trained == 0 else None

    def _go_on(self, passes: Passes) -> None:
        """A stretch of passes without a backward pass begins, or goes on: have random numbers moved within it?"""
        if self._stretch is not passes:
            passes.stretches += 1
            passes.early += not self.run.steps
            passes.moments.note(self.run.steps)
            self._stretch, self._drawn, self._random = passes, False, None
        if self._random is not None and not self._drawn:
            self._drawn = not torch.equal(self._random, torch.get_rng_state())
            passes.draws += self._drawn
            passes.noise |= self._comparing.noise

    def _compare(self, passes: Passes) -> None:
        """Look at comparisons while the script evaluates for the first time."""
        self._comparing.passes = passes
        if passes.trained:
            self._comparing.end()
        elif self.run.steps and not torch.is_grad_enabled():
            self._comparing.begin()

    def _note_given(self, passes: Passes, module: nn.Module, given: tuple[Any, ...], *, gradients: bool) -> None:
        """What of it can be read."""
        read = [each for each in tensors_in(given) if is_readable(each)]
        if gradients and self.run.trail is not None:
            self.run.trail.note_rows(given)
        readable = tuple(each for each in given if any(each is one for one in read))
        passes.rows.note(readable, self.run.given, self.run.steps, id(module), grows=not passes.trained)
        self.run.given += 1
        self._note_inputs(passes, read)
        self._note_growth(passes, module, read)

    def _note_inputs(self, passes: Passes, given: list[Tensor]) -> None:
        passes.carrying.given(given)
        text = next((each for each in given if each.dim() == 2 and not each.is_floating_point()), None)
        if text is not None:
            passes.phrases.note(text, trained=passes.trained)
        if given:
            self._comparing.given = given[0] if self._comparing.on and given[0].is_floating_point() else None
            passes.autocast += torch.is_autocast_enabled(given[0].device.type)

    def _note_growth(self, passes: Passes, module: nn.Module, given: list[Tensor]) -> None:
        """A pass of a text that is generated, as far as the passes before it were at the same place."""
        if self._before is not None and self._before is not passes:
            self._before.growing.end()
        self._before = passes
        if passes.trained or module.training or torch.is_grad_enabled():
            passes.growing.end()
        else:
            passes.growing.given(given)

    def _evaluated(self, passes: Passes, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A pass that may be an evaluation's: with which weights is it made?"""
        if passes.trained or torch.is_grad_enabled() or module.training:
            self._caching.end()
        if passes.trained or torch.is_grad_enabled():
            return
        if not module.training:
            self._statistics.evaluates(passes, module)
            self._merging.begins(module, (*args, *kwargs.values()))
            self._caching.begins(passes, module, args, kwargs)
        for each in self.run.optimizing.values():
            if each.model is module:
                each.between.evaluating(each.optimizer)

    def _note_use(self, passes: Passes, module: nn.Module, result: Any) -> None:
        use = self.run.uses.get(id(module)) or self.run.uses.setdefault(id(module), use_of(module))
        if any(each.grad_fn is not None for each in returned(result)[:OUTPUTS]):
            use.with_gradients += 1
            use.learned, use.alone, use.acting = self.run.steps, 0, 0
            return
        use.alone += 1
        use.acting += acts(use)
        look_again(use, self.run.steps)
        use.place = passes.chain[0] if passes.chain else None
        passes.dropping += drops(use)

    def _tell_watches(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for each in self.run.optimizing.values():
            if each.watch is not None and each.model is module:
                each.watch.before_forward(module, args, kwargs)

    def _await_gradient(self, passes: Passes, result: Any) -> None:
        arrived = []

        def arrives(_: Any) -> None:
            if not arrived:
                arrived.append(True)
                passes.trained += 1
                self._stretch = None

        for tensor in returned(result)[:OUTPUTS]:
            if tensor.grad_fn is not None:
                tensor.grad_fn.register_prehook(arrives)


def _has_numbers(module: Any) -> bool:
    """Whether it is a module with parameters, in a pass that computes; a method may be called on something else."""
    first = next(module.parameters(), None) if isinstance(module, nn.Module) else None
    return first is not None and is_readable(first) and computes()
