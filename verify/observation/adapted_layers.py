"""What single layers compute, whatever their weights are stored as: measured on unit vectors."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from andon.verify.observation.wrapped_names import is_wrapped


def widths_of(model: nn.Module, act: Callable[[], object]) -> dict[str, int]:
    """By name, the width of what each module without children is given while `act` runs: one tensor of floats."""
    widths: dict[str, int] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: tuple[object, ...]) -> None:
            if len(given) == 1 and isinstance(given[0], Tensor) and given[0].is_floating_point() and given[0].dim() > 1:
                widths[name] = given[0].shape[-1]

        return hook

    leaves = [
        (name, module) for name, module in model.named_modules() if name and not any(True for _ in module.children())
    ]
    handles = [module.register_forward_pre_hook(note(name)) for name, module in leaves]
    try:
        act()
    finally:
        for handle in handles:
            handle.remove()
    return widths


def layers_of(model: nn.Module, widths: Mapping[str, int]) -> Iterator[tuple[str, nn.Module, int]]:
    """The module that each of these names has become: the outermost whose path ends with the name's parts in order."""
    modules = dict(model.named_modules())
    for name, width in widths.items():
        found = [key for key in modules if is_wrapped(key, name)]
        if found:
            yield name, modules[min(found, key=len)], width


def effective_layers(model: nn.Module, widths: Mapping[str, int]) -> dict[str, Tensor]:
    """By name, what each of these layers does to unit vectors, where it takes any."""
    found = ((name, effective(layer, width)) for name, layer, width in layers_of(model, widths))
    return {name: matrix for name, matrix in found if matrix is not None}


@torch.no_grad()
def effective(layer: nn.Module, width: int) -> Tensor | None:
    """(inputs, outputs): what the layer, in eval mode, adds for each unit vector; None where it takes no vectors."""
    kept = next((t for t in (*layer.parameters(), *layer.buffers()) if t.is_floating_point()), torch.zeros(()))
    dtype, mode = kept.dtype if kept.dtype.itemsize > 1 else torch.float32, layer.training
    rows = torch.eye(width, dtype=dtype, device=kept.device)
    try:
        found, nothing = layer.eval()(rows), layer(torch.zeros_like(rows[:1]))
    except (TypeError, ValueError, RuntimeError, IndexError):  # an embedding, a convolution: it takes something else
        return None
    finally:
        layer.train(mode)
    if not isinstance(found, Tensor) or found.dim() != 2:
        return None
    return found - nothing
