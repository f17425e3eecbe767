"""Evaluation: the mean over tokens, of a model at rest, that leaves no trace in the run."""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from andon.verify.access.batches import rows_of
from andon.verify.access.calls import loss_of, needed, new_batch, new_model, seeded
from andon.verify.access.targets import tokens_of
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable
from andon.verify.observation.cross_entropy import loss_alternatives
from andon.verify.observation.parameters import parameters
from andon.verify.observation.runs import LOOSE, counted, is_ragged, loop_run, micro_batches, of_loop, sharpened
from andon.verify.observation.step_trace import StepTrace
from andon.verify.subject import Batch, Subject

PARTS = 4
SAME = 1e-4  # of a loss: orders of summation in float32
STEPS = 3
LONGEST = 8  # steps of a run that is gone through to see an epoch end


def check_mean(subject: Subject) -> None:
    """The evaluated loss is the mean over all labels that are not ignored, of all batches together, in eval mode.

    Silent because a mean of batch means, an unshifted loss, or dropout left on give a number of the right size.

    Look at what is summed and what it is divided by, at the last batch, which is smaller, and at `eval()`.

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
    batches = _batches(subject)
    model = sharpened(new_model(subject)).train()
    counts = ", ".join(str(counted(subject, batch)) for batch in batches)
    found = float(validate(model, batches))
    _compare(subject, model, batches, found, f"Subject.validate, of {len(batches)} batches of {counts} counted tokens,")


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
        raise NotApplicable("a model whose tokens do not share experts")
    batches = _batches(subject)
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

    Look at `train()` after `eval()`, at generators that evaluation shares with training, at running statistics, and
    at a missing `no_grad`.

    Example:
        # wrong: sampling a text for the log uses up random numbers of training
        probs = model(input_ids).logits[:, -1].softmax(-1)
        next_id = torch.multinomial(probs, 1)

        # right: a generator of its own
        generator = torch.Generator(probs.device).manual_seed(0)
        probs = model(input_ids).logits[:, -1].softmax(-1)
        next_id = torch.multinomial(probs, 1, generator=generator)
    """
    for name, model, validate, step in _validators(subject):
        if step is not None:
            continue  # what its evaluation may draw, and leaves, is judged by the steps after it
        before, buffers = parameters(model), [buffer.clone() for buffer in model.buffers()]
        grads, numbers = [parameter.grad for parameter in model.parameters()], _random_states()
        value = validate()
        _left_training(name, model)
        after = parameters(model)
        moved = [key for key in before if not torch.equal(before[key], after[key])]
        moved += [f"buffer {i}" for i, old in enumerate(buffers) if not torch.equal(old, list(model.buffers())[i])]
        if moved:
            raise CheckFailed(f"{name}: evaluation changes {len(moved)} tensors of the model: {moved[0]}")
        if any(old is not parameter.grad for old, parameter in zip(grads, model.parameters(), strict=True)):
            raise CheckFailed(
                f"{name}: evaluation leaves gradients, where there were {sum(g is not None for g in grads)}"
            )
        if isinstance(value, Tensor) and value.requires_grad:
            raise CheckFailed(f"{name}: the value of evaluation, {float(value.detach()):.6g}, keeps its graph alive")
        drawn = [kind for kind, state in _random_states().items() if state != numbers[kind]]
        if drawn:
            raise CheckFailed(
                f"{name}: evaluation draws from {len(drawn)} of the {len(numbers)} generators that training may use: "
                f"{' and '.join(drawn)}"
            )


def check_mode(subject: Subject) -> None:
    """Evaluation runs a model with dropout in eval mode, and returns a model that trained in training mode.

    Silent because a run without dropout after its first evaluation even looks better, and evaluation with it only a
    little worse.

    Look at `eval()` before and `train()` after, on the same module, on every way out.

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
    for name, model, validate, step in _validators(subject):
        modes = _modes_during(validate, model)
        if any(modes) and _differs_in_training(subject, model):
            raise CheckFailed(
                f"{name}: {modes.count(True)} of {len(modes)} module calls of an evaluation are in training mode, and "
                "this model has another loss there"
            )
        _left_training(name, model, step)


def check_trajectory(subject: Subject) -> None:
    """A run that is evaluated between its steps trains bit by bit like the run that is not.

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
    runs, steps = [], min(LONGEST, max(STEPS, int(subject.hyperparameters.get("epoch_steps", 0)) + 1))
    for _ in range(2):  # one after the other: both draw from torch's random numbers
        run = loop_run(subject)
        runs.append(([_rows(run.step()) for _ in range(steps)], parameters(run.model)))
    (rows_seen, first), (again, second) = runs
    if rows_seen != again or any(not torch.equal(first[name], second[name]) for name in first):
        raise NotApplicable("a loop that is deterministic")
    evaluated = needed(subject, "loop")()
    run = of_loop(evaluated)
    for number in range(steps):
        seen = _rows(run.step())
        evaluated.validate()
        if seen != rows_seen[number]:
            raise CheckFailed(f"Subject.loop: evaluated after each step, step {number + 1} is trained on other data")
    after = parameters(run.model)
    moved = [name for name in first if not torch.equal(first[name], after[name])]
    if moved:
        worst = max(float((first[name].double() - after[name].double()).abs().max()) for name in moved)
        raise CheckFailed(
            f"Subject.loop: evaluated after each of {steps} steps, {len(moved)} of {len(first)} parameters end "
            f"elsewhere, by up to {worst:.2g}"
        )


def check_held_out(subject: Subject) -> None:
    """A loop's own evaluation is the mean over the labels that are not ignored, of all validation batches.

    Silent because a mean of batch means, or over some of the batches, is a number of the right size.

    Look at what is summed and divided, at the last batch, and at which split is read.

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
    found = float(loop.validate())
    _compare(subject, loop.model, held_out, found, f"Subject.loop's evaluation, of {len(held_out)} held-out batches,")


def _batches(subject: Subject) -> list[Batch]:
    batches = micro_batches(subject, PARTS, seed=10)
    if is_ragged(subject):
        batches[-1] = rows_of(subject, batches[-1], [0])
    return [batch for batch in batches if counted(subject, batch)]


def _compare(subject: Subject, model: torch.nn.Module, batches: list[Batch], found: float, what: str) -> None:
    """Fail where a value is not the mean loss of these batches."""
    due = []
    for each in loss_alternatives(subject):
        due.append(_mean(each, model, batches))
        if abs(found - due[-1]) <= _allowed(model) * abs(due[-1]):
            return
    raise CheckFailed(
        f"{what} is {found:.6g}; the mean over their counted tokens is {' or '.join(f'{mean:.6g}' for mean in due)}"
    )


def _mean(subject: Subject, model: torch.nn.Module, batches: list[Batch]) -> float:
    """The loss over the counted tokens of all batches together, in eval mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad(), seeded():
        total = sum(counted(subject, batch) * float(loss_of(subject, model, batch)) for batch in batches)
    for module, mode in modes.items():
        module.training = mode
    return total / sum(counted(subject, batch) for batch in batches)


class Validator(NamedTuple):
    """What evaluates a model, which is in training mode."""

    name: str
    model: torch.nn.Module
    validate: Callable[[], float | Tensor]
    step: Callable[[], object] | None  # of the loop that it belongs to


def _validators(subject: Subject) -> list[Validator]:
    """What evaluates, each with a model in training mode."""
    found: list[Validator] = []
    if subject.validate is not None:
        validate, model, batches = subject.validate, new_model(subject).train(), _batches(subject)
        found.append(Validator("Subject.validate", model, lambda: validate(model, batches), None))
    if subject.loop is not None:
        loop = subject.loop()
        loop.step()
        found.append(Validator("Subject.loop", loop.model.train(), loop.validate, loop.step))
    if not found:
        raise NotApplicable("validate or loop")
    return found


def _modes_during(validate: Callable[[], float | Tensor], model: torch.nn.Module) -> list[bool]:
    """The modes in which the model's modules are called."""
    modes: list[bool] = []
    handles = [
        module.register_forward_pre_hook(lambda called, _: modes.append(called.training)) for module in model.modules()
    ]
    validate()
    for handle in handles:
        handle.remove()
    return modes


def _left_training(name: str, model: torch.nn.Module, step: Callable[[], object] | None = None) -> None:
    """Whether the model is in training mode; of a loop, which may set it as a step begins, in the next step."""
    if step is not None:
        modes: list[bool] = []
        handle = model.register_forward_pre_hook(lambda m, _: modes.append(m.training))
        step()
        handle.remove()
        if not all(modes):
            raise CheckFailed(f"{name}: the step after an evaluation runs {modes.count(False)} passes in eval mode")
    elif not model.training:
        raise CheckFailed(f"{name}: evaluation finds the model in training mode (1) and leaves it in eval mode (0)")


def _differs_in_training(subject: Subject, model: torch.nn.Module) -> bool:
    batch, modes, values = new_batch(subject), {module: module.training for module in model.modules()}, []
    for mode in (False, True):
        model.train(mode)
        with torch.no_grad(), seeded():
            values.append(float(loss_of(subject, model, batch)))
    for module, mode in modes.items():
        module.training = mode
    return values[0] != values[1]


def _allowed(model: torch.nn.Module) -> float:
    halves = any(parameter.dtype in (torch.bfloat16, torch.float16) for parameter in model.parameters())
    return LOOSE / 4 if halves else SAME


def _random_states() -> dict[str, Any]:
    return {"torch's": torch.get_rng_state().numpy().tobytes(), "Python's": random.getstate()}


def _rows(step: StepTrace) -> list[dict[str, list[Any]]]:
    return [{name: value.tolist() for name, value in call.inputs.items()} for call in step.calls]


CHECKS = (
    Check("evaluation.mean", check_mean, ("validate",), tier=2),
    Check("evaluation.cut", check_cut, ("validate",), tier=2),
    Check("evaluation.traces", check_traces, tier=2),
    Check("evaluation.mode", check_mode, tier=2),
    Check("evaluation.held_out", check_held_out, ("validation_batches", "loop"), tier=2),
    Check("evaluation.trajectory", check_trajectory, ("loop",), tier=2),
)
