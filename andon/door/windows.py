"""The windows of a run: which model belongs to which optimizer, today's invariants around each pair, and captures."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from andon.door import places
from andon.door.followers import Followers
from andon.door.fork import Fork
from andon.door.guard import keep_out
from andon.door.inquiry import Elsewhere, inquire
from andon.door.records import Optimizing, Run
from andon.door.safely import safely
from andon.verify.capturing.torch_calls import Recorder, whole
from andon.verify.observation.optimizers import tensors_of
from andon.verify.watcher import Watch

CAPTURED_AT = 2  # steps of an optimizer before its window is captured
MOST = 3  # captures of a run
SAMPLES = 6  # micro-batches of each capture's optimizer that are looked at beside


class Windows:
    """What is done at the borders of windows."""

    def __init__(self, run: Run, options: dict[str, Any]) -> None:
        self.run, self.options = run, options
        self.fork = run.fork = Fork(Path(options["out"]), options["check_budget"])
        self._followers = Followers(run)
        self._captured: dict[int, int] = {}  # optimizers, and the samples that were taken since
        self._asking: Optimizing | None = None  # in a child
        self._brief = False  # in a child that only samples
        self._begins = True  # no pass since the last backward pass
        self._recorder = Recorder()

    def call(
        self,
        module: nn.Module,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        training: bool,
        method: bool,
    ) -> Any:
        """An outermost forward pass; the first of a micro-batch that is due is made in a child as well."""
        if self._asking is not None:
            return self._record(module, call, args, kwargs, method=method)
        due = (
            safely(self.run, self._due, module) if training and self.options["checks"] and self.fork.possible else None
        )
        self._begins = self._begins and not training
        if due is not None and safely(self.run, self.fork.begin):
            self._asking = due
            self._recorder.__enter__()
            keep_out(self._leave, lambda: self.run.over)
            return self._record(module, call, args, kwargs, method=method)
        return call(module, *args, **kwargs)

    def _record(
        self,
        module: nn.Module,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        method: bool,
    ) -> Any:
        """In a child: the calls within a model's method are seen one by one, as the script's own are."""
        if whole(module, self._recorder.models) is module:
            self._recorder.keep(module)
        if not method:
            return self._recorder.call(module, call, args, kwargs)
        self._recorder.models.append(module)
        self.run.inside = None
        return call(module, *args, **kwargs)

    def backward(self, loss: Any) -> None:
        """A backward pass begins; in a child it is the end of what was to be recorded."""
        if self._asking is None:
            return
        self._recorder.__exit__(None, None, None)
        self.run.over = True  # what checks do is none of the script's
        try:
            options = {**self.options, "brief": self._brief, "line": str(self.run.loss_place or "")}
            with torch.autocast("cpu", enabled=False, cache_enabled=False):  # of weights that checks change
                content = inquire(self._recorder, loss, self._asking, options, Elsewhere.of(self.run, self._asking))
        except BaseException as error:  # noqa: BLE001 - the child must not go on with the script, whatever happens
            content = {"failed": f"{type(error).__name__}: {error}"}
        self.fork.end(content)

    def _leave(self) -> None:
        """In a child, before it would write something, or where the script ends with no backward pass."""
        self.run.over = True
        reason = f"it needs a backward pass before the script writes, removes or sends something ({places.here()})"
        self.fork.end({"captured": [], "reason": "" if self._brief else reason})

    def backward_ended(self) -> None:
        """It is over: within it checkpoints make passes again."""
        self._begins = True

    def before_step(self, each: Optimizing) -> None:
        """Find the optimizer's model at its first step, and watch the two from then on."""
        self._followers.before_step(each)
        if each.model is None:
            each.model = self._model_of(each)
            if each.model is not None:
                each.watch = Watch(each.model, each.optimizer, raises=False)
                probe = each.watch.fresh.probe
                if probe is not None:
                    probe[1].register_hook(each.watch.fresh.gradient_arrives)

    def after_step(self, each: Optimizing) -> None:
        """The window has ended: where findings are wanted live, say those that are new."""
        self._followers.after_step(each)
        found = each.watch.findings if each.watch is not None else []
        for finding in found[each.said :] if self.options["live"] else ():
            # watch.optimizer is judged at the end, when all optimizers are known
            if finding.check != "watch.optimizer" and self._is_first_to_say(finding.check):
                sys.stderr.write(f"andon: {finding.light} {finding.check}: {finding.message}. {finding.look}\n")
        each.said = len(found)

    def _is_first_to_say(self, check: str) -> bool:
        """Whether no other rank has said it: one of them makes the file that says so."""
        try:
            (self.fork.out / f"said-{check}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _due(self, module: nn.Module) -> Optimizing | None:
        """The optimizer whose micro-batch is to be captured or sampled, if the module is what it trains."""
        for key, each in self.run.optimizing.items():
            taken = self._captured.get(key)
            wanted = len(self._captured) < MOST if taken is None else self._begins and taken < SAMPLES
            if wanted and self._stands_at(each) and _shares(module, each):
                self._captured[key] = 0 if taken is None else taken + 1
                self._brief = taken is not None
                return each
        return None

    def _stands_at(self, each: Optimizing) -> bool:
        """Whether a window of this optimizer begins, after enough others."""
        return each.steps >= CAPTURED_AT and each.last_step == self.run.steps

    def _model_of(self, each: Optimizing) -> nn.Module | None:
        """Of the modules called outermost the one that shares most parameters with the optimizer."""
        held, known = {id(p) for p in tensors_of(each.optimizer)}, self.run.modules | self.run.owners
        shared = {key: sum(p.numel() for p in module.parameters() if id(p) in held) for key, module in known.items()}
        best = max(shared, key=lambda key: shared[key], default=None)
        return known[best] if best is not None and shared[best] else None


def _shares(module: nn.Module, each: Optimizing) -> bool:
    own = {id(p) for p in module.parameters()}
    return any(id(p) in own for p in tensors_of(each.optimizer))
