"""`watch`: cheap invariants around a running loop, by hooks on the model and its optimizer.

A few tensors are sampled each step, in turn, and of each a few entries: under a millisecond a step at any size of
model. What all entries share (a frozen tensor that the optimizer moves, a gradient that is not finite) shows within
one round. Nothing is written to the model, the optimizer or the random numbers.
"""

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from andon.verify.errors import CheckFailed, UnusualWarning
from andon.verify.invariants.gradient_flow import FreshGradients, GradientsReach
from andon.verify.invariants.inputs import DifferentBatches, MovingLoss
from andon.verify.invariants.state import OptimizerMembership, TiedWeights, TrainMode
from andon.verify.invariants.values import FrozenWeights, MovingWeights
from andon.verify.invariants.watched import Invariant, Watched
from andon.verify.run.report import RED, Finding


@contextmanager
def watch(model: nn.Module, optimizer: Optimizer, *, raises: bool = True, strict: bool = False) -> "Generator[Watch]":
    """Invariants around a training loop: `with verify.watch(model, optimizer) as w: ...`.

    What is red raises in the step that shows it, or is recorded in `w.findings`, each kind once. What is yellow, right
    only if its author meant it, is recorded, and with `raises` a warning; with `strict` it is as red.

    Raises:
        CheckFailed: with `raises`, in the loop or where it begins.
    """
    watching = Watch(model, optimizer, raises=raises, strict=strict)
    handles = [
        optimizer.register_step_pre_hook(watching.before_step),
        optimizer.register_step_post_hook(watching.after_step),
        model.register_forward_hook(watching.after_forward),
    ]
    first = next((each for each in model.modules() if each._parameters), model)  # noqa: SLF001 - its own, no child's
    handles += [each.register_forward_pre_hook(watching.before_forward, with_kwargs=True) for each in {model, first}]
    if watching.fresh.probe is not None:
        handles.append(watching.fresh.probe[1].register_hook(watching.fresh.gradient_arrives))
    try:
        yield watching
    finally:
        for handle in handles:
            handle.remove()


class Watch:
    """The invariants of one run, and what was found so far: `findings` holds one for each kind."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, *, raises: bool, strict: bool = False) -> None:
        self.findings: list[Finding] = []
        self._raises, self._strict = raises, strict
        self._watched = Watched(model, optimizer, self._found)
        membership = OptimizerMembership(self._watched)
        self.batches, self.fresh, self.losses = (
            DifferentBatches(self._watched), FreshGradients(self._watched), MovingLoss(self._watched),
        )  # fmt: skip
        self._invariants: tuple[Invariant, ...] = (
            membership,
            TiedWeights(self._watched),
            TrainMode(self._watched),
            self.batches,
            GradientsReach(self._watched),
            self.fresh,
            MovingWeights(self._watched, membership),
            FrozenWeights(self._watched),
        )

    @property
    def steps(self) -> int:
        """How many steps there were."""
        return self._watched.steps

    def loss(self, loss: Tensor | float) -> None:
        """Tell the loss of a step; models that return it as `output.loss` need not be told."""
        self.losses.note(float(loss.detach() if isinstance(loss, Tensor) else loss))

    def before_forward(self, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Note the integers that the first forward pass of a step is given."""
        if torch.is_grad_enabled():
            self.batches.note((*arguments, *named.values()))

    def after_forward(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        """Note the loss where the model returns one."""
        loss = getattr(output, "loss", None)
        if isinstance(loss, Tensor) and loss.numel() == 1 and torch.is_grad_enabled():
            self.loss(loss)

    def before_step(self, *_: Any) -> None:
        """Before the optimizer moves the weights."""
        self._watched.begin_step()
        for each in self._invariants:
            each.before()

    def after_step(self, *_: Any) -> None:
        """After it has."""
        for each in self._invariants:
            each.after()

    def _found(self, kind: str, message: str, look: str, light: str = RED) -> None:
        finding = Finding(f"watch.{kind}", f"step {self.steps}: {message}", look=look, light=light)
        said = f"{finding.check}: {finding.message}. {look}"
        if self._raises and (light == RED or self._strict):
            raise CheckFailed(said)
        if finding.check not in {each.check for each in self.findings}:
            self.findings.append(finding)
            if self._raises:
                warnings.warn(said, UnusualWarning, stacklevel=2)
