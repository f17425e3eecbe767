"""Perturbed models: parameters rescaled so that faults show, in enough precision, without dropout.

A freshly initialized model is nearly blind: its attention is almost uniform and every token costs about ln V, so that
most faults move its logits by less than rounding. What is true of any weights is therefore checked at larger ones.
"""

import torch
from torch import Tensor, nn

from andon.verify.access.calls import new_model, precise
from andon.verify.subject import Subject

LARGEST_GAIN = 1e3
SAMPLE, MOST_CONSTANTS = 4096, 3  # numbers that are looked at; and different ones among them that no draw has
NOISE = 0.1  # added to gains and biases, so that none is neutral


def perturbed_model(subject: Subject, seed: int = 0) -> nn.Module:
    """A model in eval mode, at least float32 where its code allows, whose matrices have std 1/sqrt(inputs) or more."""
    model = precise(subject, new_model(subject, seed)).eval()
    rescale(model)
    return model


@torch.no_grad()
def rescale(model: nn.Module, *, vectors: bool = True) -> None:
    """In place: scale matrices up to std 1/sqrt(inputs), fill zeros, and add noise to gains, biases and constants.

    A gain for each row (weight norm's), an identity that mixes streams, or a table of a formula is no drawn matrix:
    scaled, it would make another model. A scalar at zero opens (ReZero).
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if not parameter.is_floating_point() or parameter.numel() == 0 or parameter.layout != torch.strided:
            continue
        if parameter.dim() == 0 and parameter.any():
            continue
        if parameter.dim() < 2 or (parameter.any() and not is_drawn_matrix(parameter)):
            if vectors:
                parameter.add_(NOISE * torch.randn(parameter.shape, generator=generator).to(parameter))
            continue
        wanted = parameter[0].numel() ** -0.5
        std = float(parameter.float().std())
        if std > 0:
            parameter.mul_(min(max(1.0, wanted / std), LARGEST_GAIN))
        elif not parameter.any():
            parameter.copy_(wanted * torch.randn(parameter.shape, generator=generator))


def is_drawn_matrix(parameter: Tensor) -> bool:
    """Whether its numbers are draws, a row of them summed up: no gain per row, identity, or table of a formula."""
    if parameter.dim() < 2 or parameter[0].numel() < 2:
        return False
    some = parameter.detach().flatten()[:SAMPLE]
    return len(some.unique()) > max(MOST_CONSTANTS, len(some) // 16)


@torch.no_grad()
def fill_zero_parameters(model: nn.Module) -> nn.Module:
    """The model, in place, with small random numbers in what is zero: nothing is learned through a zero at first."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.dim() and not parameter.any():
            size = NOISE if parameter.dim() == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    return model


@torch.no_grad()
def shuffle_matrices(model: nn.Module, seed: int) -> nn.Module:
    """The model, in place, with the rows and columns of its matrices in another order: another draw of the same kind.

    A model that was trained comes as it is each time, and units that its one batch does not open say nothing of others.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.layout == torch.strided and is_drawn_matrix(parameter):
            rows, columns = (torch.randperm(size, generator=generator) for size in parameter.shape[:2])
            parameter.copy_(parameter[rows.to(parameter.device)][:, columns.to(parameter.device)])
    return model


def sharpened(model: nn.Module) -> nn.Module:
    """The model, in place, with larger matrices: its losses differ from token to token, not about ln V everywhere."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and parameter.is_floating_point():
                parameter.mul_(3)
    return model
