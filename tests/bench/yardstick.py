"""A step's own matrix products and nothing else: the time below which no implementation can go."""

from collections.abc import Callable

import torch

from tests.bench.workload import ADAPTED, FED_BY_THE_EMBEDDING, Workload, products


def build_yardstick(workload: Workload) -> Callable[[], None]:
    """A function that multiplies what one training step multiplies in its linear layers, into buffers that stand.

    Each layer has weights, gradients and activations of its own, so that they come from memory as in a real step.
    For x (tokens, inputs), w (outputs, inputs) and g (tokens, outputs) these are the fastest layouts torch has:
    forward `x w^T`, gradient of the input `g w`, gradient of the weight `g^T x`.
    """
    return _full(workload) if workload.method == "full" else _adapted(workload)


def _full(workload: Workload) -> Callable[[], None]:
    tokens = workload.tokens
    layers = []
    for inputs, outputs in products(workload):
        x, g, w = torch.randn(tokens, inputs), torch.randn(tokens, outputs), torch.randn(outputs, inputs)
        layers.append((x, g, w, torch.empty_like(g), torch.empty_like(x), torch.empty_like(w)))

    def multiply() -> None:
        for x, _, w, y, _, _ in layers:
            torch.mm(x, w.t(), out=y)
        for x, g, w, _, grad_x, grad_w in reversed(layers):
            torch.mm(g, w, out=grad_x)
            torch.mm(g.t(), x, out=grad_w)

    return multiply


def _adapted(workload: Workload) -> Callable[[], None]:
    """The products of any LoRA step, whatever the base is kept in.

    Frozen layers take forward products and gradients of inputs; each adapter `x A^T`, `(x A^T) B^T`, `g B` and the
    gradients of A, B and its input. The first block's q, k and v need no gradient of their input.
    """
    tokens, rank, matrices = workload.tokens, workload.rank, products(workload)
    blocks = (len(matrices) - 1) // workload.model["num_hidden_layers"]
    layers = []
    for place, (inputs, outputs) in enumerate(matrices):
        x, g, w = torch.randn(tokens, inputs), torch.randn(tokens, outputs), torch.randn(outputs, inputs)
        adapter = None
        if place % blocks < ADAPTED and place + 1 < len(matrices):
            adapter = (torch.randn(rank, inputs), torch.randn(outputs, rank))
        layers.append((x, g, w, adapter, place >= FED_BY_THE_EMBEDDING, torch.empty_like(g), torch.empty_like(x)))

    def multiply() -> None:
        lows = []
        for x, _, w, adapter, _, y, _ in layers:
            torch.mm(x, w.t(), out=y)
            if adapter:
                a, b = adapter
                lows.append(torch.mm(a, x.t()))
                torch.mm(lows[-1].t(), b.t(), out=y)
        for x, g, w, adapter, flows, _, grad_x in reversed(layers):
            if flows:
                torch.mm(g, w, out=grad_x)
            if adapter:
                a, b = adapter
                back = torch.mm(b.t(), g.t())
                torch.mm(g.t(), lows.pop().t())
                torch.mm(back, x)
                if flows:
                    torch.mm(back.t(), a, out=grad_x)

    return multiply
