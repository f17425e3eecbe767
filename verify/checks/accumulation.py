"""Accumulation: however a batch is cut into micro-batches, one update is the same."""

from andon.verify.access.targets import tokens_of
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable
from andon.verify.observation.parameters import gradients_times, norm
from andon.verify.observation.runs import (
    SAME,
    counted,
    expected,
    micro_batches,
    sharpened,
    single_rows,
    step_run,
    tolerance,
)
from andon.verify.observation.step_comparison import compare_gradient, compare_loss, gradient_error, require_alike
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
    run, batches = step_run(subject), _parts(subject)
    compare_gradient(subject, run, run.step(batches), batches, "the update")


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
    run, batches = step_run(subject), _parts(subject)
    step = run.step(batches)
    factor = EXCESS * subject.hyperparameters["grad_clip"] / norm(expected(subject, run.model, step, batches)[1])
    run = step_run(subject)
    with gradients_times(run.model, factor):
        step = run.step(batches)
        compare_gradient(subject, run, step, batches, "the clipped update")


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
    first = run.step(batches[:1])
    single = gradient_error(subject, run, first, batches[:1])
    many = gradient_error(subject, run, run.step(batches), batches)
    allowed = max(SAME, 2 * single.error) if tolerance(run.model, first) > SAME else SAME
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
    run, batches = step_run(subject), _parts(subject)
    sharpened(run.model)
    step = run.step(batches)
    if "loss" not in step.logged:
        raise NotApplicable("loss among what the step reports")
    compare_loss(subject, run, step, batches)


def check_tokens(subject: Subject) -> None:
    """A step that reports tokens reports those of all its micro-batches: all, or all with a label.

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
    run, batches = step_run(subject), _parts(subject)
    reported = run.step(batches).logged.get("tokens")
    if reported is None:
        raise NotApplicable("tokens among what the step reports")
    due = {
        sum(counted(subject, batch) for batch in batches),
        sum(tokens_of(subject, batch).numel() for batch in batches),
    }
    if int(reported) not in due:
        raise CheckFailed(f"{run.name} reports {int(reported)} tokens for {PARTS} micro-batches of {sorted(due)}")


def _parts(subject: Subject) -> list[Batch]:
    batches = micro_batches(subject, PARTS)
    require_alike(subject, batches)
    return batches


CHECKS = (
    Check("accumulation.gradient", check_gradient, ("train_step",), tier=2),
    Check("accumulation.clipped", check_clipped, ("train_step",), tier=2),
    Check("accumulation.reported_loss", check_reported_loss, ("train_step",), tier=2),
    Check("accumulation.tokens", check_tokens, ("train_step",), tier=2),
    Check("accumulation.many", check_many, ("train_step",), tier=3),
)
