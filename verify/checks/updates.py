"""What one step does to the weights: all that learn move, by the right gradient, once, and downhill."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.access.calls import new_batch, new_model, seeded
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual, listed
from andon.verify.observation.copies import (
    Copy,
    begins_equal,
    follows,
    is_far,
    kept_in,
    places_of,
    shares_of_the_way,
)
from andon.verify.observation.micro_batches import micro_batches
from andon.verify.observation.modes import differs_in_training, losses_by_mode
from andon.verify.observation.optimizers import innermost, mean_key
from andon.verify.observation.parameters import (
    State,
    fitted,
    gradients_times,
    mismatch,
    norm,
    parameters,
    sharing_memory,
    trainable,
)
from andon.verify.observation.reference_steps import SAME, expected, slopes, tolerance
from andon.verify.observation.row_weights import is_drawn
from andon.verify.observation.runs import Make, Run, as_scheduled, each_run, each_run_or_plain, own_run, the_update
from andon.verify.observation.shown_batches import batches_seen, data_rows
from andon.verify.observation.step_comparison import compare_gradient, compare_loss
from andon.verify.observation.step_trace import StepTrace
from andon.verify.observation.stillness import require_reason, require_still, still_ones
from andon.verify.observation.twins import shifts_by, twin_of
from andon.verify.subject import Batch, Subject

STEPS = 3  # within which all that learns has moved: the first rate may be 0, a fresh adapter moves one side at a time
DESCENTS = 12  # updates on one batch, after which its loss is lower at any sensible rate
ARITHMETIC = 1e-2  # of an update: what fused and looped kernels differ by
PATIENCE = 12  # steps, where something has not moved: an optimizer may begin late, a part be used by few batches
STEEP, BY_CHANCE = 0.7, 3.0  # cosines: of a climb for certain; and times that of two tensors by chance
DRAWS = 4  # of random numbers that a loss as it is trained is averaged over
FAINT, FAINT_IN_64 = 1e-4, 1e-10  # of the median matrix's gradient: what rounding may leave of one that is zero
TINY = 1e-4  # times a gradient: below any clip
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

    Yellow where a parameter gets no gradient though the loss depends on it, or none at all: it may be held on purpose.

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
    while (still := still_ones(learning, steps)) and len(steps) < PATIENCE:  # what is taken up late, or seldom
        steps.append(run.step([new_batch(subject, len(steps))]))
    if still and not (subject.mixture_of_experts and len(still) < len(learning)):
        require_reason(subject, run, steps, still, len(learning))
    require_still(run, steps, frozen - set(trainable(run.model)), learning)


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
    _train_without(subject, run, frozen, begun)
    ended = parameters(model)
    if not torch.equal(begun[frozen], ended[frozen]):
        moved = float((ended[frozen].double() - begun[frozen].double()).abs().max())
        raise CheckFailed(f"{run.name}: {frozen}, frozen before the optimizer was made, moved by {moved:.2g}")
    if _is_as_it_was(begun, model):
        if not learns:
            raise NotApplicable("a part that learns without any other")
        raise CheckFailed(f"{run.name}: with {frozen} frozen, none of the other {len(begun) - 1} parameters moved")


@each_run
def check_single(subject: Subject, make: Make) -> None:
    """One training step makes exactly one update of the weights, however many micro-batches it has.

    Players that learn in turn, each from gradients of its own, make one update each. Wrong is a count that grows with
    the micro-batches; as many updates for one as for two are unusual.

    Yellow where several updates are made whatever the number of micro-batches: a batch may be meant to be learned
    again and again.

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
    if max(counts) == 0 and _is_as_it_was(steps[0].before, run.model):
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
    if update.repeats:
        raise NotApplicable("an optimizer that moves once a step, by the gradient that it is given")
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
        if (
            not after or _means_hold_more(optimizer) or step.updates[0].sparse
        ):  # sparse: few rows are brought up to date
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

    Yellow alone, as a step may change weights itself, by clamping or normalizing them.

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
        twin = twin_of(innermost(run.optimizer))
        step = run.step([new_batch(subject, number)])
        the_update(run, step)
        update = step.updates[0]
        start = step.before | (update.moved if number == 0 else {})  # what a first pass has set, from its data
        due = shifts_by(twin, run, update, start)
        moved = {name: step.after[name].double() - start[name].double() for name in due}
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

    Yellow alone, as a loss may have a floor, or measure something else than how well a batch is learned.

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
    before = losses_by_mode(subject, run.model, batch, DRAWS)
    for number in range(DESCENTS):
        follow(number)
        run.act([batch])
    after = losses_by_mode(subject, run.model, batch, DRAWS)
    allowed = tolerance(run.model) if tolerance(run.model) > SAME else 0.0  # half precision hides a small descent
    if not any(new < old + allowed * abs(old) for new, old in zip(after, before, strict=True)):
        raise Unusual(
            f"{run.name}: {DESCENTS} updates on one batch took its loss from {before[0]:.6g} to {after[0]:.6g}; right "
            "where the loss has a floor that it began near, or measures something else than how well a batch is learned"
        )


@each_run
def check_averages(subject: Subject, make: Make) -> None:
    """A copy of the weights that an average is kept in ends each step between where it was and where the weights are.

    A copy is what begins bit by bit equal to a parameter that learns, in the model, frozen, or among what a loop keeps;
    or what moves along the line to one. Wrong is one that moves away; one that runs ahead of the weights is unusual.

    Silent because the run itself is right: only what is saved and evaluated is not.

    Look at the sign and at which of the two is multiplied by the decay.

    Example:
        # wrong: pushes the average away from the weights
        for slow, fast in zip(average.parameters(), model.parameters()):
            slow.add_((1 - decay) * (slow - fast))

        # right
        for slow, fast in zip(average.parameters(), model.parameters()):
            slow.sub_((1 - decay) * (slow - fast))

    Reference: ostris/ai-toolkit#1034.
    """
    run = make()
    learning, seen = set(trainable(run.model)), False
    equal = {name for name, tensor in kept_in(run).items() if begins_equal(tensor, run.model, learning)}
    for number in range(STEPS):
        before = {name: tensor.detach().clone() for name, tensor in kept_in(run).items()}
        step = run.step([new_batch(subject, number)])
        for name, tensor in kept_in(run).items():
            if name in before and tensor.shape == before[name].shape and not torch.equal(tensor, before[name]):
                copied = Copy(name, before[name], tensor.detach())
                seen |= _is_average(run, step, copied, learning, is_copy=name in equal)
    if not seen:
        raise NotApplicable("a copy of the weights, in the model or in what the loop keeps, that follows them")


@each_run
def check_rows(subject: Subject, make: Make) -> None:
    """The micro-batches of one step are different ones.

    Asked of a loop whose model draws no random numbers, so that a batch seen twice says nothing new.

    Silent because the loss is that of a smaller batch, and falls.

    Look at where the next batch is taken: inside the loop over micro-batches, from one iterator.

    Yellow alone, as a loss may compare two passes of one batch.

    Example:
        # wrong: begins anew for each micro-batch, and takes the first again
        for _ in range(accumulation_steps):
            batch = next(iter(loader))
            (model(**batch).loss / accumulation_steps).backward()

        # right
        batches = iter(loader)
        for _ in range(accumulation_steps):
            batch = next(batches)
            (model(**batch).loss / accumulation_steps).backward()
    """
    run = make()
    if run.loop is None:
        raise NotApplicable("loop")
    repeated = []
    for _ in range(STEPS):
        step = run.step()
        if len(step.calls) < 2 or any(update.elsewhere for update in step.updates):
            raise NotApplicable("a loop whose steps have several micro-batches of token ids")
        rows = [tuple(data_rows(subject, step._replace(calls=(call,)))) for call in step.calls]
        repeated.append(len(rows) - len(set(rows)))
    if not all(repeated):
        return
    if is_drawn(subject, run.model, new_batch(subject)):
        raise NotApplicable("a model without dropout, to which a batch seen twice is the same")
    raise Unusual(
        f"{run.name}: of the micro-batches of {STEPS} steps {repeated} are another one of the same step again; right "
        "where the loss compares two passes of one batch"
    )


def check_signal(subject: Subject) -> None:
    """Each matrix gets a gradient that is more than rounding, beside those of the other matrices.

    Silent because Adam makes steps of one size of any gradient: what is moved by rounding looks as if it learned.

    Look at weights that are divided by their own sum, or anything else that the loss does not change with.

    Yellow alone, as nothing may be meant to be learned there.

    Example:
        # wrong: with one expert a token, its weight is always 1, and the router gets no gradient
        weight, chosen = router(x).softmax(-1).topk(1, dim=-1)
        weight = weight / weight.sum(-1, keepdim=True)

        # right
        weight, chosen = router(x).softmax(-1).topk(1, dim=-1)

    Reference: jingyaogong/minimind#858.
    """
    found = _sizes(subject, new_model(subject).train())
    if not any(found[name] > 0 for name in _below(found, FAINT)):
        return
    precise = _sizes(subject, new_model(subject).double().train())
    faint = [name for name in _below(found, FAINT) if found[name] > 0 and name in _below(precise, FAINT_IN_64)]
    if faint:
        raise Unusual(
            f"the gradient of {listed(faint)} is {found[faint[0]]:.2g} at an entry, and {_median(found):.2g} in the "
            "median matrix: it is of rounding alone; right where nothing is to be learned there"
        )


@each_run
def check_mode(subject: Subject, make: Make) -> None:
    """While it trains, the model is in training mode, in every step.

    Asked where the loss is another one in eval mode.

    Yellow alone, as norms may be held on purpose.

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
    if not all(modes) and differs_in_training(subject, run.model, new_batch(subject)):
        raise Unusual(
            f"{run.name}: {modes.count(False)} of {len(modes)} forward passes of {STEPS} steps ran in eval mode, and "
            "this model has another loss there; right where it is meant to learn without dropout"
        )


def _train_without(subject: Subject, run: Run, frozen: str, begun: State) -> None:
    """A few steps with a parameter frozen; more where nothing moves yet.

    Raises:
        NotApplicable: the step cannot do so.
    """
    try:
        for number in range(PATIENCE):
            if number < STEPS or _is_as_it_was(begun, run.model):
                run.act([new_batch(subject, number)])
    except Exception as error:
        raise NotApplicable(f"a step that can train with {frozen} frozen ({error})") from error
    if run.model.get_parameter(frozen).requires_grad:
        raise NotApplicable("a step that leaves frozen what is frozen")


def _is_as_it_was(begun: State, model: nn.Module) -> bool:
    return all(torch.equal(begun[name], parameter) for name, parameter in model.named_parameters())


def _rounded(step: StepTrace, name: str) -> float:
    """What rounding alone may move a parameter by, in all."""
    after = step.after[name]
    return torch.finfo(after.dtype).eps * float(after.double().norm())


def _means_hold_more(optimizer: Any) -> bool:
    """Whether the running means may hold weight decay beside gradients, as Adam's do and AdamW's do not."""
    mixed_in = any(group.get("weight_decay") for group in optimizer.param_groups)
    return mixed_in and not type(optimizer).__name__.lower().endswith("w")


def _means(model: nn.Module, optimizer: Any, key: str) -> dict[str, Tensor]:
    """Adam's running means by parameter name."""
    states = {name: optimizer.state.get(p, {}) for name, p in trainable(model).items()}
    found = {name: state.get(key) for name, state in states.items()}
    return {name: mean.detach().clone() for name, mean in found.items() if type(mean) is Tensor}


def _is_average(run: Run, step: StepTrace, copied: Copy, learning: set[str], *, is_copy: bool) -> bool:
    """Whether a tensor that moved follows what learns.

    Raises:
        CheckFailed: it moves away from what it began as a copy of, or along the line to it, in the wrong direction.
    """
    name, before, after = copied
    if follows(before, after, places_of(step, learning)):
        return True
    shares = shares_of_the_way(copied, step, learning)
    if shares and min(shares) < 0:
        raise CheckFailed(
            f"{run.name}: {name} moves away from the weights that learn, by {-min(shares):.3g} of its distance"
        )
    if shares or is_copy:
        light = CheckFailed if is_far(copied, step, learning) else Unusual
        raise light(
            f"{run.name}: {name}, a copy of weights that learn, ends neither where it was nor where they are, nor "
            f"between: its entries are {float(after.double().norm() / before.double().norm()):.3g} times as large; "
            "right where it is meant to run ahead"
        )
    return False


def _sizes(subject: Subject, model: nn.Module) -> dict[str, float]:
    """The rms of each matrix's gradient, the largest over some batches."""
    seen = [slopes(subject, model, new_batch(subject, number)) for number in range(STEPS)]
    return {
        name: max(float(each[name].double().square().mean().sqrt()) for each in seen if name in each)
        for name in sorted({name for each in seen for name, slope in each.items() if min(slope.shape, default=1) > 1})
        if name in trainable(model) and trainable(model)[name].dim() > 1
    }


def _below(sizes: dict[str, float], share: float) -> list[str]:
    """The matrices whose gradient is this small beside the others'."""
    return [name for name, size in sizes.items() if size < share * _median(sizes)]


def _median(sizes: dict[str, float]) -> float:
    return sorted(sizes.values())[len(sizes) // 2]


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


CHECKS = (
    Check("updates.gradient", check_gradient, tier=2),
    Check("updates.fresh", check_fresh, tier=2),
    Check("updates.movement", check_movement, tier=2),
    Check("updates.single", check_single, tier=2),
    Check("updates.descent", check_descent, tier=2),
    Check("updates.frozen", check_frozen, tier=2),
    Check("updates.momentum", check_momentum, tier=2),
    Check("updates.arithmetic", check_arithmetic, tier=2),
    Check("updates.averages", check_averages, tier=2),
    Check("updates.rows", check_rows, ("loop",), tier=2),
    Check("updates.signal", check_signal, tier=2),
    Check("updates.mode", check_mode, tier=2),
    Check("updates.logged_loss", check_logged_loss, tier=2),
    Check("updates.overfit", check_overfit, tier=2),
)
