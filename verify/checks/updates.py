"""What one step does to the weights: all that learn move, by the right gradient, once, and downhill."""

import copy
import itertools
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.access.calls import loss_of, new_batch, new_model, seeded
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual, listed
from andon.verify.observation.copies import follows, places_of
from andon.verify.observation.optimizers import innermost, mean_key, tensors_of
from andon.verify.observation.parameters import (
    buffers_of,
    fitted,
    gradients_times,
    mismatch,
    norm,
    parameters,
    put_back,
    sharing_memory,
    trainable,
)
from andon.verify.observation.runs import (
    SAME,
    Make,
    Run,
    as_scheduled,
    batches_seen,
    depends,
    each_run,
    each_run_or_plain,
    expected,
    micro_batches,
    own_run,
    slopes,
    the_update,
    tolerance,
)
from andon.verify.observation.step_comparison import compare_gradient, compare_loss
from andon.verify.observation.step_trace import StepTrace
from andon.verify.subject import Batch, Subject

STEPS = 3  # within which all that learns has moved: the first rate may be 0, a fresh adapter moves one side at a time
DESCENTS = 12  # updates on one batch, after which its loss is lower at any sensible rate
ARITHMETIC = 1e-2  # of an update: what fused and looped kernels differ by
PATIENCE = 12  # steps, where something has not moved: an optimizer may begin late, a part be used by few batches
STEEP, BY_CHANCE = 0.7, 3.0  # cosines: of a climb for certain; and times that of two tensors by chance
DRAWS = 4  # of random numbers that a loss as it is trained is averaged over
TINY = 1e-4  # times a gradient: below any clip
NOTHING = torch.zeros(())
NOISE = 1e-4  # a tensor with less than this share of the gradient's rms has one of rounding alone


@each_run_or_plain
def check_movement(subject: Subject, make: Make) -> None:
    """Within a few steps every trainable parameter changes, and every frozen one stays as it was, bit by bit.

    Wrong is a parameter that has a gradient and stays, and a frozen one that its own optimizer moves. Unusual is a
    parameter to which the loss gives no gradient at all, and a frozen one that something else moves. One whose gradient
    is zero, as the loss is the same wherever it stands, has nothing to learn; a frozen one that ends between where it
    was and where a parameter that learns is, follows it, as averages and target networks do.

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
    learning, frozen = set(trainable(run.model)), {n for n, p in run.model.named_parameters() if not p.requires_grad}
    steps = [run.step([new_batch(subject, number)]) for number in range(STEPS)]
    while (still := _still(learning, steps)) and len(steps) < PATIENCE:  # what is taken up late, or seldom
        steps.append(run.step([new_batch(subject, len(steps))]))
    if still and not (subject.mixture_of_experts and len(still) < len(learning)):
        _require_reason(subject, run, steps, still, len(learning))
    _require_still(run, steps, frozen - set(trainable(run.model)), learning)


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
    shared = sharing_memory(model)
    names = [name for name, p in trainable(model).items() if p.dim() > 1 and name not in shared]
    if len(names) < 2:
        raise NotApplicable("two trainable matrices")
    frozen = names[len(names) // 2]
    model.get_parameter(frozen).requires_grad_(False)
    run = own_run(subject, model)
    begun = parameters(model)
    learns = any(bool(slope.any()) for slope in slopes(subject, model, new_batch(subject)).values())
    try:
        for number in range(PATIENCE):
            if number < STEPS or all(torch.equal(begun[name], p) for name, p in model.named_parameters()):
                run.act([new_batch(subject, number)])
    except Exception as error:
        raise NotApplicable(f"a step that can train with {frozen} frozen ({error})") from error
    if model.get_parameter(frozen).requires_grad:
        raise NotApplicable("a step that leaves frozen what is frozen")
    ended = parameters(model)
    if not torch.equal(begun[frozen], ended[frozen]):
        moved = float((ended[frozen].double() - begun[frozen].double()).abs().max())
        raise CheckFailed(f"{run.name}: {frozen}, frozen before the optimizer was made, moved by {moved:.2g}")
    if all(torch.equal(begun[name], ended[name]) for name in begun):
        if not learns:
            raise NotApplicable("a part that learns without any other")
        raise CheckFailed(f"{run.name}: with {frozen} frozen, none of the other {len(begun) - 1} parameters moved")


@each_run
def check_single(subject: Subject, make: Make) -> None:
    """One training step makes exactly one update of the weights, however many micro-batches it has.

    Players that learn in turn, each from gradients of its own, make one update each. Wrong is a count that grows with
    the micro-batches; as many updates for one as for two are unusual.

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
    if max(counts) == 0 and not moved:
        raise CheckFailed(f"{run.name}: {STEPS} steps updated the weights {counts} times, and once each was due")
    if max(counts) <= 1 or all(_in_turn(step) for step in steps):
        return
    of_one = counts if run.loop is not None else [len(run.step([new_batch(subject)]).updates)]
    light = CheckFailed if run.loop is not None or max(of_one) < max(counts) else Unusual
    raise light(
        f"{run.name}: {STEPS} steps of 2 micro-batches updated the weights {counts} times, and once each was due; one "
        f"of a single micro-batch, {max(of_one)} times. Several updates of one step are right where a batch is meant "
        "to be learned from again and again"
    )


@each_run
def check_gradient(subject: Subject, make: Make) -> None:
    """The first update sees the gradient of its batch's loss, as autograd computes it independently, or that clipped.

    Where no `grad_clip` is said, a clip is told from a lost factor by a second step with gradients far smaller: a clip
    has one norm, and leaves those as they are.

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
    step = run.step(batches)
    compare_gradient(subject, run, step, batches, "the first update")
    if "grad_clip" not in subject.hyperparameters:
        _require_size(subject, make, run, step, batches)


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
    groups = {*zip(update.rates, update.decays, strict=True), (0.0, 0.0)}
    start = step.before | update.moved
    for name, gradient in gradients.items():
        before, gradient_64 = start[name].double(), gradient.double()
        shift = step.after[name].double() - before
        if not bool(shift.any()) or float(gradient_64.square().mean().sqrt()) < NOISE * rms:
            continue
        ways = [(gradient_64, shift + rate * decay * before) for rate, decay in groups]
        ways += [(gradient_64 + decay * before, shift) for _, decay in groups]  # as in Adam's L2
        cosine = min(float((one * two).sum() / (one.norm() * two.norm()).clamp(min=1e-300)) for one, two in ways)
        if cosine > min(STEEP, BY_CHANCE / gradient.numel() ** 0.5):
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
    run, key = make(), ""
    before: dict[str, Tensor] = {}
    for number in range(STEPS):
        step = run.step([new_batch(subject, number)])
        optimizer = innermost(run.optimizer if run.loop is None else run.loop.optimizer)
        gradients = the_update(run, step)
        key = mean_key(optimizer, run.model, gradients) if number == 0 else key
        after = _means(run.model, optimizer, key)
        mixed_in = any(group.get("weight_decay") for group in optimizer.param_groups)
        decoupled = type(optimizer).__name__.lower().endswith("w")
        lazy = step.updates[0].sparse  # only the rows that were looked up are brought up to date
        if not after or lazy or (mixed_in and not decoupled):
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
        start = step.before | (update.moved if number == 0 else {})  # what a first pass has set, from its data
        names = {id(parameter): name for name, parameter in run.model.named_parameters()}
        order = [names.get(id(parameter), "") for parameter in tensors_of(innermost(run.optimizer))]
        if "" in order or len(update.rates) != len(copied.param_groups):
            raise NotApplicable("one optimizer over the model's own parameters")
        twins = dict(zip(order, tensors_of(copied), strict=True))
        for group, options in zip(copied.param_groups, update.options, strict=True):
            group.update(options)  # a rate or a momentum that the step itself has set
        for name, twin in twins.items():
            twin.data.copy_(start[name])
            twin.grad = gradients[name].to(twin.dtype) if name in gradients else None
        _stepped(copied)
        moved = {name: step.after[name].double() - start[name].double() for name in twins}
        due = {name: twin.detach().double() - start[name].double() for name, twin in twins.items()}
        error, name = mismatch(moved, due)
        rounded = _rounded(step, name) / max(float(due[name].norm()), 1e-300) if name else 0.0
        if not error <= ARITHMETIC + rounded:
            raise Unusual(
                f"{run.name}: step {number + 1} moves {name} by {float(moved[name].norm()):.6g} in all, the optimizer "
                f"alone, given the same gradient, by {float(due[name].norm()):.6g}: they differ by {error:.2g} of it; "
                "right where the step is meant to change the weights itself, as by clamping or normalizing them"
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
    follow = as_scheduled(subject, run.optimizer)
    before = _evaluated(subject, run, batch)
    for number in range(DESCENTS):
        follow(number)
        run.act([batch])
    after = _evaluated(subject, run, batch)
    allowed = tolerance(run.model) if tolerance(run.model) > SAME else 0.0  # half precision hides a small descent
    if not any(new < old + allowed * abs(old) for new, old in zip(after, before, strict=True)):
        raise Unusual(
            f"{run.name}: {DESCENTS} updates on one batch took its loss from {before[0]:.6g} to {after[0]:.6g}; right "
            "where the loss has a floor that it began near, or measures something else than how well a batch is learned"
        )


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


def _evaluated(subject: Subject, run: Run, batch: Batch) -> list[float]:
    """The loss in eval mode, and as it is trained: the mean over some draws of its random numbers."""
    mode, held, values = run.model.training, buffers_of(run.model), []
    for training, draws in ((False, 1), (True, DRAWS)):
        run.model.train(training)
        losses = []
        for seed in range(draws):
            with seeded(seed):
                losses.append(float(loss_of(subject, run.model, batch).detach()))
        values.append(sum(losses) / draws)
    run.model.train(mode)
    put_back(run.model, held)
    return values


def _rounded(step: StepTrace, name: str) -> float:
    """What rounding alone may move a parameter by, in all."""
    after = step.after[name]
    return torch.finfo(after.dtype).eps * float(after.double().norm())


def _copied(optimizer: Any) -> Any:
    """The optimizer with weights and moments of its own; what it holds besides them is shared."""
    lack = NotApplicable("an optimizer that can be copied")
    if isinstance(optimizer, torch.optim.Optimizer) and not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise lack  # one that torch's own constructor never saw; copying it would leave its class's `step` unfit
    try:
        copied = copy.deepcopy(optimizer)
    except Exception as error:
        raise lack from error
    copied.__dict__ = {**optimizer.__dict__, **copied.__dict__}  # torch copies what a state_dict holds, and no more
    return copied


def _stepped(optimizer: Any) -> None:
    """One step of a copy, past what a scheduler may have put in the method's place."""
    try:
        type(optimizer).step(optimizer)
    except Exception as error:
        raise NotApplicable(f"an optimizer of which a copy can step ({error})") from error


def _means(model: nn.Module, optimizer: Any, key: str) -> dict[str, Tensor]:
    """Adam's running means by parameter name."""
    states = {name: optimizer.state.get(p, {}) for name, p in trainable(model).items()}
    found = {name: state.get(key) for name, state in states.items()}
    return {name: mean.detach().clone() for name, mean in found.items() if type(mean) is Tensor}


def _is_below_rounding(steps: list[StepTrace], name: str) -> bool:
    """Whether the updates of a parameter are below what its dtype resolves (`optimizer.survival` judges those)."""
    tensor = steps[0].before[name]
    resolved = float(tensor.abs().min()) * torch.finfo(tensor.dtype).eps / 4
    found = [update for step in steps for update in step.updates if name in update.gradients]
    sizes = [update.size(name) for update in found if bool(update.gradients[name].any())]
    return bool(sizes) and 0 < max(sizes) < resolved


def _still(learning: set[str], steps: list[StepTrace]) -> list[str]:
    """What has not moved so far, although it might have."""
    first, last = steps[0].before, steps[-1].after
    same = sorted(name for name in learning if torch.equal(first[name], last[name]))
    return [name for name in same if not _is_below_rounding(steps, name)]


def _require_reason(subject: Subject, run: Run, steps: list[StepTrace], still: list[str], count: int) -> None:
    """Fail where what has not moved has a gradient, or none can reach it."""
    found = slopes(subject, run.model, new_batch(subject))
    seen = [name for name in still if _largest(steps, name) or bool(found.get(name, NOTHING).any())]
    said = f"{run.name}: {{}} of {count} trainable parameters did not change in {len(steps)} steps: "
    if seen or len(still) == count:
        wrong = seen or still
        raise CheckFailed(said.format(len(wrong)) + f"{listed(wrong)} ({_why_still(steps, wrong[0])})")
    # a zero is right where the loss is the same wherever the parameter stands, as that of pairs is for a last bias
    cut = [name for name in still if name not in found or depends(subject, run.model, name, new_batch(subject))]
    if cut:
        raise Unusual(
            said.format(len(cut)) + f"{listed(cut)} ({_why_still(steps, cut[0])}); right where it is not meant to "
            "learn: then say so by requires_grad_(False)"
        )


def _require_still(run: Run, steps: list[StepTrace], frozen: set[str], learning: set[str]) -> None:
    """Fail where a frozen parameter has moved, other than after one that learns."""
    drifted = [name for name in sorted(frozen) if any(_drifts(step, name, learning) for step in steps)]
    if not drifted:
        return
    held = {id(tensor) for tensor in tensors_of(innermost(run.optimizer))}
    own = [name for name in drifted if id(run.model.get_parameter(name)) in held]
    light, wrong = (CheckFailed, own) if own else (Unusual, drifted)
    by = "the optimizer holds them" if own else "nothing that learns is where they went"
    raise light(
        f"{run.name}: {len(wrong)} of {len(frozen)} frozen parameters changed in {len(steps)} steps: {listed(wrong)}; "
        f"{by}"
    )


def _drifts(step: StepTrace, name: str, learning: set[str]) -> bool:
    before, after = step.before[name], step.after[name]
    return not torch.equal(before, after) and not follows(before, after, places_of(step, learning))


def _in_turn(step: StepTrace) -> bool:
    """Whether each update of a step has gradients of parameters that no other has: players in turn, as of a GAN."""
    groups = [{name for name, gradient in each.gradients.items() if bool(gradient.any())} for each in step.updates]
    return all(not one & other for one, other in itertools.combinations(groups, 2))


def _require_size(subject: Subject, make: Make, run: Run, step: StepTrace, batches: list[Batch]) -> None:
    """Fail where a gradient reaches the update smaller than it is, however small it is."""
    if any(tensor.dtype == torch.float16 for tensor in step.before.values()):
        return
    batches = batches if run.loop is None else batches_seen(subject, step)
    whole, allowed = expected(subject, run.model, step, batches)[1], tolerance(run.model, step)
    if not fitted(the_update(run, step), whole) < 1 - allowed:
        return
    with seeded():
        again = make()
        with gradients_times(again.model, TINY):
            small = again.step([new_batch(subject)])
    own = batches if again.loop is None else batches_seen(subject, small)
    factor = fitted(the_update(again, small), expected(subject, again.model, small, own)[1]) / TINY
    if factor < 1 - allowed:
        raise CheckFailed(
            f"{run.name}: the first update sees {factor:.4g} of the gradient of its batches' loss, and no more of one "
            f"{TINY:.0e} times as large: that is no clip, which leaves small ones as they are"
        )


def _largest(steps: list[StepTrace], name: str) -> float:
    found = [update.gradients[name] for step in steps for update in step.updates if name in update.gradients]
    return max((float(gradient.abs().max()) for gradient in found), default=0.0)


def _why_still(steps: list[StepTrace], name: str) -> str:
    updates = [update for step in steps for update in step.updates]
    if not updates:
        return "no update was made"
    if not any(name in update.gradients for update in updates):
        return "no gradient reached it, or the optimizer does not hold it"
    if _largest(steps, name) == 0:
        return "its gradient is 0 everywhere"
    rates = max(rate for update in updates for rate in update.rates)
    return f"its gradient reached {_largest(steps, name):.2g} at rates up to {rates:.2g}"


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
