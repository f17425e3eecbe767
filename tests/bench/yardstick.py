"""A step's own matrix products and nothing else: the time below which no implementation can go."""

from collections.abc import Callable

import torch

from tests.bench.workload import Workload, products


def build_yardstick(workload: Workload) -> Callable[[], None]:
    """A function that multiplies what one training step multiplies in its linear layers, into buffers that stand.

    Each layer has weights, gradients and activations of its own, so that they come from memory as in a real step.
    For x (tokens, inputs), w (outputs, inputs) and g (tokens, outputs) these are the fastest layouts torch has:
    forward `x w^T`, gradient of the input `g w`, gradient of the weight `g^T x`.
    """
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
