"""What a step does to values: they stay finite, those with a gradient move, frozen ones do not."""

import torch
from torch import Tensor

from andon.verify.invariants.state import OptimizerMembership
from andon.verify.invariants.watched import Watched, is_finite
from andon.verify.observation.optimizers import tensors_of

SAMPLES = 512  # entries with a gradient before vanishing updates are judged
ROUNDING = 16  # of the largest number's last place
MOVED = 0.1  # share of them that an optimizer at work moves at least


class MovingWeights:
    """Weights and gradients are finite, and the optimizer moves the entries that have a gradient."""

    def __init__(self, watched: Watched, membership: OptimizerMembership) -> None:
        self.watched, self.membership = watched, membership
        self._before: dict[str, tuple[Tensor, Tensor]] = {}
        self._with_gradient, self._moved = 0, 0

    def before(self) -> None:
        """Sample a few weights and their gradients."""
        if not self.watched.is_close:
            return
        parameters = self.watched.parameters
        skips = getattr(self.watched.optimizer, "found_inf", None) is not None  # a fused step under a loss scale
        held = {id(p) for p in tensors_of(self.watched.optimizer)}  # others may have gradients left from before
        for name in self.watched.turn([name for name, p in parameters.items() if p.grad is not None and id(p) in held]):
            p = parameters[name]
            assert p.grad is not None
            gradient = self.watched.sample(name, p.grad)
            self._before[name] = self.watched.sample(name, p), gradient
            if not skips and not is_finite(gradient):
                look = "Look at the loss and the last batch."
                self.watched.found("finite", f"the gradient of {name} is not finite", look)

    def after(self) -> None:
        """Compare the same entries."""
        if not self._before:
            return
        steps = any(float(group["lr"]) != 0 for group in self.watched.optimizer.param_groups)
        for name, (before, gradient) in self._before.items():
            after = self.watched.sample(name, self.watched.parameters[name])
            if not is_finite(after):
                look = "Look at its last gradient and the optimizer's epsilon."
                self.watched.found("finite", f"{name} is not finite", look)
            if steps and not self.membership.has_masters:
                given = gradient != 0
                self._with_gradient += int(given.count_nonzero())
                self._moved += int((given & (after != before)).count_nonzero())
        self._before.clear()
        if self._with_gradient >= SAMPLES:
            self._require_moved()

    def _require_moved(self) -> None:
        if self._moved < MOVED * self._with_gradient:
            self.watched.found(
                "updates",
                f"of {self._with_gradient} entries with a gradient the optimizer moved {self._moved}",
                "Look at the weights' dtype: bfloat16 drops updates below 1/256 of a weight; keep float32 weights.",
            )
        self._with_gradient, self._moved = 0, 0


class FrozenWeights:
    """What requires no gradient stays as it is."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self._values: dict[str, Tensor] = {}
        self._read()

    def before(self) -> None:
        """Now and then, read what has been frozen since."""
        if self.watched.is_due:
            self._read()

    def after(self) -> None:
        """Compare a few."""
        for name in self.watched.turn(list(self._values)):
            p = self.watched.parameters[name]
            if p.requires_grad:
                del self._values[name]  # unfrozen on the way
            elif _has_moved(self._values[name], self.watched.sample(name, p)):
                self.watched.found(
                    "frozen",
                    f"{name} requires no gradient and has moved",
                    "Look for weight decay or momentum on it, and for code that writes weights.",
                )

    def _read(self) -> None:
        for name, p in self.watched.parameters.items():
            if not p.requires_grad and name not in self._values:
                self._values[name] = self.watched.sample(name, p)


def _has_moved(before: Tensor, now: Tensor) -> bool:
    """Whether numbers differ by more than adding something and taking it off again leaves, as adapters are merged."""
    if before.equal(now):
        return False
    if before.dtype not in (torch.float32, torch.float64):
        return True
    return not bool((now - before).abs().max() <= ROUNDING * torch.finfo(now.dtype).eps * before.abs().max())
