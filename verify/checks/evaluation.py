"""Evaluation: the mean over tokens, of a model at rest, that leaves no trace in the run."""

import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from andon.verify.access.batches import rows_of
from andon.verify.access.calls import loss_of, needed, new_batch, new_model, seeded
from andon.verify.access.targets import tokens_of
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.observation.cross_entropy import loss_alternatives
from andon.verify.observation.parameters import State, buffers_of, parameters, put_back
from andon.verify.observation.runs import (
    LOOSE,
    counted,
    is_ragged,
    loop_run,
    micro_batches,
    new_optimizer,
    of_loop,
    sharpened,
)
from andon.verify.observation.step_trace import StepTrace
from andon.verify.subject import Batch, Subject

PARTS = 4
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
    batches = _batches(subject)
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
    for validator in _validators(subject):
        name, model, validate, _, in_loop = validator
        if in_loop:
            continue  # what its evaluation may draw, and leaves, is judged by the steps after it
        before, buffers = parameters(model), buffers_of(model)
        grads, numbers = [parameter.grad for parameter in model.parameters()], _random_states()
        value = validate()
        drawn = [kind for kind, state in _random_states().items() if state != numbers[kind]]
        after = parameters(model)
        moved = [key for key in before if not torch.equal(before[key], after[key])]
        moved += [key for key in buffers if not torch.equal(buffers[key], model.get_buffer(key))]
        if moved and (moved[0] in before or _reads(subject, model, buffers)):
            raise CheckFailed(f"{name}: evaluation changes {len(moved)} tensors of the model: {moved[0]}")
        if any(old is not parameter.grad for old, parameter in zip(grads, model.parameters(), strict=True)):
            raise Unusual(
                f"{name}: evaluation leaves gradients, where there were {sum(g is not None for g in grads)}; right "
                "where every step clears them before it begins"
            )
        if isinstance(value, Tensor) and value.requires_grad:
            raise Unusual(f"{name}: the value of evaluation, {float(value.detach()):.6g}, keeps its graph alive")
        _left_training(validator)
        if drawn and not _draws(subject, model):
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
    for validator in _validators(subject):
        name, model, validate, _, _ = validator
        modes = _modes_during(validate, model)
        if any(modes) and _differs_in_training(subject, model):
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
    for name, model, validate, _, _ in _validators(subject):
        try:
            _losses(subject, model, [new_batch(subject)])
        except Exception as error:
            raise NotApplicable(f"a loss that takes no gradients itself ({error})") from error
        on = _gradients_during(validate, model)
        if any(on):
            raise Unusual(
                f"{name}: gradients are on in {on.count(True)} of {len(on)} module calls of an evaluation; right "
                "evaluation needs them"
            )


def check_trajectory(subject: Subject) -> None:
    """A run that is evaluated between its steps trains bit by bit like the run that is not.

    Where evaluation draws random numbers that training goes on with, a difference is unusual, not wrong.

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
    light: type[CheckFailed] = CheckFailed
    for number in range(steps):
        seen, numbers = _rows(run.step()), _random_states()
        evaluated.validate()
        light = Unusual if numbers != _random_states() else light
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
    with _weights_seen(loop.model) as same:
        found = float(loop.validate())
    if not same or not all(same):
        raise NotApplicable("an evaluation of the weights that train, not of a copy or an average")
    _compare(subject, loop.model, held_out, found, f"Subject.loop's evaluation, of {len(held_out)} held-out batches,")


def _batches(subject: Subject) -> list[Batch]:
    batches = micro_batches(subject, PARTS, seed=10)
    if is_ragged(subject):
        batches[-1] = rows_of(subject, batches[-1], [0])
    return [batch for batch in batches if counted(subject, batch)]


def _any_batches(subject: Subject) -> list[Batch]:
    """The same; of a subject without tokens, some of its own."""
    try:
        return _batches(subject)
    except NotApplicable:
        return [new_batch(subject, number) for number in range(PARTS)]


def _compare(subject: Subject, model: nn.Module, batches: list[Batch], found: float, what: str) -> None:
    """Fail where a value is not the mean loss of these batches, or of the first of them, where that is said."""
    batches = batches[: int(subject.hyperparameters.get("eval_batches", len(batches)))]
    due, of_means = [], []
    for each in loss_alternatives(subject):
        losses = _losses(each, model, batches)
        counts = [counted(each, batch) for batch in batches]
        due.append(_weighted(losses, counts))
        if _is_near(model, found, due[-1]):
            return
        of_means.append(_weighted(losses, [1] * len(losses)))
        if any(_is_near(model, found, _weighted(losses[:n], counts[:n])) for n in range(1, len(batches))):
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
    losses = _losses(subject, model, batches)
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


def _weighted(losses: list[float], counts: list[int]) -> float:
    return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)


def _losses(subject: Subject, model: nn.Module, batches: list[Batch]) -> list[float]:
    """The loss of each batch in eval mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad(), seeded():
        losses = [float(loss_of(subject, model, batch)) for batch in batches]
    for module, mode in modes.items():
        module.training = mode
    return losses


@contextmanager
def _weights_seen(model: nn.Module) -> Generator[list[bool]]:
    """Notes of each pass of a model, or of a part of it, whether it runs at the weights that stand there now."""
    same: list[bool] = []
    weights = {module: {name: p.detach().clone() for name, p in module.named_parameters(recurse=False)}
               for module in model.modules()}  # fmt: skip

    def look(module: nn.Module, _: Any) -> None:
        own = dict(module.named_parameters(recurse=False))
        if own:
            same.append(all(torch.equal(weights[module][name], own[name]) for name in own))

    handles = [module.register_forward_pre_hook(look) for module in model.modules()]
    try:
        yield same
    finally:
        for handle in handles:
            handle.remove()


class Validator(NamedTuple):
    """What evaluates a model, which is in training mode."""

    name: str
    model: nn.Module
    validate: Callable[[], float | Tensor]
    step: Callable[[], object] | None  # the training that goes on after it, where there is any
    in_loop: bool = False


def _validators(subject: Subject) -> list[Validator]:
    """What evaluates, each with a model in training mode."""
    found: list[Validator] = []
    if subject.validate is not None:
        validate, model, batches = subject.validate, new_model(subject).train(), _any_batches(subject)
        found.append(Validator("Subject.validate", model, lambda: validate(model, batches), _training(subject, model)))
    if subject.loop is not None:
        loop = subject.loop()
        loop.step()
        found.append(Validator("Subject.loop", loop.model.train(), loop.validate, loop.step, in_loop=True))
    if not found:
        raise NotApplicable("validate or loop")
    return found


def _training(subject: Subject, model: nn.Module) -> Callable[[], object] | None:
    """The subject's own step on this model."""
    if subject.train_step is None:
        return None
    step, optimizer = subject.train_step, new_optimizer(subject, model)
    return lambda: step(model, optimizer, [new_batch(subject)])


def _modes_during(validate: Callable[[], float | Tensor], model: nn.Module) -> list[bool]:
    """The modes in which the model's modules are called."""
    modes: list[bool] = []
    handles = [
        module.register_forward_pre_hook(lambda called, _: modes.append(called.training)) for module in model.modules()
    ]
    validate()
    for handle in handles:
        handle.remove()
    return modes


def _gradients_during(validate: Callable[[], float | Tensor], model: nn.Module) -> list[bool]:
    """Whether gradients are on where the model's modules are called."""
    on: list[bool] = []
    handles = [
        module.register_forward_pre_hook(lambda *_: on.append(torch.is_grad_enabled())) for module in model.modules()
    ]
    validate()
    for handle in handles:
        handle.remove()
    return on


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


def _differs_in_training(subject: Subject, model: nn.Module) -> bool:
    batch, modes, values = new_batch(subject), {module: module.training for module in model.modules()}, []
    for mode in (False, True):
        model.train(mode)
        with torch.no_grad(), seeded():
            values.append(float(loss_of(subject, model, batch)))
    for module, mode in modes.items():
        module.training = mode
    return values[0] != values[1]


def _allowed(model: nn.Module) -> float:
    halves = any(parameter.dtype in (torch.bfloat16, torch.float16) for parameter in model.parameters())
    return LOOSE / 4 if halves else SAME


def _reads(subject: Subject, model: nn.Module, buffers: State) -> bool:
    """Whether the loss in training mode is another one with these buffers than with those that the model has now."""
    batch, now, losses = new_batch(subject), buffers_of(model), []
    for state in (now, buffers):
        put_back(model, state)
        with seeded():
            losses.append(float(loss_of(subject, model, batch).detach()))
    put_back(model, now)
    return losses[0] != losses[1]


def _draws(subject: Subject, model: nn.Module) -> bool:
    """Whether the loss draws random numbers in eval mode, too, as that of a diffusion does."""
    batch = new_batch(subject)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad(), seeded():
        before = _random_states()
        loss_of(subject, model, batch)
        drawn = before != _random_states()
    for module, mode in modes.items():
        module.training = mode
    return drawn


def _random_states() -> dict[str, Any]:
    return {"torch's": torch.get_rng_state().numpy().tobytes(), "Python's": random.getstate()}


def _rows(step: StepTrace) -> list[dict[str, list[Any]]]:
    return [{name: value.tolist() for name, value in call.inputs.items()} for call in step.calls]


CHECKS = (
    Check("evaluation.mean", check_mean, ("validate",), tier=2),
    Check("evaluation.cut", check_cut, ("validate",), tier=2),
    Check("evaluation.traces", check_traces, tier=2),
    Check("evaluation.mode", check_mode, tier=2),
    Check("evaluation.gradients_off", check_gradients_off, tier=2),
    Check("evaluation.held_out", check_held_out, ("validation_batches", "loop"), tier=2),
    Check("evaluation.trajectory", check_trajectory, ("loop",), tier=2),
)
