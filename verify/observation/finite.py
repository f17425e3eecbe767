"""Where numbers stop being finite: in the weights, or in what a module returns."""

import torch
from torch import Tensor, nn

from andon.verify.access.batches import tensors_in
from andon.verify.access.calls import loss_of, new_batch, new_model, seeded
from andon.verify.errors import listed
from andon.verify.subject import Subject


def not_finite(subject: Subject) -> str:
    """The first place of a new model, in eval mode, that is not finite: its weights, a module's output, or the loss."""
    with seeded(), torch.no_grad():
        model, batch = new_model(subject).eval(), new_batch(subject)
        weights = [name for name, tensor in model.named_parameters() if not _is_finite(tensor)]
        if weights:
            return f"{listed(weights)} hold numbers that are not finite"
        names, first = {module: name for name, module in model.named_modules()}, []

        def look(module: nn.Module, _given: object, output: object) -> None:
            if not first and not all(map(_is_finite, tensors_in(output))):
                first.append(f"{names[module] or 'the model'} is the first module to return such numbers")

        handles = [module.register_forward_hook(look) for module in names]
        try:
            loss_of(subject, model, batch)
        finally:
            for handle in handles:
                handle.remove()
    return first[0] if first else "what the model returns is finite, and the loss of it is not"


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())
