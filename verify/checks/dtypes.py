"""Precision: float32 models compute in float32, and half-precision ones stay near them."""

import torch
from torch import Tensor

from andon.verify.access.calls import gradients, loss_of, new_model
from andon.verify.access.larger_weights import perturbed_model, rescale
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable
from andon.verify.observation.answers import answer, any_batch
from andon.verify.observation.half_precision import HalfPrecision, device_of, is_wide, low_dtype
from andon.verify.observation.perturb import coarsest_eps, logits_eval
from andon.verify.observation.tolerances import ROUNDING, rms
from andon.verify.subject import Batch, Subject

# How far the weights step, as a share of them, and how much of the response may not be linear: in float64, where some
# take statistics in float32, and in float32. Both steps are below bfloat16's rounding.
FINE, COARSE = (1e-5, 0.05), (1e-3, 0.15)
NEAR = {torch.bfloat16: 0.15, torch.float16: 0.03}  # rms error over rms, of some thirty layers
SMALL = 0.05  # of all gradients' rms: below it cancellation leaves little but rounding
NEAR_GRADIENT = {torch.bfloat16: 0.6, torch.float16: 0.12}  # of queries and keys, whose rounding softmax magnifies


def check_smooth(subject: Subject) -> None:
    """A float32 model responds smoothly to small changes of its weights: nothing inside is rounded to half precision.

    Asked where half precision is seen to appear in a pass: kinks and routing alone are no rounding.

    Silent because the rounding is noise of some tenths of a percent, different in each step.

    Look for casts to bfloat16 or float16 inside a float32 model, of activations, angles, scores or logits.

    Example:
        # wrong: a float32 model's scores pass through bfloat16
        scores = (q @ k.transpose(-2, -1) / math.sqrt(head_dim)).bfloat16()
        out = scores.softmax(-1).float() @ v

        # right
        scores = q @ k.transpose(-2, -1) / math.sqrt(head_dim)
        out = scores.softmax(-1) @ v
    """
    model, batch = perturbed_model(subject), any_batch(subject)
    if coarsest_eps(subject, model, batch, loss_of) > ROUNDING[torch.float32]:
        raise NotApplicable("a model that works in float32")
    with HalfPrecision() as halves:
        returned = answer(subject, model, batch).outputs
    if not halves.seen:
        return  # kinks, routing and codebooks are no rounding
    if not returned:
        raise NotApplicable("a model that returns floating numbers when it is called")
    (step, curved), results = _steps(subject, batch)
    response = rms(results[2] - results[0])
    bend = rms(results[2] - 2 * results[1] + results[0])
    if response > 0 and not bend <= curved * response:
        raise CheckFailed(
            f"when all weights change by {step:g} of their size the response of what is returned is "
            f"{bend / response:.0%} irregular, and a smooth function's less than {curved:.0%}: "
            f"numbers are rounded to {halves.seen[0]} on the way"
        )


def check_logits(subject: Subject) -> None:
    """In half precision the logits are finite, and those of float32 up to rounding.

    Silent because each step is off a little differently, and the loss still falls.

    Look at softmax, norms, sums over many terms and residuals that are computed in half precision.

    Example:
        # wrong: the square of an activation above 255 overflows float16
        def forward(self, x):
            rms = (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()
            return x / rms * self.weight

        # right
        def forward(self, x):
            wide = x.float()
            rms = (wide.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()
            return (wide / rms).to(x.dtype) * self.weight

    Reference: meta-llama/llama#1048.
    """
    low = low_dtype(subject)
    model, exact, batch = _pair(subject, low)
    with torch.autocast(device_of(model), dtype=low, enabled=is_wide(model)):
        rounded = logits_eval(subject, model, batch).double()
    reference = logits_eval(subject, exact, batch).double()
    error = rms(rounded - reference) / max(rms(reference), 1e-300)
    if not error <= NEAR[low]:
        raise CheckFailed(f"in {low} logits are {error:.2g} of their rms from float32's; rounding explains {NEAR[low]}")


def check_gradients(subject: Subject) -> None:
    """In half precision the gradient of every parameter is that of float32 up to rounding.

    Silent because the direction is roughly right; small gradients vanish or are summed too coarsely.

    Look at custom backward functions that compute or sum in half precision, and at products that overflow or vanish
    in float16.

    Example:
        # wrong: mean_square**-1.5 overflows float16 where the mean square is below 6e-4
        @staticmethod
        def backward(ctx, grad_output):
            x, mean_square = ctx.saved_tensors
            inner = (grad_output * x).mean(-1, keepdim=True)
            return grad_output * mean_square**-0.5 - x * mean_square**-1.5 * inner

        # right
        @staticmethod
        def backward(ctx, grad_output):
            x, mean_square = (saved.float() for saved in ctx.saved_tensors)
            grad = grad_output.float()
            inner = (grad * x).mean(-1, keepdim=True)
            grad_x = grad * mean_square**-0.5 - x * mean_square**-1.5 * inner
            return grad_x.to(grad_output.dtype)
    """
    low = low_dtype(subject)
    model, exact, batch = _pair(subject, low)
    ours, expected = gradients(subject, model, batch), gradients(subject, exact, batch)
    total = rms(torch.cat([g.double().flatten() for g in expected.values()]))
    for name, gradient in ours.items():
        reference = expected[name].double()
        error = rms(gradient.double() - reference)
        if not error <= NEAR_GRADIENT[low] * max(rms(reference), SMALL * total):
            raise CheckFailed(
                f"in {low} the gradient of {name} is {error / max(rms(reference), 1e-300):.2g} of its rms from "
                f"float32's; rounding explains {NEAR_GRADIENT[low]}"
            )


def check_loss(subject: Subject) -> None:
    """In half precision the loss is that of float32 to two digits.

    Silent because a loss that is computed in half precision is usually off by less than a batch's noise.

    Look at the softmax's dtype and at sums over the vocabulary.

    Example:
        # wrong: exp overflows float16 for logits above 11, and its sum does so earlier
        log_z = logits.exp().sum(-1).log()
        loss = (log_z - logits.gather(-1, labels[..., None])[..., 0]).mean()

        # right
        log_probs = logits.float().log_softmax(-1)
        loss = -log_probs.gather(-1, labels[..., None])[..., 0].mean()
    """
    low = low_dtype(subject)
    model, exact, batch = _pair(subject, low)
    with torch.no_grad():
        rounded, reference = float(loss_of(subject, model, batch)), float(loss_of(subject, exact, batch))
    if not abs(rounded - reference) <= 0.02 * max(1.0, abs(reference)):
        raise CheckFailed(f"in {low} the loss is {rounded:.4f}, and in float32 {reference:.4f}")


def _steps(subject: Subject, batch: Batch) -> tuple[tuple[float, float], list[Tensor]]:
    """How far the weights step and what may not be linear; and what the model returns before, after 1, and after 2."""
    chosen, model = FINE, perturbed_model(subject)
    try:
        model = model.double()
        results = [_returned(subject, model, batch)]
    except (RuntimeError, TypeError):
        chosen, model = COARSE, perturbed_model(subject)
        results = [_returned(subject, model, batch)]
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(p.shape, generator=generator).to(p) * p.detach().abs() for p in model.parameters()]
    for _ in range(2):
        with torch.no_grad():
            for parameter, direction in zip(model.parameters(), directions, strict=True):
                parameter.add_(direction, alpha=chosen[0])
        results.append(_returned(subject, model, batch))
    return chosen, [each.double() for each in results]


def _returned(subject: Subject, model: torch.nn.Module, batch: Batch) -> Tensor:
    """All numbers that the model returns while the loss is taken."""
    return torch.cat([each.flatten().nan_to_num(0, 0, 0) for each in answer(subject, model, batch).outputs])


def _pair(subject: Subject, low: torch.dtype) -> tuple[torch.nn.Module, torch.nn.Module, Batch]:
    """The model as it is, and one in float32 with the same weights; and a batch."""
    model, exact = new_model(subject).eval(), new_model(subject).eval().float()
    rescale(model)
    with torch.no_grad():
        for target, source in zip(exact.parameters(), model.parameters(), strict=True):
            target.copy_(source)
    assert low.itemsize == 2
    return model, exact, any_batch(subject)


CHECKS = (
    Check("dtypes.smooth", check_smooth),
    Check("dtypes.logits", check_logits),
    Check("dtypes.loss", check_loss),
    Check("dtypes.gradients", check_gradients),
)
