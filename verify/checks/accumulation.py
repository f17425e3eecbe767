"""Accumulation: however a batch is cut into micro-batches, one update is the same.

Premises, each measured: the loss is a mean whose parts make the whole (`row_weights`), with the weights it is found to
have; the gradient is taken at the weights that the step found, not at others on its way (`_step`); where there are no
tokens, the update of one batch is the gradient of its loss.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from andon.verify.access.calls import new_batch, new_model
from andon.verify.access.larger_weights import sharpened
from andon.verify.access.targets import tokens_of
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.observation.micro_batches import counted, micro_batches, single_rows, weight_of
from andon.verify.observation.parameters import buffers_of, gradients_times, mismatch, norm, put_back
from andon.verify.observation.reference_steps import SAME, expected, tolerance
from andon.verify.observation.row_weights import is_drawn, shares_of
from andon.verify.observation.runs import Run, step_run
from andon.verify.observation.step_comparison import compare_gradient, compare_loss, gradient_error, require_alike
from andon.verify.observation.step_trace import StepTrace
from andon.verify.subject import Batch, Subject

PARTS = 4
MANY = 64  # enough for half-precision sums to lose what a part adds
EXCESS = 50.0  # of a gradient over the threshold


def check_gradient(subject: Subject) -> None:
    """Several micro-batches give the gradient of one batch with all their rows: each label weighs the same.

    Silent because each micro-batch's mean is a plausible loss: short micro-batches merely weigh too much, or the
    whole gradient is as many times too large as there are micro-batches.

    Look at what each loss is divided by: it should be the labels of the whole step that are not ignored, neither the
    micro-batch's own tokens nor the number of micro-batches.

    Example:
        # wrong: each micro-batch is averaged over its own tokens, so tokens of short ones weigh more
        for batch in micro_batches:
            logits = model(batch["input_ids"])
            loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
            (loss / len(micro_batches)).backward()

        # right: divided by the labels of the whole step that are not ignored
        total = sum((batch["labels"] != -100).sum() for batch in micro_batches)
        for batch in micro_batches:
            logits = model(batch["input_ids"])
            loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum")
            (loss / total).backward()

    Reference: huggingface/transformers#34191.
    """
    run, parts = step_run(subject), _parts(subject)
    step = _step(run, parts.batches)
    _hold(parts, lambda shares: compare_gradient(subject, run, step, parts.batches, "the update", shares))


def check_clipped(subject: Subject) -> None:
    """A large accumulated gradient is clipped once, after all micro-batches have been added.

    Silent because gradients that were clipped one by one add up to something of the right size that points
    elsewhere.

    Look at clipping inside the loop over micro-batches, and at clipping before the division by tokens.

    Example:
        # wrong: clips what has been added so far after every micro-batch
        for batch in micro_batches:
            (summed_loss(model, batch) / total_tokens).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        # right
        for batch in micro_batches:
            (summed_loss(model, batch) / total_tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    Reference: huggingface/accelerate#641.
    """
    if not subject.hyperparameters.get("grad_clip"):
        raise NotApplicable("hyperparameters['grad_clip']")
    run, parts = step_run(subject), _parts(subject)
    batches = parts.batches
    whole = expected(subject, run.model, _step(run, batches), batches, parts.shares)[1]
    factor = EXCESS * subject.hyperparameters["grad_clip"] / norm(whole)
    run = step_run(subject)
    with gradients_times(run.model, factor):
        step = _step(run, batches)
        _hold(parts, lambda shares: compare_gradient(subject, run, step, batches, "the clipped update", shares))


def check_many(subject: Subject) -> None:
    """The gradient of 64 micro-batches of one row each is as exact as accumulation in float32 makes it.

    Silent because what a half-precision sum drops is small: each further gradient may be below half a unit of the
    sum's last digit.

    Look at the dtype in which gradients are accumulated and reduced.

    Example:
        # wrong: gradients add up in .grad, which has the model's dtype, bfloat16
        model = model.bfloat16()
        for batch in micro_batches:
            (summed_loss(model, batch) / total_tokens).backward()

        # right: float32 weights keep .grad in float32
        model = model.float()
        for batch in micro_batches:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = summed_loss(model, batch) / total_tokens
            loss.backward()

    Reference: huggingface/trl#2175.
    """
    run, batches = step_run(subject), single_rows(subject, MANY)
    require_alike(subject, batches)
    shares = _shares(subject, batches)
    first = _step(run, batches[:1])
    single = gradient_error(subject, run, first, batches[:1])
    step = _step(run, batches)
    many = gradient_error(subject, run, step, batches, shares)
    allowed = max(SAME, 2 * single.error)
    if tolerance(run.model, first) > SAME:  # half precision rounds a loss's gradient otherwise than that of its share
        scaled = gradient_error(subject, run, step, batches, shares, scaled=True)
        many = min(many, scaled, key=lambda found: found.error)
        allowed = max(allowed, _rounding(subject, run, step, batches, shares))
    if not many.error <= allowed:
        raise CheckFailed(
            f"{run.name}: the update of {len(batches)} micro-batches of one row sees a gradient of {many.name} that "
            f"differs by {many.error:.2g} of itself from theirs; that of one row differs by {single.error:.2g}, and "
            f"rounding in float32 explains {allowed:.0e}"
        )


def check_reported_loss(subject: Subject) -> None:
    """The loss reported for a step of several micro-batches is the mean over all their labels, but for ignored ones.

    Silent because the curve still falls: a mean of means, a sum, or the last micro-batch's loss looks like a loss.

    Look at what is summed, detached and divided for the log.

    Example:
        # wrong: logs the last micro-batch's share alone
        for batch in micro_batches:
            loss = summed_loss(model, batch) / total_tokens
            loss.backward()
        wandb.log({"loss": loss.item()})

        # right
        step_loss = 0.0
        for batch in micro_batches:
            loss = summed_loss(model, batch) / total_tokens
            loss.backward()
            step_loss += loss.item()
        wandb.log({"loss": step_loss})
    """
    run, parts = step_run(subject), _parts(subject)
    sharpened(run.model)
    step = _step(run, parts.batches)
    if "loss" not in step.logged:
        raise NotApplicable("loss among what the step reports")
    _hold(parts, lambda shares: compare_loss(subject, run, step, parts.batches, shares))


def check_tokens(subject: Subject) -> None:
    """A step reports the tokens of all its micro-batches: as many as for them one by one, whatever it counts.

    Silent because throughput and token budgets are taken on trust, and the batch size in use is not the one
    intended.

    Look at which micro-batches are counted, and whether padding is.

    Example:
        # wrong: counts the last micro-batch only
        for batch in micro_batches:
            (summed_loss(model, batch) / total_tokens).backward()
        wandb.log({"tokens": batch["input_ids"].numel()})

        # right
        for batch in micro_batches:
            (summed_loss(model, batch) / total_tokens).backward()
        wandb.log({"tokens": sum(batch["input_ids"].numel() for batch in micro_batches)})
    """
    run, batches = step_run(subject), _parts(subject).batches
    reported = run.step(batches).logged.get("tokens")
    if reported is None:
        raise NotApplicable("tokens among what the step reports")
    alone = [step_run(subject).step([batch]).logged.get("tokens", 0) for batch in batches]
    due, most = sum(map(int, alone)), sum(tokens_of(subject, batch).numel() for batch in batches)
    if int(reported) > most + len(batches) * len(tokens_of(subject, batches[0])):  # one more a row: before its shift
        raise CheckFailed(f"{run.name} reports {int(reported)} tokens for micro-batches that hold {most}")
    if int(reported) != due:
        raise CheckFailed(
            f"{run.name} reports {int(reported)} tokens for {len(batches)} micro-batches, and {due} for them one by one"
        )


class _Parts(NamedTuple):
    batches: list[Batch]
    shares: Sequence[float]  # of each in the loss of all
    by_labels: bool  # which are those of their counted labels


def _parts(subject: Subject) -> _Parts:
    batches = _readable(subject)
    require_alike(subject, batches)
    shares = _shares(subject, batches)
    return _Parts(batches, shares, _are_of_labels(subject, batches, shares))


def _are_of_labels(subject: Subject, batches: list[Batch], shares: Sequence[float]) -> bool:
    try:
        weights = [weight_of(subject, batch) for batch in batches]
    except NotApplicable:
        return False
    return all(abs(weight / sum(weights) - share) < SAME for weight, share in zip(weights, shares, strict=True))


def _hold(parts: _Parts, compare: Callable[[Sequence[float]], None]) -> None:
    """Compare by the shares of the loss of all rows; yellow where a loss of no labels is averaged over micro-batches.

    So do reinforcement learning and rewards by habit, whose loss has no one count: their authors can say.
    """
    try:
        compare(parts.shares)
    except CheckFailed as wrong:
        if parts.by_labels:
            raise
        try:
            compare([1 / len(parts.batches)] * len(parts.batches))
        except CheckFailed:
            raise wrong from None
        raise Unusual(
            f"{wrong}. It is the mean over micro-batches, each counting alike, and not that over all their rows: right "
            f"only where the loss is meant so"
        ) from wrong


def _readable(subject: Subject) -> list[Batch]:
    """Micro-batches with unequal labels; the subject's own where those could not be read again, or are balanced."""
    try:
        batches = [] if subject.mixture_of_experts else micro_batches(subject, PARTS)
        if batches and all(counted(subject, batch) for batch in batches):
            return batches
    except NotApplicable:
        pass
    batches = [new_batch(subject, seed) for seed in range(PARTS)]
    try:
        counted(subject, batches[0])
    except NotApplicable:
        _require_plain(subject, batches[0])
    return batches


def _shares(subject: Subject, batches: list[Batch]) -> Sequence[float]:
    """As the loss weighs them; a mixture's batches are of one size, and each is balanced by itself."""
    if subject.mixture_of_experts:
        return [1 / len(batches)] * len(batches)
    return shares_of(subject, batches, [new_batch(subject, seed) for seed in range(PARTS)])


def _require_plain(subject: Subject, batch: Batch) -> None:
    """Without labels of tokens: one batch's update has to be the gradient of its loss, and that no draw."""
    if is_drawn(subject, new_model(subject).train(), batch):
        raise NotApplicable("a loss without random numbers, or labels of tokens")
    run = step_run(subject)
    step = _step(run, [batch])
    if gradient_error(subject, run, step, [batch], [1.0]).error > tolerance(run.model, step):
        raise NotApplicable("a train_step whose update for one batch is the gradient of Subject.loss")


def _step(run: Run, batches: list[Batch]) -> StepTrace:
    """One step, at whose end the model's buffers are what the step found, as the weights are in comparisons.

    Raises:
        NotApplicable: a pass runs at other weights than the step found (sharpness-aware, extragradient).
    """
    buffers = buffers_of(run.model)
    step = run.step(batches)
    put_back(run.model, buffers)
    if any(update.elsewhere for update in step.updates):
        raise NotApplicable("a train_step whose passes all run at the weights that it found")
    return step


def _rounding(subject: Subject, run: Run, step: StepTrace, batches: list[Batch], shares: Sequence[float]) -> float:
    """How far two correct ways to the same gradient are apart: the share taken before the backward pass, or after."""
    plain, scaled = (expected(subject, run.model, step, batches, shares, scaled=each)[1] for each in (False, True))
    return mismatch(scaled, plain)[0]


CHECKS = (
    Check("accumulation.gradient", check_gradient, ("train_step",), tier=2),
    Check("accumulation.clipped", check_clipped, ("train_step",), tier=2),
    Check("accumulation.reported_loss", check_reported_loss, ("train_step",), tier=2),
    Check("accumulation.tokens", check_tokens, ("train_step",), tier=2),
    Check("accumulation.many", check_many, ("train_step",), tier=3),
)
