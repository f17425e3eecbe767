"""What the loss is: the mean cross-entropy of labels that are not ignored, and its gradient.

Legend: B batch, T time, V vocab.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from andon.verify.access.batches import evenly_spaced, first_positions, other_tokens, rows_of, small_batch
from andon.verify.access.calls import gradients, gradients_of, loss_of, new_batch, new_model, seeded
from andon.verify.access.facts import facts_of, observed
from andon.verify.access.larger_weights import perturbed_model
from andon.verify.access.logits import logits_of
from andon.verify.access.parts import find
from andon.verify.access.roles import IGNORE, fields
from andon.verify.access.targets import require_plain, require_value, targets_of, tokens_of, weighs_alike, with_targets
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual, left_out_by
from andon.verify.gradients.surrogates import Custom
from andon.verify.observation.cross_entropy import cross_entropy, cross_entropy_gradients
from andon.verify.observation.perturb import coarsest_eps, rounding_tolerance
from andon.verify.observation.tolerances import ROUNDING, norm_of
from andon.verify.subject import Batch, Subject

FEWEST = 4  # positions
EXACT = 2e-5  # of the larger of the loss and 1: float32's, summed over many rows
NEGLIGIBLE = 1e-4  # of the whole gradient's norm: what is below is rounding


def check_definition(subject: Subject) -> None:
    """The loss is the mean over labels that are not ignored of -log softmax(logits)[label], in at least float32.

    A mixture of experts may add its router's part, which is the same whatever the labels.

    Silent because any such number falls: labels that are not shifted, labels that must not count, a mean of means,
    chunks that are left out, and logits in half precision all give smooth curves of something else.

    Look at the shift, at `ignore_index`, at what the sum is divided by, and at the logits' dtype.

    Yellow where the loss is another mean of the same labels, as over rows first: some code means to take it.

    Example:
        # wrong: nothing shifts the labels, so that each position predicts its own token
        logits, labels = model(input_ids), input_ids
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())

        # right
        logits, labels = model(input_ids)[:, :-1], input_ids[:, 1:]
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    Reference: PyTorch documentation, torch.nn.CrossEntropyLoss.
    """
    require_plain(subject)
    model = perturbed_model(subject)
    for seed in range(2):
        batch = new_batch(subject, seed)
        _compare(subject, model, batch, f"of batch {seed}", _coarse(subject, model, batch))


def check_shapes(subject: Subject) -> None:
    """The loss is the mean cross-entropy for batches of any size: one row, odd lengths, sizes that no chunk divides.

    Silent because sizes in training are round; at any other size the last tokens are left out, or count twice.

    Look at chunks and their remainder, at reshapes, and at sizes that are kept from the first batch.

    Yellow where the loss is another mean of the same labels, as over rows first: some code means to take it.

    Example:
        # wrong: what is left after the last full chunk is never read
        total = 0.0
        for start in range(0, len(labels) // size * size, size):
            part = slice(start, start + size)
            total += F.cross_entropy(head(hidden[part]), labels[part], reduction="sum")
        loss = total / len(labels)

        # right
        total = 0.0
        for start in range(0, len(labels), size):
            part = slice(start, start + size)
            total += F.cross_entropy(head(hidden[part]), labels[part], reduction="sum")
        loss = total / len(labels)
    """
    require_plain(subject)
    model, batch = perturbed_model(subject), small_batch(subject)
    coarse = _coarse(subject, model, batch)
    rows, time = tokens_of(subject, batch).shape
    for length in sorted({time - 1, time - 2, time // 2 | 1, FEWEST + 1}):
        if FEWEST < length < time:
            _compare(
                subject,
                model,
                first_positions(subject, batch, length),
                f"of the batch's first {length} positions",
                coarse,
            )
    _compare(subject, model, rows_of(subject, batch, [rows - 1]), "of its last row alone", coarse)
    odd = rows_of(subject, batch, [index % rows for index in range(rows + 1)])
    _compare(subject, model, odd, f"of {rows + 1} rows", coarse)


def check_ignored(subject: Subject) -> None:
    """The loss is the mean over the labels that are not ignored, be they many or few of a row, or one alone.

    Silent because losses of such batches are of the usual size; short rows or padding count too much or too little.

    Look at `ignore_index`, at the divisor (labels that are not ignored, not rows or positions), and at means of rows.

    Yellow where the loss is another mean of the same labels, as over rows first: some code means to take it.

    Example:
        # wrong: mean() divides by all positions, ignored ones too
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        loss = losses.mean()

        # right
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        loss = losses.sum() / (labels != -100).sum()

    Reference: Lightning-AI/litgpt#751.
    """
    require_plain(subject)
    model, batch = perturbed_model(subject), small_batch(subject)
    coarse = _coarse(subject, model, batch)
    for targets_BT, what in _choices(subject, batch):
        _compare(subject, model, batch, what, coarse, targets_BT)


def check_gradient(subject: Subject) -> None:
    """The loss's gradient is that of the cross-entropy of the logits, for every parameter.

    Silent because a wrong gradient still points downhill: a part counted twice, a part detached, a part scaled.

    Look at custom backward functions, at `detach` and `no_grad`, and at chunks whose gradients are added up.

    Example:
        # wrong: the forward pass divides by the number of labels, the backward pass does not
        @staticmethod
        def backward(ctx, grad_output):
            probs, one_hot = ctx.saved_tensors
            return grad_output * (probs - one_hot), None

        # right
        @staticmethod
        def backward(ctx, grad_output):
            probs, one_hot = ctx.saved_tensors
            return grad_output * (probs - one_hot) / len(probs), None

    Reference: PyTorch documentation, Extending PyTorch (torch.autograd.Function).
    """
    if subject.mixture_of_experts:
        raise left_out_by("mixture_of_experts", True, "a loss without a router's part")
    require_value(subject)
    model, batch = perturbed_model(subject), small_batch(subject)
    targets_BT = targets_of(subject, batch)
    _compare_gradients(subject, model, batch, targets_BT)
    if "labels" in find(subject, batch):
        ragged_BT = _ragged(targets_BT)
        _compare_gradients(subject, model, with_targets(subject, batch, ragged_BT), ragged_BT)


def check_backward(subject: Subject) -> None:
    """`loss.backward()` adds to `.grad` what `autograd.grad` returns, once; a second batch adds its own.

    Silent because a gradient that is counted twice, or left over, only looks like a larger learning rate.

    Look at custom functions that call backward inside backward, at hooks on parameters, and at state they keep.

    Example:
        # wrong: backward() inside fills weight.grad, and what is returned is added to it again
        @staticmethod
        def backward(ctx, grad_output):
            hidden, weight, labels = ctx.saved_tensors
            with torch.enable_grad():
                hidden = hidden.detach().requires_grad_()
                F.cross_entropy(hidden @ weight.T, labels).backward()
            return grad_output * hidden.grad, grad_output * weight.grad, None

        # right
        @staticmethod
        def backward(ctx, grad_output):
            hidden, weight, labels = ctx.saved_tensors
            with torch.enable_grad():
                hidden = hidden.detach().requires_grad_()
                loss = F.cross_entropy(hidden @ weight.T, labels)
            d_hidden, d_weight = torch.autograd.grad(loss, (hidden, weight))
            return grad_output * d_hidden, grad_output * d_weight, None

    Reference: unslothai/unsloth-zoo#892.
    """
    model, batch = new_model(subject).eval(), small_batch(subject)
    returned = gradients(subject, model, batch)
    left = [name for name, p in model.named_parameters() if p.grad is not None]
    if left:
        raise CheckFailed(f"taking the loss leaves a gradient in {left[0]} and {len(left) - 1} others without backward")
    tolerance = 10 * rounding_tolerance(subject, model, batch, loss_of)
    total = norm_of(returned.values())
    for times in (1, 2):
        with seeded():
            loss_of(subject, model, batch).backward()
        for name, parameter in model.named_parameters():
            if name not in returned:
                continue
            accumulated = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            error = norm_of([accumulated.double() - times * returned[name].double()])
            if not error <= tolerance * max(norm_of([returned[name]]), NEGLIGIBLE * total):
                raise CheckFailed(
                    f"after {times} backward passes {name}.grad has norm {norm_of([accumulated]):.4g}; {times} times "
                    f"what autograd.grad returns has {times * norm_of([returned[name]]):.4g}"
                )


def check_scale(subject: Subject) -> None:
    """Scaling the loss scales every gradient by as much, as loss scaling and accumulation need.

    Silent because without a scale, or with an optimizer that ignores it, all is well.

    Yellow where a custom function that returns its input injects a gradient, as some balance experts: it may be scaled
    by itself.

    Look at custom backward functions that leave out the gradient that comes in.

    Example:
        # wrong: leaves out grad_output, which carries any factor on the loss
        @staticmethod
        def backward(ctx, grad_output):
            probs, one_hot = ctx.saved_tensors
            return (probs - one_hot) / len(probs), None

        # right
        @staticmethod
        def backward(ctx, grad_output):
            probs, one_hot = ctx.saved_tensors
            return grad_output * (probs - one_hot) / len(probs), None

    Reference: PyTorch documentation, Extending PyTorch (torch.autograd.Function).
    """
    model, batch = new_model(subject).eval(), small_batch(subject)
    whole, part = (_scaled_gradients(subject, model, batch, scale) for scale in (1.0, 0.125))
    tolerance = 10 * rounding_tolerance(subject, model, batch, loss_of)
    total = norm_of(whole.values())
    for name, gradient in whole.items():
        error, size = norm_of([part[name].double() - 0.125 * gradient.double()]), norm_of([gradient])
        if error <= tolerance * 0.125 * max(size, NEGLIGIBLE * total):
            continue
        said = (
            f"an eighth of the loss gives {name} a gradient of norm {norm_of([part[name]]):.4g}, and an eighth of the "
            f"loss's is {size / 8:.4g}"
        )
        if surrogate := Custom(lambda: loss_of(subject, model, batch)).surrogate():
            raise Unusual(f"{said}; {surrogate}: right if that is scaled by itself")
        raise CheckFailed(said)


def _scaled_gradients(subject: Subject, model: nn.Module, batch: Batch, scale: float) -> dict[str, Tensor]:
    with seeded():
        return gradients_of(loss_of(subject, model, batch) * scale, model)


def check_precision(subject: Subject) -> None:
    """The loss comes in at least float32, whatever the model's dtype.

    Silent because bfloat16 keeps three digits: the curve looks like noise, and small improvements vanish.

    Look for the cast of the logits to float32 before the softmax, and at what autocast encloses.

    Example:
        # wrong: a bfloat16 model's logits make a bfloat16 loss
        logits = model(input_ids)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())

        # right
        logits = model(input_ids).float()
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    Reference: huggingface/transformers#29285.
    """
    loss = loss_of(subject, new_model(subject), small_batch(subject))
    if loss.dtype.itemsize < 4:
        raise CheckFailed(f"the loss is {loss.dtype}: {float(loss):.4g} cannot be told from its neighbors below 0.4%")


def _compare(
    subject: Subject, model: nn.Module, batch: Batch, what: str, coarse: float, targets_BT: Tensor | None = None
) -> None:
    """Fail where the loss is not the mean over `targets_BT`, by default the batch's own."""
    given = batch if targets_BT is None else with_targets(subject, batch, targets_BT)
    targets_BT = targets_of(subject, batch) if targets_BT is None else targets_BT
    counted = int((targets_BT != IGNORE).sum())
    if not counted:
        raise NotApplicable("a batch with counted labels")
    with torch.no_grad():
        loss, logits = loss_of(subject, model, given), logits_of(subject, model, given)
        expected = cross_entropy(logits, targets_BT) + _of_router(subject, model, batch)
    if not math.isfinite(float(expected)):  # our own cut of the batch has left a row nothing to see
        raise NotApplicable(f"finite logits {what}")
    # Rounding of logits is independent between tokens, and so shrinks in their mean.
    spare = 0.0 if coarse <= ROUNDING[torch.float32] else coarse * float(logits.float().std()) / math.sqrt(counted)
    tolerance = EXACT * max(1.0, float(expected)) + spare
    if not abs(float(loss) - float(expected)) <= tolerance:
        _explain_unknown(subject, batch)
        said = (
            f"the loss {what} is {float(loss):.6f}; the mean cross-entropy of its {counted} labels is "
            f"{float(expected):.6f}, and rounding explains {tolerance:.1e}"
        )
        _require_plain_here(subject, model, given)
        other = _other_mean(float(loss), logits, targets_BT, tolerance) or _other_weights(subject)
        light = Unusual if other and not subject.objective else CheckFailed  # said is meant
        raise light(f"{said}{other and f': {other}'}")


def _require_plain_here(subject: Subject, model: nn.Module, batch: Batch) -> None:
    """Refuse a loss that shows another part at these weights, such as one that balances experts.

    Raises:
        NotApplicable: so it is.
    """
    if subject.objective or facts_of(subject).cross_entropy is None:
        return
    shown = observed(subject, model, batch).cross_entropy
    if shown is None or shown.smoothing or not (shown.whole or subject.mixture_of_experts):
        raise NotApplicable("a loss that is nothing but a cross-entropy at larger weights, too")


def _other_weights(subject: Subject) -> str:
    """That labels weigh unlike, and nothing in the batch says why; empty where they weigh alike."""
    shown = facts_of(subject).cross_entropy
    if shown is None or weighs_alike(shown):
        return ""
    weights = shown.weights[shown.counted]
    return f"one label weighs up to {float(weights.max() / weights.min()):.3g} times another, as in a mean of means"


def _other_mean(loss: float, logits: Tensor, targets_BT: Tensor, tolerance: float) -> str:
    """Which other mean of the same labels the loss is, that some code means to take; empty where it is none."""
    counts = (targets_BT != IGNORE).sum(1)
    used = counts > 0
    rows = [cross_entropy(logits[row : row + 1], targets_BT[row : row + 1]) for row in used.nonzero()[:, 0].tolist()]
    means = torch.stack(rows)
    total = float((means * counts[used]).sum())
    others = {
        float(means.mean()): "it is the mean of the rows' means, so that labels of short rows weigh more",
        total / targets_BT.numel(): "it is their sum over all positions, those that are ignored among them",
        total / len(targets_BT): "it is their sum over the rows",
        total: "it is their sum",
    }
    return next((said for value, said in others.items() if abs(loss - value) <= tolerance), "")


def _of_router(subject: Subject, model: nn.Module, batch: Batch) -> Tensor:
    """What a mixture's loss has beside the cross-entropy, told with other labels; nothing where there is no mixture."""
    if not subject.mixture_of_experts:
        return torch.zeros(())
    targets_BT = targets_of(subject, batch)
    others_BT = torch.where(targets_BT != IGNORE, other_tokens(tokens_of(subject, batch), seed=1), IGNORE)
    other = with_targets(subject, batch, others_BT)
    return loss_of(subject, model, other) - cross_entropy(logits_of(subject, model, other), others_BT)


def _compare_gradients(subject: Subject, model: nn.Module, batch: Batch, targets_BT: Tensor) -> None:
    ours = gradients(subject, model, batch)
    expected = cross_entropy_gradients(subject, model, batch, targets_BT)
    tolerance = max(10 * rounding_tolerance(subject, model, batch, loss_of), 1e-3)
    total = norm_of(expected.values())
    for name, gradient in ours.items():
        error, size = norm_of([gradient.double() - expected[name].double()]), norm_of([expected[name]])
        if not error <= tolerance * max(size, NEGLIGIBLE * total):
            raise CheckFailed(
                f"the loss's gradient of {name} has norm {norm_of([gradient]):.4g}, and that of the cross-entropy of "
                f"the logits {size:.4g}; they are {error:.2g} apart, {error / max(size, 1e-300):.1%}"
            )


def _choices(subject: Subject, batch: Batch) -> Iterator[tuple[Tensor, str]]:
    """Targets that differ in which are counted, and in what they are."""
    targets_BT = targets_of(subject, batch)
    yield _ragged(targets_BT), "with rows of few and many labels"
    usable = (targets_BT != IGNORE).nonzero()
    for index in evenly_spaced(len(usable), 4):
        row, position = usable[index].tolist()
        one_BT = torch.full_like(targets_BT, IGNORE)
        one_BT[row, position] = targets_BT[row, position]
        yield one_BT, f"with the label of row {row}, position {position} alone"
    tokens_BT = tokens_of(subject, batch)
    counted_BT = targets_BT != IGNORE
    yield torch.where(counted_BT, other_tokens(tokens_BT), targets_BT), "with other labels"


def _ragged(targets_BT: Tensor) -> Tensor:
    """Row r keeps about 1 / (r + 1) of its targets, from the left and the right in turn; none loses all."""
    ragged_BT = targets_BT.clone()
    for row, targets_T in enumerate(ragged_BT):
        counted = (targets_T != IGNORE).nonzero().flatten()
        drop = len(counted) - max(1, len(counted) // (row + 1)) if row else len(counted) // 3
        targets_T[counted[:drop] if row % 2 else counted[len(counted) - drop :]] = IGNORE
    return ragged_BT


def _explain_unknown(subject: Subject, batch: Batch) -> None:
    """A part that weighs labels may be the reason, and no fault."""
    tokens_BT, known = tokens_of(subject, batch), set(find(subject, batch).values())
    for key, value in fields(batch).items():
        if key not in known and isinstance(value, Tensor) and value.shape == tokens_BT.shape:
            raise NotApplicable(f"to know what the batch's part {key!r} is: Subject(roles={{'counted': {key!r}}})?")


def _coarse(subject: Subject, model: nn.Module, batch: Batch) -> float:
    """The coarsest rounding on the way to logits or loss."""
    return max(coarsest_eps(subject, model, batch), coarsest_eps(subject, model, batch, loss_of))


CHECKS = (
    Check("loss.precision", check_precision),
    Check("loss.definition", check_definition),
    Check("loss.shapes", check_shapes),
    Check("loss.ignored", check_ignored),
    Check("loss.gradient", check_gradient),
    Check("loss.backward", check_backward),
    Check("loss.scale", check_scale),
)
