"""The one table of tolerances: closeness is the largest difference over the reference's root mean square."""

import torch

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def distance(actual: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest absolute difference over the reference's rms, both taken in float64; 0.0 means equal."""
    difference = (actual.double() - reference.double()).abs().max()
    return float(difference / reference.double().square().mean().sqrt().clamp_min(1e-300))
