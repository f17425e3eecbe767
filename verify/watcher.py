"""`watch`: cheap invariants around a running loop, by hooks on the model and its optimizer.

A few tensors are looked at each step, in turn, and of each a few entries: under a millisecond a step at any size of
model. What all entries share (a frozen tensor that the optimizer moves, a gradient that is not finite) shows within
one round. Nothing is written to the model, the optimizer or the random numbers.
"""

import math
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from andon.verify.errors import CheckFailed
from andon.verify.observation.step_trace import held, trainable
from andon.verify.run.report import Finding

ENTRIES = 64  # looked at in one tensor
TENSORS = 4  # looked at in one step
EVERY = 10  # steps between looks at which tensors there are
PATIENCE = 5  # steps of the same batch or loss, or without a gradient, before it is no chance
SAMPLES = 512  # entries with a gradient before vanishing updates are judged
MOVED = 0.1  # share of them that an optimizer at work moves at least
GROWING = 3  # steps in which the last gradient was still there
PARALLEL = 0.99  # gradients so alike that one cannot be told from the other


@contextmanager
def watch(model: nn.Module, optimizer: Optimizer, *, raises: bool = True) -> "Generator[Watch]":
    """Invariants around a training loop: `with verify.watch(model, optimizer) as w: ...`.

    What is found raises in the step that shows it, or is recorded in `w.findings`, each kind once.

    Raises:
        CheckFailed: with `raises`, in the loop or where it begins.
    """
    watching = Watch(model, optimizer, raises=raises)
    handles = [
        optimizer.register_step_pre_hook(watching.before_step),
        optimizer.register_step_post_hook(watching.after_step),
        model.register_forward_hook(watching.after_forward),
    ]
    first = next((each for each in model.modules() if each._parameters), model)  # noqa: SLF001 - its own, no child's
    handles += [each.register_forward_pre_hook(watching.before_forward) for each in {model, first}]
    if watching.probe is not None:
        handles.append(watching.probe[1].register_hook(watching.gradient_arrives))
    try:
        yield watching
    finally:
        for handle in handles:
            handle.remove()


class Watch:
    """What was seen so far; `findings` holds one for each kind."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, *, raises: bool) -> None:
        self.model, self.optimizer, self.raises = model, optimizer, raises
        self.findings: list[Finding] = []
        self.steps = 0
        self._places: dict[tuple[str, torch.Size], tuple[Tensor, ...]] = {}
        self._parameters = dict(model.named_parameters())
        self._tied = _tied(model)
        self._masters = False  # the optimizer holds wider copies of the weights, as in mixed precision by hand
        self._frozen = {name: self._sample(name, p) for name, p in self._parameters.items() if not p.requires_grad}
        self._waiting = {name for name, p in self._parameters.items() if p.requires_grad}
        self._before: dict[str, tuple[Tensor, Tensor]] = {}
        self._with_gradient, self._moved = 0, 0
        self._batch: list[int] | None = None  # of the first forward pass since the last step
        self._last_batch: list[int] | None = None
        self._same_batches = 0
        self._losses: list[float] = []
        self._trained = False
        self._arrived: Tensor | None = None  # gradients of the probe since the last step
        self._previous: Tensor | None = None  # its gradient at the last step
        self._grown = 0
        matrices = [(name, p) for name, p in self._parameters.items() if p.requires_grad and p.dim() > 1]
        self.probe = matrices[-1] if matrices else None
        self._look_for_tensors()

    def loss(self, loss: Tensor | float) -> None:
        """Tell the loss of a step; models that return it as `output.loss` need not be told."""
        value = float(loss.detach() if isinstance(loss, Tensor) else loss)
        if not math.isfinite(value):
            self._found("finite", f"the loss is {value}", "Look at the last batch, the rate and the gradient's norm.")
        self._losses = [*self._losses[-PATIENCE:], value]
        if len(self._losses) > PATIENCE and len(set(self._losses)) == 1:
            self._found(
                "loss",
                f"the loss was {value!r} in each of the last {len(self._losses)} evaluations",
                "Look for weights that no step moves and for a loss that does not depend on them.",
            )

    # ------------------------------------------------------------------------------------------ hooks
    def before_forward(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Note the ids of the first forward pass of a step."""
        if self._batch is None and torch.is_grad_enabled():
            for each in inputs:
                if isinstance(each, Tensor) and not each.is_floating_point() and each.numel():
                    self._batch = self._sample("ids", each).tolist()
                    break

    def after_forward(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        """Note the loss where the model returns one."""
        loss = getattr(output, "loss", None)
        if isinstance(loss, Tensor) and loss.numel() == 1 and torch.is_grad_enabled():
            self.loss(loss)

    def gradient_arrives(self, gradient: Tensor) -> None:
        """Sum what backward adds to the probe's gradient."""
        assert self.probe
        sample = self._sample(self.probe[0], gradient)
        self._arrived = sample if self._arrived is None else self._arrived + sample

    def before_step(self, *_: Any) -> None:
        """Look at gradients, mode and batch; remember a few entries."""
        self.steps += 1
        if self.steps % EVERY == 0:
            self._look_for_tensors()
        self._look_at_mode()
        self._look_at_batches()
        self._look_for_gradients()
        self._look_for_leftovers()
        skips = getattr(self.optimizer, "found_inf", None) is not None  # a fused step under a loss scale
        for name in self._turn([name for name, p in self._parameters.items() if p.grad is not None]):
            p = self._parameters[name]
            assert p.grad is not None
            gradient = self._sample(name, p.grad)
            self._before[name] = self._sample(name, p), gradient
            if not skips and not bool(gradient.isfinite().all()):
                self._found("finite", f"the gradient of {name} is not finite", "Look at the loss and the last batch.")

    def after_step(self, *_: Any) -> None:
        """Compare with what was remembered."""
        steps = any(float(group["lr"]) != 0 for group in self.optimizer.param_groups)
        for name, (before, gradient) in self._before.items():
            after = self._sample(name, self._parameters[name])
            if not bool(after.isfinite().all()):
                self._found("finite", f"{name} is not finite", "Look at its last gradient and the optimizer's epsilon.")
            if steps and not self._masters:
                self._with_gradient += int((gradient != 0).sum())
                self._moved += int(((gradient != 0) & (after != before)).sum())
        self._before.clear()
        if self._with_gradient >= SAMPLES:
            self._look_at_updates()
        self._look_at_frozen()

    # -------------------------------------------------------------------------------------- invariants
    def _look_at_updates(self) -> None:
        if self._moved < MOVED * self._with_gradient:
            self._found(
                "updates",
                f"of {self._with_gradient} entries with a gradient the optimizer moved {self._moved}",
                "Look at the weights' dtype: bfloat16 drops updates below 1/256 of a weight; keep float32 weights.",
            )
        self._with_gradient, self._moved = 0, 0

    def _look_at_frozen(self) -> None:
        for name in self._turn(list(self._frozen)):
            p = self._parameters[name]
            if p.requires_grad:
                del self._frozen[name]  # unfrozen on the way
            elif not torch.equal(self._sample(name, p), self._frozen[name]):
                self._found(
                    "frozen",
                    f"{name} requires no gradient and has moved",
                    "Look for weight decay or momentum on it, and for code that writes weights.",
                )

    def _look_for_tensors(self) -> None:
        """What the optimizer holds is what the model has, and tied weights are one tensor."""
        self._parameters = dict(self.model.named_parameters())
        for name, p in self._parameters.items():
            if not p.requires_grad and name not in self._frozen:
                self._frozen[name] = self._sample(name, p)
        self._look_for_missing()
        self._look_for_ties()

    def _look_for_missing(self) -> None:
        tensors = held(self.optimizer)
        known = {id(p) for p in tensors}
        missing = {name: p for name, p in trainable(self.model).items() if id(p) not in known}
        if not missing:
            return
        own = {id(p) for p in self._parameters.values()}
        strangers = [p for p in tensors if id(p) not in own]
        if strangers:
            self._compare_with(strangers, missing)
        if not self._masters:
            self._found(
                "optimizer",
                f"the optimizer does not hold {_names(missing)}, which require gradients",
                "Look at the parameter groups, and whether they were made before the model was complete.",
            )

    def _compare_with(self, strangers: list[Tensor], missing: dict[str, nn.Parameter]) -> None:
        """What the optimizer holds and the model has not is a wider copy of what is missing, or what that once was."""
        dtypes = {p.dtype for p in missing.values()}
        copies = {p.shape for p in strangers if p.dtype not in dtypes}
        self._masters = self._masters or all(p.shape in copies for p in missing.values())
        shapes = {p.shape for p in strangers} - copies
        stale = [name for name, p in missing.items() if p.shape in shapes]
        if stale:
            self._found(
                "stale",
                f"the optimizer moves other tensors than the model's: {_names(stale)}",
                "Make the optimizer after the model is loaded, moved, wrapped or given adapters.",
            )

    def _look_for_ties(self) -> None:
        for name, first in self._tied.items():
            if self._get(name) is not self._get(first):
                self._found(
                    "tied",
                    f"{name} and {first} were one tensor and are two",
                    "Look for code that assigns a new weight, such as loading, casting or moving to a device.",
                )

    def _look_at_mode(self) -> None:
        drops = any(p > 0 for p in (getattr(each, "p", 0.0) for each in self._dropouts()))
        if not self.model.training and (self._trained or drops):
            since = "after steps in train mode" if self._trained else "although it has dropout"
            self._found(
                "mode",
                f"the model is updated in eval mode {since}",
                "Call model.train() after each evaluation, and before the first step.",
            )
        self._trained = self._trained or self.model.training

    def _dropouts(self) -> list[nn.Module]:
        if self.model.training or self._trained:
            return []
        return [each for each in self.model.modules() if isinstance(each, nn.modules.dropout._DropoutNd)]  # noqa: SLF001 - all of torch's dropouts

    def _look_at_batches(self) -> None:
        same = self._batch is not None and self._batch == self._last_batch
        self._same_batches = self._same_batches + 1 if same else 0
        self._last_batch, self._batch = self._batch, None
        if self._same_batches >= PATIENCE:
            self._found(
                "batches",
                f"the last {self._same_batches + 1} steps began with the same batch",
                "Look at the loader's iterator: `next(iter(loader))` starts anew each time.",
            )

    def _look_for_gradients(self) -> None:
        self._waiting = {
            name for name in self._waiting if (p := self._parameters.get(name)) is not None and p.grad is None
        }
        if self._waiting and self.steps == PATIENCE:
            self._found(
                "gradients",
                f"after {self.steps} steps no gradient has reached {_names(self._waiting)}",
                "Look for detach, no_grad and for layers that the loss does not use.",
            )

    def _look_for_leftovers(self) -> None:
        """Whether the last step's gradient is part of this one's: c times what arrived plus d times what was."""
        if self.probe is None or self.probe[1].grad is None:
            return
        current = self._sample(self.probe[0], self.probe[1].grad).double()
        arrived, previous = self._arrived, self._previous
        self._arrived, self._previous = None, current
        if arrived is None or previous is None or not bool(current.isfinite().all()):
            return
        parts = _parts(arrived.double(), previous, current)
        if parts is None:
            return
        c, d, left = parts
        self._grown = self._grown + 1 if left < (1 - PARALLEL) ** 2 and 0 < c / 2 < d < 2 * c else 0
        if self._grown >= GROWING:
            self._found(
                "zero_grad",
                f"in {self._grown} steps in a row the gradient still held that of the step before, {d / c:.2g} times",
                "Call optimizer.zero_grad() once each step, before the first backward.",
            )

    # ------------------------------------------------------------------------------------------ means
    def _found(self, kind: str, message: str, look: str) -> None:
        finding = Finding(f"watch.{kind}", f"step {self.steps}: {message}", look=look)
        if self.raises:
            raise CheckFailed(f"{finding.check}: {finding.message}. {look}")
        if finding.check not in {each.check for each in self.findings}:
            self.findings.append(finding)

    def _turn(self, names: list[str]) -> list[str]:
        """A few names, others each step."""
        start = self.steps * TENSORS % max(len(names), 1)
        return [*names[start:], *names[:start]][:TENSORS]

    def _get(self, name: str) -> Tensor | None:
        module, _, own = name.rpartition(".")
        return getattr(self.model.get_submodule(module), own, None)

    def _sample(self, name: str, tensor: Tensor) -> Tensor:
        """A few entries, the same each time; whatever the strides, no more is read."""
        key = name, tensor.shape
        if key not in self._places:
            generator = torch.Generator().manual_seed(0)
            self._places[key] = tuple(
                torch.randint(size, (ENTRIES,), generator=generator).to(tensor.device) for size in tensor.shape
            )
        return tensor.detach()[self._places[key]] if tensor.dim() else tensor.detach().reshape(1).clone()


def _parts(arrived: Tensor, previous: Tensor, current: Tensor) -> tuple[float, float, float] | None:
    """What c times `arrived` plus d times `previous` comes closest to `current`, and the share of its square left over.

    None where the two cannot be told apart.
    """
    rows = torch.stack((arrived, previous, current))
    (aa, ap, ac), (_, pp, pc), (_, _, cc) = (rows @ rows.t()).tolist()
    if not aa * pp * cc or abs(ap) > PARALLEL * math.sqrt(aa * pp):
        return None
    c, d = (ac * pp - pc * ap) / (aa * pp - ap * ap), (pc * aa - ac * ap) / (aa * pp - ap * ap)
    return c, d, (cc - c * ac - d * pc) / cc


def _tied(model: nn.Module) -> dict[str, str]:
    """Each further name of a parameter to its first."""
    first: dict[int, str] = {}
    names = [(name, id(p)) for name, p in model.named_parameters(remove_duplicate=False)]
    return {name: first[key] for name, key in names if first.setdefault(key, name) != name}


def _names(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:PATIENCE]) + (f" and {len(listed) - PATIENCE} more" if len(listed) > PATIENCE else "")
