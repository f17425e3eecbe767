"""What one step does to the weights: all that learn move, by the right gradient, once, and downhill."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.access.calls import loss_of, new_batch, new_model, seeded
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, listed
from andon.verify.observation.optimizers import claims_adam, innermost, tensors_of
from andon.verify.observation.parameters import mismatch, norm, parameters, trainable
from andon.verify.observation.runs import (
    SAME,
    Make,
    Run,
    each_run,
    each_run_or_plain,
    micro_batches,
    own_run,
    the_update,
    tolerance,
)
from andon.verify.observation.step_comparison import compare_gradient, compare_loss
from andon.verify.observation.step_trace import StepTrace
from andon.verify.subject import Batch, Subject

STEPS = 3  # within which all that learns has moved: the first rate may be 0, a fresh adapter moves one side at a time
DESCENTS = 12  # updates on one batch, after which its loss is lower at any sensible rate
ARITHMETIC = 1e-2  # of an update: what fused and looped kernels differ by
NOISE = 1e-4  # a tensor with less than this share of the gradient's rms has one of rounding alone


@each_run_or_plain
def check_movement(subject: Subject, make: Make) -> None:
    """Within three steps every trainable parameter changes, and every frozen one stays as it was, bit by bit.

    Silent because the others learn around a part that does not, and a frozen part that drifts still fits its run.

    Look at which tensors the optimizer was built with (before or after they were replaced, wrapped or moved), at layers
    that the forward pass leaves out, at `detach` and `no_grad`, and at a learning rate of 0.

    Example:
        # wrong: the optimizer holds the old head, and the new one is never updated
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        model.lm_head = nn.Linear(model.config.hidden_size, vocab_size, bias=False)

        # right
        model.lm_head = nn.Linear(model.config.hidden_size, vocab_size, bias=False)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    Reference: huggingface/accelerate#2665.
    """
    run = make()
    learning = set(trainable(run.model))
    steps = [run.step([new_batch(subject, number)]) for number in range(STEPS)]
    first, last = steps[0].before, steps[-1].after
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    still = sorted(name for name in learning - moved if not _is_below_rounding(steps, name))
    if still and not (subject.mixture_of_experts and len(still) < len(learning)):
        raise CheckFailed(
            f"{run.name}: {len(still)} of {len(learning)} trainable parameters did not change in {STEPS} steps: "
            f"{listed(still)} ({_why_still(steps, still[0])})"
        )
    if drifted := sorted(moved - learning):
        raise CheckFailed(
            f"{run.name}: {len(drifted)} of {len(first) - len(learning)} frozen parameters changed in {STEPS} "
            f"steps: {listed(drifted)}"
        )


def check_frozen(subject: Subject) -> None:
    """A parameter that is frozen before the optimizer is made stays as it was, bit by bit, and others move.

    Silent because a frozen part that drifts, by decay or by momentum, still fits its run and no other.

    Look at the optimizer's own loop over parameters without a gradient, and at calls of `requires_grad_`.

    Example:
        # wrong: weights decay even where there is no gradient
        for p in group["params"]:
            p.mul_(1 - group["lr"] * group["weight_decay"])
            if p.grad is not None:
                p.add_(p.grad, alpha=-group["lr"])

        # right
        for p in group["params"]:
            if p.grad is not None:
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(p.grad, alpha=-group["lr"])
    """
    model = new_model(subject).train()
    names = [name for name, parameter in trainable(model).items() if parameter.dim() > 1]
    if len(names) < 2:
        raise NotApplicable("two trainable matrices")
    frozen = names[len(names) // 2]
    model.get_parameter(frozen).requires_grad_(False)
    run = own_run(subject, model)
    begun = parameters(model)
    try:
        for number in range(STEPS):
            run.act([new_batch(subject, number)])
    except Exception as error:
        raise NotApplicable(f"a step that can train with {frozen} frozen ({error})") from error
    ended = parameters(model)
    if not torch.equal(begun[frozen], ended[frozen]):
        moved = float((ended[frozen].double() - begun[frozen].double()).abs().max())
        raise CheckFailed(f"{run.name}: {frozen}, frozen before the optimizer was made, moved by {moved:.2g}")
    if all(torch.equal(begun[name], ended[name]) for name in begun):
        raise CheckFailed(f"{run.name}: with {frozen} frozen, none of the other {len(begun) - 1} parameters moved")


@each_run
def check_single(subject: Subject, make: Make) -> None:
    """One training step makes exactly one update of the weights, however many micro-batches it has.

    Silent because two small updates look like one large one, and a step without an update like a slow start.

    Look at where `optimizer.step()` stands relative to the loop over micro-batches.

    Example:
        # wrong: the weights are updated after every micro-batch
        for micro_batch in micro_batches:
            (model(**micro_batch).loss / len(micro_batches)).backward()
            optimizer.step()
            optimizer.zero_grad()

        # right
        for micro_batch in micro_batches:
            (model(**micro_batch).loss / len(micro_batches)).backward()
        optimizer.step()
        optimizer.zero_grad()

    Reference: PyTorch documentation, Automatic Mixed Precision examples, "Gradient accumulation".
    """
    run = make()
    steps = [run.step(micro_batches(subject, 2, seed=2 * number)) for number in range(STEPS)]
    counts = [len(step.updates) for step in steps]
    moved = any(not torch.equal(step.before[name], step.after[name]) for step in steps for name in step.before)
    if max(counts) > 1 or (max(counts) == 0 and not moved):
        raise CheckFailed(f"{run.name}: {STEPS} steps updated the weights {counts} times, and once each was due")


@each_run
def check_gradient(subject: Subject, make: Make) -> None:
    """The first update sees the gradient of its batch's loss, as autograd computes it independently, or that clipped.

    Silent because adaptive optimizers hide any constant factor, and a gradient that is partly wrong still descends.

    Look at scaling and unscaling, at hooks, at the order of zeroing, backward, clipping and step, and at what is
    detached or computed without gradients only in the step.

    Example:
        # wrong: the update sees the gradient times the loss scale, which Adam hides
        scaler.scale(loss).backward()
        optimizer.step()

        # right
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    Reference: PyTorch documentation, Automatic Mixed Precision examples.
    """
    run, batches = make(), [new_batch(subject)]
    compare_gradient(subject, run, run.step(batches), batches, "the first update")


@each_run
def check_fresh(subject: Subject, make: Make) -> None:
    """Each later update, too, sees the gradient of its own batch and nothing of the batches before.

    Silent because a sum over past gradients is a kind of momentum: the loss falls, then does not settle.

    Look at `zero_grad`: whether it is called, on all parameters, on the right optimizer, in every branch.

    Example:
        # wrong: every batch's gradient is added to those before
        for batch in loader:
            model(**batch).loss.backward()
            optimizer.step()

        # right
        for batch in loader:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    Reference: PyTorch documentation, torch.optim.Optimizer.zero_grad.
    """
    run = make()
    run.act([new_batch(subject)])
    for number in range(1, STEPS + 1):
        batches = [new_batch(subject, number)]
        compare_gradient(subject, run, run.step(batches), batches, f"update {number + 1}")


@each_run
def check_logged_loss(subject: Subject, make: Make) -> None:
    """The loss that a run's first step reports is that of the tokens it was trained on, at the weights it began with.

    Silent because nothing else reads this number: a curve of something else is believed.

    Look at the mean over micro-batches, at loss scales left in, and at whether it is taken before or after the update.

    Example:
        # wrong: reports the last micro-batch alone, and a fraction of its loss
        for micro_batch in micro_batches:
            loss = model(**micro_batch).loss / len(micro_batches)
            loss.backward()
        metrics = {"loss": loss.item()}

        # right
        total = 0.0
        for micro_batch in micro_batches:
            loss = model(**micro_batch).loss / len(micro_batches)
            loss.backward()
            total += loss.item()
        metrics = {"loss": total}
    """
    run, batches = make(), [new_batch(subject)]
    step = run.step(batches)
    if "loss" in step.logged:
        compare_loss(subject, run, step, batches)


def check_descent(subject: Subject) -> None:
    """In the first update, decay aside, every tensor moves against its own gradient.

    Silent because the other tensors outweigh one that climbs.

    Look at signs, at `maximize`, and at updates that are written to another tensor than the gradient belongs to.

    Example:
        # wrong: vectors are moved along their gradient
        if p.dim() == 2:
            p.add_(orthogonalize(p.grad), alpha=-lr)
        else:
            p.add_(p.grad, alpha=lr)

        # right
        if p.dim() == 2:
            p.add_(orthogonalize(p.grad), alpha=-lr)
        else:
            p.add_(p.grad, alpha=-lr)
    """
    run = own_run(subject)
    step = run.step([new_batch(subject)])
    gradients, update = the_update(run, step), step.updates[0]
    rms = norm(gradients) / max(1, sum(gradient.numel() for gradient in gradients.values())) ** 0.5
    groups = set(zip(update.rates, update.decays, strict=True))
    for name, gradient in gradients.items():
        before, gradient_64 = step.before[name].double(), gradient.double()
        shift = step.after[name].double() - before
        if not bool(shift.any()) or float(gradient_64.square().mean().sqrt()) < NOISE * rms:
            continue
        products = [float((gradient_64 * (shift + rate * decay * before)).sum()) for rate, decay in groups]
        products += [float(((gradient_64 + decay * before) * shift).sum()) for _, decay in groups]  # as in Adam's L2
        if min(products) > 0:
            cosine = products[0] / float(gradient_64.norm() * shift.norm())
            raise CheckFailed(f"{run.name}: the first update moves {name} along its gradient (cosine {cosine:.3f})")


@each_run_or_plain
def check_momentum(subject: Subject, make: Make) -> None:
    """After each step Adam's running mean is beta1 x the mean before + (1 - beta1) x the gradient of that step.

    Silent because steps from moments that are forgotten are steps downhill, each about as long as the learning rate.

    Look for an optimizer that is built anew, or whose state is cleared or restored, between steps.

    Example:
        # wrong: a new optimizer for each learning rate forgets the moments
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=learning_rate(step))
        loss.backward()
        self.optimizer.step()

        # right
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step)
        loss.backward()
        self.optimizer.step()

    Reference: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1.
    """
    run = make()
    before: dict[str, Tensor] = {}
    for number in range(STEPS):
        step = run.step([new_batch(subject, number)])
        optimizer = innermost(run.optimizer if run.loop is None else run.loop.optimizer)
        gradients, after = the_update(run, step), _means(run.model, optimizer)
        mixed_in = any(group.get("weight_decay") for group in optimizer.param_groups)
        decoupled = type(optimizer).__name__.lower().endswith("w")
        if not after or not claims_adam(optimizer) or (mixed_in and not decoupled):
            raise NotApplicable("an optimizer with a running mean of gradients, as Adam's")
        beta = float(optimizer.param_groups[0]["betas"][0])
        due = {
            name: beta * before.get(name, torch.zeros_like(mean)) + (1 - beta) * gradients[name].to(mean.dtype)
            for name, mean in after.items()
            if name in gradients
        }
        error, name = mismatch(after, due)
        allowed = max(SAME, tolerance(run.model, step))
        if not error <= allowed:
            raise CheckFailed(
                f"{run.name}: after update {number + 1} the running mean of {name} differs by {error:.2g} of itself "
                f"from {beta:g} of the one before and {1 - beta:.3g} of the gradient; rounding explains {allowed:.0e}"
            )
        before = after


@each_run_or_plain
def check_arithmetic(subject: Subject, make: Make) -> None:
    """The weights after a step are what the optimizer makes of the gradient it sees; nothing else changes them.

    Silent because a little more decay, or rounding once a step, looks like any other run.

    Look for decay by hand beside the optimizer's own, weights that are cast, clamped or averaged, and second updates.

    Example:
        # wrong: AdamW has its own weight decay, so the weights decay twice
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1)
        optimizer.step()
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1 - lr * 0.1)

        # right
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1)
        optimizer.step()

    Reference: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
    """
    run = make()
    for number in range(STEPS):
        copied = _copied(innermost(run.optimizer))
        step = run.step([new_batch(subject, number)])
        gradients, update = the_update(run, step), step.updates[0]
        names = {id(parameter): name for name, parameter in run.model.named_parameters()}
        order = [names.get(id(parameter), "") for parameter in tensors_of(innermost(run.optimizer))]
        if "" in order or len(update.rates) != len(copied.param_groups):
            raise NotApplicable("one optimizer over the model's own parameters")
        twins = dict(zip(order, tensors_of(copied), strict=True))
        for group, options in zip(copied.param_groups, update.options, strict=True):
            group.update(options)  # a rate or a momentum that the step itself has set
        for name, twin in twins.items():
            twin.grad = gradients[name].to(twin.dtype) if name in gradients else None
        _stepped(copied)
        moved = {name: step.after[name].double() - step.before[name].double() for name in twins}
        due = {name: twin.detach().double() - step.before[name].double() for name, twin in twins.items()}
        error, name = mismatch(moved, due)
        rounded = _rounded(step, name) / max(float(due[name].norm()), 1e-300) if name else 0.0
        if not error <= ARITHMETIC + rounded:
            raise CheckFailed(
                f"{run.name}: step {number + 1} moves {name} by {float(moved[name].norm()):.6g} in all, the optimizer "
                f"alone, given the same gradient, by {float(due[name].norm()):.6g}: they differ by {error:.2g} of that"
            )


def check_overfit(subject: Subject) -> None:
    """A dozen updates on one batch lower its loss.

    Silent because a loss that hovers is read as a hard task or a bad learning rate; yet a model that cannot learn one
    batch by heart learns nothing.

    Look at the sign and size of updates, at what is detached, and at labels that change between calls.

    Example:
        # wrong: the gradient is cleared before the optimizer sees it
        loss.backward()
        optimizer.zero_grad()
        optimizer.step()

        # right
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    """
    run, batch = own_run(subject), new_batch(subject)
    before = _evaluated(subject, run, batch)
    for _ in range(DESCENTS):
        run.act([batch])
    after = _evaluated(subject, run, batch)
    allowed = tolerance(run.model) if tolerance(run.model) > SAME else 0.0  # half precision hides a small descent
    if not after < before * (1 + allowed):
        raise CheckFailed(f"{run.name}: {DESCENTS} updates on one batch took its loss from {before:.6g} to {after:.6g}")


@each_run
def check_mode(subject: Subject, make: Make) -> None:
    """While it trains, the model is in training mode, in every step.

    Silent because without dropout the loss even looks better.

    Look at `eval()` without `train()` after it: in validation, sampling, saving, or before the first step.

    Example:
        # wrong: from_pretrained() returns a model in eval mode, without dropout
        model = AutoModelForCausalLM.from_pretrained(name)
        for batch in loader:
            train_step(model, batch)

        # right
        model = AutoModelForCausalLM.from_pretrained(name).train()
        for batch in loader:
            train_step(model, batch)

    Reference: transformers documentation, PreTrainedModel.from_pretrained.
    """
    run = make()
    steps = [run.step([new_batch(subject, number)]) for number in range(STEPS)]
    modes = [call.training for step in steps for call in step.calls]
    if not all(modes):
        raise CheckFailed(
            f"{run.name}: {modes.count(False)} of {len(modes)} forward passes of {STEPS} steps ran in eval mode"
        )


def _evaluated(subject: Subject, run: Run, batch: Batch) -> float:
    mode = run.model.training
    with torch.no_grad(), seeded():
        value = float(loss_of(subject, run.model.eval(), batch))
    run.model.train(mode)
    return value


def _rounded(step: StepTrace, name: str) -> float:
    """What rounding alone may move a parameter by, in all."""
    after = step.after[name]
    return torch.finfo(after.dtype).eps * float(after.double().norm())


def _copied(optimizer: Any) -> Any:
    """The optimizer with weights and moments of its own; what it holds besides them is shared."""
    copied = copy.deepcopy(optimizer)
    copied.__dict__ = {**optimizer.__dict__, **copied.__dict__}  # torch copies what a state_dict holds, and no more
    return copied


def _stepped(optimizer: Any) -> None:
    """One step of a copy, past what a scheduler may have put in the method's place."""
    try:
        type(optimizer).step(optimizer)
    except Exception as error:
        raise NotApplicable(f"an optimizer of which a copy can step ({error})") from error


def _means(model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    """Adam's running means by parameter name."""
    states = {name: optimizer.state.get(p, {}) for name, p in trainable(model).items()}
    found = {name: state.get("exp_avg") for name, state in states.items()}
    return {name: mean.detach().clone() for name, mean in found.items() if type(mean) is Tensor}


def _is_below_rounding(steps: list[StepTrace], name: str) -> bool:
    """Whether the updates of a parameter are below what its dtype resolves (`optimizer.survival` judges those)."""
    tensor = steps[0].before[name]
    resolved = float(tensor.abs().min()) * torch.finfo(tensor.dtype).eps / 4
    found = [update for step in steps for update in step.updates if name in update.gradients]
    sizes = [update.size(name) for update in found if bool(update.gradients[name].any())]
    return bool(sizes) and 0 < max(sizes) < resolved


def _why_still(steps: list[StepTrace], name: str) -> str:
    updates = [update for step in steps for update in step.updates]
    if not updates:
        return "no update was made"
    found = [update.gradients[name] for update in updates if name in update.gradients]
    if not found:
        return "no gradient reached it, or the optimizer does not hold it"
    largest = max(float(gradient.abs().max()) for gradient in found)
    if largest == 0:
        return "its gradient is 0 everywhere"
    rates = max(rate for update in updates for rate in update.rates)
    return f"its gradient reached {largest:.2g} at rates up to {rates:.2g}"


CHECKS = (
    Check("updates.gradient", check_gradient, tier=2),
    Check("updates.fresh", check_fresh, tier=2),
    Check("updates.movement", check_movement, tier=2),
    Check("updates.single", check_single, tier=2),
    Check("updates.descent", check_descent, tier=2),
    Check("updates.frozen", check_frozen, tier=2),
    Check("updates.momentum", check_momentum, tier=2),
    Check("updates.arithmetic", check_arithmetic, tier=2),
    Check("updates.mode", check_mode, tier=2),
    Check("updates.logged_loss", check_logged_loss, tier=2),
    Check("updates.overfit", check_overfit, tier=2),
)
