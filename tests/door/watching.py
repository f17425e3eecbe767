"""A loop that is noted as a watched script's is, without a process of its own and without a change of torch."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from andon.door.backward import BackwardNotes
from andon.door.forward import ForwardNotes
from andon.door.records import Optimizing, Run
from andon.door.stepping import StepNotes

WORDS = 29


class Watching:
    """The notes of one run: its calls stand for those of a script."""

    def __init__(self, fork: Any = None) -> None:
        self.run, nothing = Run(), lambda _: None
        windows: Any = SimpleNamespace(
            backward=nothing,
            before_step=self._find_model,
            backward_ended=lambda: None,
            after_step=nothing,
            fork=fork or SimpleNamespace(possible=False),
            options={"checks": True},
            call=lambda module, call, args, kwargs, **_: call(module, *args, **kwargs),
        )
        self._steps = StepNotes(self.run, windows, lambda: None)
        self.method = lambda call, name: self._forward._around(call, method=name)
        self._forward = ForwardNotes(self.run, windows)
        self._called = self._forward._around(nn.Module.__call__)
        self.backward = BackwardNotes(self.run, windows)._around(Tensor.backward)

    def optimizer(self, parameters: Any, lr: float = 0.1, **more: Any) -> torch.optim.Optimizer:
        """One that is noted."""
        made = torch.optim.SGD(list(parameters), lr=lr, **more)
        self._steps.made(made)
        return made

    def call(self, module: nn.Module, *args: Any) -> Any:
        """A forward pass."""
        return self._called(module, *args)

    def step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """Backward, step, and gradients set to nothing."""
        self.backward(loss)
        self.move(optimizer)

    def clip(self, parameters: list[Tensor], bound: float) -> None:
        """Gradients are bounded."""
        self._steps.clipped(parameters, bound, nn.utils.clip_grad_norm_(parameters, bound))

    def move(self, optimizer: torch.optim.Optimizer) -> None:
        """A step, and gradients set to nothing."""
        self._steps.before(optimizer)
        optimizer.step()
        self._steps.after(optimizer)
        optimizer.zero_grad()

    def noted(self, optimizer: torch.optim.Optimizer) -> Optimizing:
        """What is known of it."""
        return self.run.optimizing[id(optimizer)]

    def _find_model(self, each: Optimizing) -> None:
        if each.model is None and self.run.modules:
            each.model = next(iter(self.run.modules.values()))


class Reader(nn.Module):
    """A small recurrent model of token ids (T, B), with dropout."""

    def __init__(self, layers: int = 1) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(WORDS, 8), nn.GRU(8, 8, layers), nn.Linear(8, WORDS)
        self.drop = nn.Dropout(0.5)

    def forward(self, ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(T, B) to (T, B, V), and the state."""
        x, state = self.rnn(self.embed(ids), state)
        return self.head(self.drop(x)), state
