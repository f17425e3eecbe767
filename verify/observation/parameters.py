"""A model's parameters and their gradients by name: read, put back, compared."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from andon.verify.observation.tolerances import norm_of

FLOOR = 1e-3  # a tensor whose gradient is below this share of the whole one's rms is judged by that share
State = dict[str, Tensor]  # by parameter name; a shared parameter once


def parameters(model: nn.Module) -> State:
    """Copies of all parameters."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def buffers_of(model: nn.Module) -> State:
    """Copies of all buffers."""
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


def moved_since(model: nn.Module, state: State) -> State:
    """Copies of the parameters that are elsewhere than in this state, of those that it holds."""
    now = {name: p.detach() for name, p in model.named_parameters() if name in state}
    return {name: tensor.clone() for name, tensor in now.items() if not _is_same(tensor, state[name])}


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are to learn."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def sharing_memory(model: nn.Module) -> set[str]:
    """The parameters whose memory is another parameter's, too."""
    places: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters():
        places.setdefault(parameter.untyped_storage().data_ptr(), []).append(name)
    return {name for names in places.values() if len(names) > 1 for name in names}


def fill(model: nn.Module, state: State) -> None:
    """Put these values into the parameters."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[name])


def put_back(model: nn.Module, buffers: State) -> None:
    """Put these values into the buffers that have still their shape."""
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name in buffers and buffers[name].shape == buffer.shape:
                buffer.copy_(buffers[name])


@contextmanager
def modes_kept(model: nn.Module) -> Generator[None]:
    """Within `with`, modules may go into another mode; afterwards each is in its own."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def at_weights(model: nn.Module, state: State, buffers: State) -> Generator[None]:
    """The model at other weights and buffers for a while; modes and gradients, too, are afterwards what they were."""
    kept, grads = (parameters(model), buffers_of(model)), {p: p.grad for p in model.parameters()}
    fill(model, state)
    put_back(model, buffers)
    try:
        with modes_kept(model):
            yield
    finally:
        fill(model, kept[0])
        put_back(model, kept[1])
        for parameter, grad in grads.items():
            parameter.grad = grad


@contextmanager
def gradients_times(model: nn.Module, factor: float, names: Iterable[str] | None = None) -> Generator[None]:
    """Every gradient, or those of some parameters, multiplied as it arrives."""
    chosen = trainable(model) if names is None else {name: trainable(model)[name] for name in names}
    handles = [parameter.register_hook(lambda gradient: gradient * factor) for parameter in chosen.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def norm(state: State) -> float:
    """The 2-norm of all tensors together."""
    return norm_of(state.values())


def mismatch(actual: State, expected: State, factor: float = 1.0) -> tuple[float, str]:
    """Largest ||actual - factor x expected|| over ||factor x expected|| of a tensor, and the tensor's name.

    What `actual` lacks is zero there. Tensors that vanish beside the others are measured by their share of the whole.
    """
    entries = sum(tensor.numel() for tensor in expected.values())
    rms = factor * norm(expected) / max(1, entries) ** 0.5
    worst, where = 0.0, ""
    for name, tensor in expected.items():
        wanted = tensor.double() * factor
        found = actual[name].double() if name in actual else torch.zeros_like(wanted)
        scale = max(float(wanted.norm()), FLOOR * rms * wanted.numel() ** 0.5, 1e-300)
        error = float((found - wanted).norm()) / scale
        if not error <= worst:
            worst, where = error, name
    return worst, where


def fitted(actual: State, expected: State) -> float:
    """The factor c that brings c x expected closest to actual."""
    shared = [name for name in expected if name in actual]
    product = sum(float((actual[name].double() * expected[name].double()).sum()) for name in shared)
    return product / max(norm(expected) ** 2, 1e-300)


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
