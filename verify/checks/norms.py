"""Normalization, found by what it does: scaling its input changes nothing.

Legend: R rows, D width.
"""

import torch
from torch import Tensor, nn

from andon.verify.access.calls import new_model, precise
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, Unusual
from andon.verify.observation.half_precision import device_of, low_dtype
from andon.verify.observation.norm_layers import INVARIANT, given_dtypes, norms_of, random_rows
from andon.verify.observation.tolerances import distance, rms
from andon.verify.subject import Subject

EVEN = 1e-2  # spread of the rows' sizes
OWN = 0.05  # of what a gain says


def check_unit(subject: Subject) -> None:
    """Before its gain, a norm's output has rms 1 (or length 1, in an L2 norm), whatever its input's scale and offset.

    Fresh, with the gain that it begins with, it has rms 1, too, or what that gain says.

    Silent because the gain, and the next layer, make up for a constant factor; padded widths and large inputs differ.

    Look at what the sum of squares is divided by, at whether the mean is subtracted, and at an epsilon as large as the
    variance.

    Yellow where a gain says another size than the norm returns: a gain around one may be meant to begin elsewhere.

    Example:
        # wrong: var() subtracts the mean first, which RMSNorm does not
        variance = x.var(-1, keepdim=True)
        return self.weight * x * torch.rsqrt(variance + self.eps)

        # right
        variance = x.pow(2).mean(-1, keepdim=True)
        return self.weight * x * torch.rsqrt(variance + self.eps)

    Reference: Zhang and Sennrich 2019, arXiv:1910.07467.
    """
    model = precise(subject, new_model(subject)).eval()
    for name, module, width in norms_of(subject, model):
        for scale in (1.0, 300.0):
            output = _neutral(module, random_rows(width, module, offset=2.0) * scale)
            sizes = output.double().square().mean(-1).sqrt()
            if not _is_even(sizes):
                if _is_elsewhere(module, output, width, scale):
                    continue
                raise CheckFailed(
                    f"{name} returns rows of rms {float(sizes.min()):.4f} to {float(sizes.max()):.4f} for inputs of "
                    f"width {width} and rms {2.24 * scale:.3g}; it is to be 1"
                )
            size, allowed = float(sizes.mean()), (1.0, width**-0.5)
            if not any(abs(size / each - 1) <= 1 / width + 1e-3 for each in allowed):
                raise CheckFailed(
                    f"{name} returns rows of rms {size:.4f} for inputs of width {width} and rms {2.24 * scale:.3g}; "
                    "it is to be 1"
                )
        _require_own_gain(module, name, width)


def check_precision(subject: Subject) -> None:
    """A norm computes its statistics in float32: rounding makes no row as a whole too large or too small.

    Silent because half a percent too much or too little, different for each token, looks like noise.

    Asked in the dtype that the model's own pass gives each norm.

    Look for the cast to float32 before squares are taken, and at where the cast back stands.

    Example:
        # wrong: for bfloat16 activations the variance is rounded to 8 bits
        variance = x.square().mean(-1, keepdim=True)
        return self.weight * x * torch.rsqrt(variance + self.eps)

        # right
        x_32 = x.float()
        variance = x_32.square().mean(-1, keepdim=True)
        return self.weight * (x_32 * torch.rsqrt(variance + self.eps)).to(x.dtype)

    Reference: meta-llama/llama#1048.
    """
    low = low_dtype(subject)
    model = new_model(subject).eval()
    norms = norms_of(subject, precise(subject, new_model(subject)).eval())
    given = given_dtypes(subject, model, [name for name, _, _ in norms])
    for name, module, width in norms:
        own = model.get_submodule(name)
        exact = _neutral(module, random_rows(width, module).to(low).float()).double()
        with torch.no_grad(), torch.autocast(device_of(model), dtype=low):
            rounded = _neutral(own, random_rows(width, own).to(low).to(given[name])).double()
        if rounded.shape != exact.shape:
            continue
        factor_R = (rounded * exact).sum(-1) / exact.square().sum(-1)
        off = float((factor_R - 1).square().mean().sqrt())
        # Rounding each entry leaves 0.4 eps / sqrt(D) of the row; rounding the statistics leaves 0.24 eps of it.
        limit = torch.finfo(low).eps * (0.1 + 0.5 / width**0.5)
        if not off <= limit:
            raise CheckFailed(
                f"{name} in {low} returns rows that are {off:.2g} too large or small as a whole; statistics in float32 "
                f"leave less than {limit:.1g}"
            )


def _require_own_gain(module: nn.Module, name: str, width: int) -> None:
    """Find a fresh norm whose output is neither of rms 1 nor of the size that its one gain says."""
    gains = [parameter for parameter in module.parameters() if parameter.dim() == 1 and len(parameter) == width]
    rows = random_rows(width, module, offset=2.0)
    with torch.no_grad():
        size = rms(module(rows)) / max(rms(_neutral(module, rows)), 1e-300)
    said = [rms(parameter.detach()) for parameter in gains if parameter.any()]
    if len(list(module.parameters())) > len(gains) or len(said) != 1:
        return  # no gain that says something, or a bias, or more
    if not any(abs(size / each - 1) <= OWN for each in (1.0, said[0])):
        raise Unusual(
            f"{name} begins with a gain of rms {said[0]:.3g} and returns rows of rms {size:.3g} times what it returns "
            f"without one; 1 or {said[0]:.3g} is expected: a gain around one begins at zero, any other at one"
        )


def _is_even(sizes: Tensor) -> bool:
    return float(sizes.std()) <= EVEN * float(sizes.mean())


def _is_elsewhere(module: nn.Module, output: Tensor, width: int, scale: float) -> bool:
    """Whether it normalizes along other dimensions, as a row alone shows, or to another measure than the rms."""
    alone = _neutral(module, (random_rows(width, module, offset=2.0) * scale)[:1])
    sizes = output.double().abs()
    return distance(alone, output[:1]) > INVARIANT or _is_even(sizes.mean(-1)) or _is_even(sizes.amax(-1))


@torch.no_grad()
def _neutral(module: nn.Module, rows: Tensor) -> Tensor:
    """The norm's output with a gain of one and no bias, whichever way its parameters say so."""
    kept = [parameter.clone() for parameter in module.parameters()]
    try:
        for parameter in module.parameters():
            parameter.zero_()
        output = module(rows)
        if not output.float().std() > 0:  # no gain around one: a zero gain is none
            for parameter in module.parameters():
                parameter.fill_(1.0)
                output = module(rows)
                if output.float().std() > 0:
                    break
                parameter.zero_()
        return output
    finally:
        for parameter, value in zip(module.parameters(), kept, strict=True):
            parameter.copy_(value)


CHECKS = (
    Check("norms.unit", check_unit),
    Check("norms.precision", check_precision),
)
