"""Evaluation: the mean over tokens, of a model at rest, that leaves no trace in the run."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.access.batches import rows_of
from andon.verify.access.calls import needed, new_batch, new_model
from andon.verify.access.larger_weights import sharpened
from andon.verify.access.targets import tokens_of
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual, left_out_by
from andon.verify.observation.cross_entropy import loss_alternatives
from andon.verify.observation.evaluations import (
    Validator,
    draws_at_rest,
    evaluation_batches,
    losses_at_rest,
    random_states,
    reads_buffers,
    runs_at_its_weights,
    validators,
)
from andon.verify.observation.half_precision import has_halves
from andon.verify.observation.metrics import answered_batches, due_metrics, reported
from andon.verify.observation.micro_batches import counted, is_ragged, weight_of
from andon.verify.observation.modes import at_each_call, differs_in_training
from andon.verify.observation.parameters import State, buffers_of, parameters
from andon.verify.observation.reference_steps import LOOSE
from andon.verify.observation.runs import loop_run, of_loop
from andon.verify.observation.step_trace import StepTrace
from andon.verify.subject import Batch, Subject

SAME = 1e-4  # of a loss: orders of summation in float32
STEPS = 3
SAYS = "hyperparameters={'eval_batches': 2}"
LONGEST = 8  # steps of a run that is gone through to see an epoch end


def check_mean(subject: Subject) -> None:
    """The evaluated loss is the mean over all labels that are not ignored, of all batches together, in eval mode.

    Of a model without weights, whose loss is the same for every token, it is that loss, however many are evaluated.
    A mean over some of the batches or tokens is unusual; `eval_batches` says how many batches are meant.

    Silent because a mean of batch means, an unshifted loss, or dropout left on give a number of the right size.

    Look at what is summed and what it is divided by, at the last batch, which is smaller, and at `eval()`.

    Yellow where the value is the mean of the first batches, or of other tokens: an evaluation may be cut on purpose.

    Example:
        # wrong: a mean of means, in which a small last batch weighs as much as a full one
        losses = [model(**batch).loss.item() for batch in loader]
        val_loss = sum(losses) / len(losses)

        # right
        total, count = 0.0, 0
        for batch in loader:
            tokens = (batch["labels"][:, 1:] != -100).sum().item()
            total += model(**batch).loss.item() * tokens
            count += tokens
        val_loss = total / count

    Reference: huggingface/transformers#41898.
    """
    validate = needed(subject, "validate")
    batches = evaluation_batches(subject)
    model = sharpened(new_model(subject)).train()
    counts = ", ".join(str(counted(subject, batch)) for batch in batches)
    name = f"Subject.validate, of {len(batches)} batches of {counts} counted tokens,"
    _require_share(subject, new_model(subject).train(), batches, lambda model: float(validate(model, batches)), name)
    found = float(validate(model, batches))
    _compare(subject, model, batches, found, name)


def check_cut(subject: Subject) -> None:
    """The evaluated loss does not depend on how the examples are cut into batches, nor on the batches' order.

    Silent because two runs are compared at one batch size, until one day they are not.

    Look at means of batch means, at weights by rows, at batches that are dropped, and at anything that one batch
    leaves to the next.

    Example:
        # wrong: weighted by rows, the result depends on which rows share a batch
        total, count = 0.0, 0
        for batch in loader:
            rows = len(batch["input_ids"])
            total += model(**batch).loss.item() * rows
            count += rows
        val_loss = total / count

        # right: weighted by what each batch's loss is the mean of
        total, count = 0.0, 0
        for batch in loader:
            tokens = (batch["labels"][:, 1:] != -100).sum().item()
            total += model(**batch).loss.item() * tokens
            count += tokens
        val_loss = total / count

    Reference: huggingface/transformers#41898.
    """
    validate = needed(subject, "validate")
    if subject.mixture_of_experts:
        raise left_out_by("mixture_of_experts", True, "a model whose tokens do not share experts")
    batches = evaluation_batches(subject)
    whole = float(validate(sharpened(new_model(subject)).train(), batches))
    cuts = {"in reverse order": batches[::-1]}
    if is_ragged(subject):
        cuts["a row at a time"] = [
            row for batch in batches for index in range(len(tokens_of(subject, batch)))
            if counted(subject, row := rows_of(subject, batch, [index]))
        ]  # fmt: skip
    for how, parts in cuts.items():
        model = sharpened(new_model(subject)).train()
        found = float(validate(model, parts))
        if not abs(found - whole) <= _allowed(model) * abs(whole):
            raise CheckFailed(f"Subject.validate gives {whole:.6g}, and {found:.6g} for the same examples {how}")


def check_traces(subject: Subject) -> None:
    """Evaluation leaves the mode, weights, buffers, gradients and random numbers of training as they were.

    Silent because a run whose dropout ends at the first evaluation, or whose course depends on how often it is
    evaluated, trains all the same.

    Random numbers that it draws are unusual, and not asked about where the loss itself draws some in eval mode.

    Look at `train()` after `eval()`, at generators that evaluation shares with training, at running statistics, and
    at a missing `no_grad`.

    Yellow where it draws random numbers or leaves the mode to training: a loss may be random by nature, and a loop may
    set the mode itself.

    Example:
        # wrong: sampling a text for the log uses up random numbers of training
        probs = model(input_ids).logits[:, -1].softmax(-1)
        next_id = torch.multinomial(probs, 1)

        # right: a generator of its own
        generator = torch.Generator(probs.device).manual_seed(0)
        probs = model(input_ids).logits[:, -1].softmax(-1)
        next_id = torch.multinomial(probs, 1, generator=generator)
    """
    validator = validators(subject)[0]  # a loop's is judged by the steps after it (`evaluation.trajectory`)
    name, model = validator.name, validator.model
    before, buffers, numbers = parameters(model), buffers_of(model), random_states()
    grads = [parameter.grad for parameter in model.parameters()]
    value = validator.validate()
    drawn = [kind for kind, state in random_states().items() if state != numbers[kind]]
    _require_same_tensors(subject, validator, before, buffers)
    if any(old is not parameter.grad for old, parameter in zip(grads, model.parameters(), strict=True)):
        raise Unusual(
            f"{name}: evaluation leaves gradients, where there were {sum(g is not None for g in grads)}; right "
            "where every step clears them before it begins"
        )
    if isinstance(value, Tensor) and value.requires_grad:
        raise Unusual(
            f"{name}: the value of evaluation, {float(value.detach()):.6g}, keeps its graph alive; right where nobody "
            "keeps the value"
        )
    _left_training(validator)
    if drawn and not draws_at_rest(subject, model):
        raise Unusual(
            f"{name}: evaluation draws from {len(drawn)} of the {len(numbers)} generators that training may use: "
            f"{' and '.join(drawn)}; right where no run is compared with another bit by bit"
        )


def check_mode(subject: Subject) -> None:
    """Evaluation runs a model with dropout in eval mode, and returns a model that trained in training mode.

    Silent because a run without dropout after its first evaluation even looks better, and evaluation with it only a
    little worse.

    Look at `eval()` before and `train()` after, on the same module, on every way out.

    Yellow where nothing shows that training sets its mode again: a loop may do so itself.

    Example:
        # wrong: after the first evaluation the run goes on without dropout
        def validate(model, loader):
            model.eval()
            return mean_loss(model, loader)

        # right
        def validate(model, loader):
            model.eval()
            loss = mean_loss(model, loader)
            model.train()
            return loss

    Reference: PyTorch documentation, torch.nn.Module.eval.
    """
    for validator in validators(subject):
        name, model = validator.name, validator.model
        modes = at_each_call(model.modules(), validator.validate, lambda module: module.training)
        if any(modes) and differs_in_training(subject, model, new_batch(subject)):
            raise CheckFailed(
                f"{name}: {modes.count(True)} of {len(modes)} module calls of an evaluation are in training mode, and "
                "this model has another loss there"
            )
        _left_training(validator)


def check_gradients_off(subject: Subject) -> None:
    """While evaluation runs, gradients are off.

    Not asked where the loss takes gradients itself, as of energies. Unusual, not wrong: it costs memory and time.

    Silent because the numbers are the same: memory is full at another batch size than it might be.

    Look for evaluation without `torch.no_grad()`, for a decorator that a generator function makes useless, and for
    `set_grad_enabled(True)` on the way.

    Yellow alone, as it costs memory and time, and no number is wrong.

    Example:
        # wrong: every batch builds a graph that nothing needs
        def validate(model, loader):
            model.eval()
            return mean_loss(model, loader)

        # right
        @torch.no_grad()
        def validate(model, loader):
            model.eval()
            return mean_loss(model, loader)

    Reference: PyTorch documentation, Autograd mechanics, "Locally disabling gradient computation".
    """
    for validator in validators(subject):
        name, model = validator.name, validator.model
        if any(_gradients_on(model, lambda model=model: losses_at_rest(subject, model, [new_batch(subject)]))):
            raise NotApplicable("a loss that takes no gradients itself")
        on = _gradients_on(model, validator.validate)
        if any(on):
            raise Unusual(
                f"{name}: gradients are on in {on.count(True)} of {len(on)} module calls of an evaluation; right where "
                "evaluation needs them"
            )


def check_trajectory(subject: Subject) -> None:
    """A run that is evaluated between its steps trains bit by bit like the run that is not.

    Where evaluation draws random numbers that training goes on with, a difference is unusual, not wrong.

    Yellow where evaluation draws random numbers that training goes on with.

    Silent because both are plausible runs: the course of training merely depends on how often one looks.

    Look at random generators that evaluation or sampling shares with training, at the model's mode, at gradients
    that evaluation leaves, and at an iterator that both advance.

    Example:
        # wrong: choosing the batches to evaluate draws from the generator of training
        def validate(model, valid):
            chosen = torch.randperm(len(valid))[:100]
            return mean_loss(model, [valid[i] for i in chosen])

        # right
        def validate(model, valid):
            generator = torch.Generator().manual_seed(0)
            chosen = torch.randperm(len(valid), generator=generator)[:100]
            return mean_loss(model, [valid[i] for i in chosen])
    """
    steps = min(LONGEST, max(STEPS, int(subject.hyperparameters.get("epoch_steps", 0)) + 1))
    rows_seen, first = _undisturbed(subject, steps)
    evaluated = needed(subject, "loop")()
    run = of_loop(evaluated)
    light: type[CheckFailed] = CheckFailed
    for number in range(steps):
        seen, numbers = _rows(run.step()), random_states()
        evaluated.validate()
        light = Unusual if numbers != random_states() else light
        if seen != rows_seen[number]:
            raise light(f"Subject.loop: evaluated after each step, step {number + 1} is trained on other data")
    after = parameters(run.model)
    moved = [name for name in first if not torch.equal(first[name], after[name])]
    if moved:
        worst = max(float((first[name].double() - after[name].double()).abs().max()) for name in moved)
        raise light(
            f"Subject.loop: evaluated after each of {steps} steps, {len(moved)} of {len(first)} parameters end "
            f"elsewhere, by up to {worst:.2g}"
        )


def check_held_out(subject: Subject) -> None:
    """A loop's own evaluation is the mean over the labels that are not ignored, of all validation batches.

    Silent because a mean of batch means, or over some of the batches, is a number of the right size.

    Look at what is summed and divided, at the last batch, and at which split is read.

    Yellow where the value is the mean of the first batches, or of other tokens: an evaluation may be cut on purpose.

    Example:
        # wrong: drop_last leaves out the rows that do not fill a batch
        valid_loader = DataLoader(valid, batch_size=32, drop_last=True)
        val_loss = mean_loss(model, valid_loader)

        # right
        valid_loader = DataLoader(valid, batch_size=32)
        val_loss = mean_loss(model, valid_loader)

    Reference: PyTorch documentation, torch.utils.data.DataLoader.
    """
    held_out, loop = list(needed(subject, "validation_batches")()), needed(subject, "loop")()
    sharpened(loop.model)
    values: list[float] = []
    if not runs_at_its_weights(loop.model, lambda: values.append(float(loop.validate()))):
        raise NotApplicable("an evaluation of the weights that train, not of a copy or an average")
    name = f"Subject.loop's evaluation, of {len(held_out)} held-out batches,"
    _compare(subject, loop.model, held_out, values[0], name)


def check_metrics(subject: Subject) -> None:
    """What is reported beside the loss is what it is called, of all batches together.

    The perplexity is e to the power of the mean nats a label; the accuracy is the share of labels that are not ignored
    whose token has the largest logit at the place that predicts it; tokens are all that there are, or those with such
    labels. Half of the labels are made the model's own choice for it, so that there is something to count.

    Silent because each is a number of the right size that moves the right way.

    Look at logits and labels that are not shifted, at ignored labels in the divisor, at means of batches' own values,
    and at what is exponentiated before it is averaged.

    Yellow where a value is none of those that go wrong so: it may be meant to be of other tokens.

    Example:
        # wrong: compares each label with the logits of its own place, which have seen it
        predicted = logits.argmax(-1)
        accuracy = (predicted == labels)[labels != -100].float().mean()

        # right
        predicted = logits[:, :-1].argmax(-1)
        labels = labels[:, 1:]
        accuracy = (predicted == labels)[labels != -100].float().mean()

    Reference: Hugging Face documentation, "Perplexity of fixed-length models".
    """
    metrics = needed(subject, "metrics")
    model, batches = sharpened(new_model(subject)).train(), answered_batches(subject)
    found = reported(metrics(model, batches))
    due = due_metrics(subject, model, _evaluated(subject, batches))
    for key, value in found.items():
        if key == "loss":
            _compare(subject, model, batches, value, "Subject.metrics' loss")
        else:
            due[key].require(value, f"Subject.metrics' {key}, of {len(batches)} batches,", _allowed(model))


def _gradients_on(model: nn.Module, act: Callable[[], object]) -> list[bool]:
    """Whether gradients are on, at each call of a module."""
    return at_each_call(model.modules(), act, lambda _: torch.is_grad_enabled())


def _require_same_tensors(subject: Subject, validator: Validator, before: State, buffers: State) -> None:
    """Fail where an evaluation has moved weights, or buffers that the loss reads."""
    model, after = validator.model, parameters(validator.model)
    moved = [key for key in before if not torch.equal(before[key], after[key])]
    moved += [key for key in buffers if not torch.equal(buffers[key], model.get_buffer(key))]
    if moved and (moved[0] in before or reads_buffers(subject, model, buffers)):
        raise CheckFailed(f"{validator.name}: evaluation changes {len(moved)} tensors of the model: {moved[0]}")


def _undisturbed(subject: Subject, steps: int) -> tuple[list[list[dict[str, list[Any]]]], State]:
    """What a run that is not evaluated is shown step by step, and the weights that it ends with.

    Raises:
        NotApplicable: two such runs differ.
    """
    runs = []
    for _ in range(2):  # one after the other: both draw from torch's random numbers
        run = loop_run(subject)
        runs.append(([_rows(run.step()) for _ in range(steps)], parameters(run.model)))
    (rows, weights), (again, others) = runs
    if rows != again or any(not torch.equal(weights[name], others[name]) for name in weights):
        raise NotApplicable("a loop that is deterministic")
    return rows, weights


def _evaluated(subject: Subject, batches: list[Batch]) -> list[Batch]:
    """Those that an evaluation is said to read."""
    return batches[: int(subject.hyperparameters.get("eval_batches", len(batches)))]


def _compare(subject: Subject, model: nn.Module, batches: list[Batch], found: float, what: str) -> None:
    """Fail where a value is not the mean loss of these batches, or of the first of them, where that is said."""
    batches = _evaluated(subject, batches)
    due, of_means = [], []
    for each in loss_alternatives(subject):
        losses = losses_at_rest(each, model, batches)
        weights = [weight_of(each, batch) for batch in batches]
        due.append(_weighted(losses, weights))
        if _is_near(model, found, due[-1]):
            return
        of_means.append(_weighted(losses, [1.0] * len(losses)))
        if any(_is_near(model, found, _weighted(losses[:n], weights[:n])) for n in range(1, len(batches))):
            raise Unusual(f"{what} is {found:.6g}, the mean of the first batches alone: say how many, as {SAYS}")
    message = f"{what} is {found:.6g}; the mean over their counted tokens is {' or '.join(f'{x:.6g}' for x in due)}"
    if "eval_batches" in subject.hyperparameters or any(_is_near(model, found, mean) for mean in of_means):
        raise CheckFailed(message)
    raise Unusual(f"{message}; right where it is meant to be over other tokens")


def _require_share(
    subject: Subject, model: nn.Module, batches: list[Batch], validate: Callable[[nn.Module], float], what: str
) -> None:
    """Fail where the evaluation of a model that says the same of all tokens is another loss than that of each."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    losses = losses_at_rest(subject, model, batches)
    due = losses[0]
    if not due > 0 or not all(_is_near(model, loss, due) for loss in losses):
        return  # a model that is not the same for all tokens without its weights
    found = validate(model)
    if not _is_near(model, found, due):
        raise CheckFailed(
            f"{what} is {found:.6g} where the loss of each token is {due:.6g}: what is summed and what is counted are "
            "not the same tokens"
        )


def _is_near(model: nn.Module, found: float, due: float) -> bool:
    return abs(found - due) <= _allowed(model) * abs(due)


def _weighted(losses: list[float], weights: list[float]) -> float:
    return sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / sum(weights)


def _left_training(validator: Validator) -> None:
    """Whether the step after an evaluation runs in training mode, and the model is left in it by what is no loop."""
    name, model, _, step, in_loop = validator
    left = model.training
    modes: list[bool] = []
    if step is not None:
        handle = model.register_forward_pre_hook(lambda m, _: modes.append(m.training))
        step()
        handle.remove()
    if not all(modes):
        raise CheckFailed(f"{name}: the step after an evaluation runs {modes.count(False)} passes in eval mode")
    if not left and not in_loop:
        raise Unusual(
            f"{name}: evaluation finds the model in training mode (1) and leaves it in eval mode (0); right where "
            "training sets the mode again before it goes on"
        )


def _allowed(model: nn.Module) -> float:
    return LOOSE / 4 if has_halves(model) else SAME


def _rows(step: StepTrace) -> list[dict[str, list[Any]]]:
    return [{name: value.tolist() for name, value in call.inputs.items()} for call in step.calls]


CHECKS = (
    Check("evaluation.mean", check_mean, ("validate",), tier=2),
    Check("evaluation.cut", check_cut, ("validate",), tier=2),
    Check("evaluation.traces", check_traces, ("validate",), tier=2),
    Check("evaluation.mode", check_mode, tier=2),
    Check("evaluation.gradients_off", check_gradients_off, tier=2),
    Check("evaluation.metrics", check_metrics, ("metrics",), tier=2),
    Check("evaluation.held_out", check_held_out, ("validation_batches", "loop"), tier=2),
    Check("evaluation.trajectory", check_trajectory, ("loop",), tier=2),
)
