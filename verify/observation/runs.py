"""Training runs of a subject that checks can drive, and what each of their steps ought to do.

The reference for a step is the subject's own loss, differentiated by autograd at the step's first weights: with the
same random numbers, each micro-batch weighted by its counted tokens. Legend: B batch, T time.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, wraps
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from andon.verify.access.batches import rows_of
from andon.verify.access.calls import loss_of, needed, new_batch, new_model, seeded
from andon.verify.access.parts import find
from andon.verify.access.roles import IGNORE, fields, guessed, replaced
from andon.verify.access.targets import targets_of, tokens_of, with_targets
from andon.verify.errors import NotApplicable
from andon.verify.observation.optimizers import asks_again, innermost, stepped
from andon.verify.observation.parameters import (
    State,
    at_weights,
    buffers_of,
    fitted,
    mismatch,
    norm,
    put_back,
    trainable,
)
from andon.verify.observation.step_trace import StepTrace, trace_step
from andon.verify.observation.tolerances import ROUNDING, distance, rounding
from andon.verify.subject import Batch, Loop, Subject
from andon.verify.vocabulary import ROLES

RATE = 1e-3  # of the optimizer that a subject without one is given
SAME = 10 * ROUNDING[torch.float32]  # one loss computed by two loops: other kernels, another order of summation
LOOSE = ROUNDING[torch.bfloat16]


Made = TypeVar("Made")  # a run, or an optimizer with its model


class NamedOptimizer(NamedTuple):
    """An optimizer, and the model that it trains."""

    name: str  # as a message calls it
    model: nn.Module
    optimizer: Optimizer


class Run(NamedTuple):
    """A run, and one step of it."""

    name: str  # as a message calls it
    model: nn.Module
    optimizer: Optimizer
    act: Callable[[list[Batch]], Mapping[str, Any] | None]  # a loop takes its own batches
    loop: Loop | None = None  # where there is one

    def step(self, batches: Sequence[Batch] = ()) -> StepTrace:
        """One step, traced."""
        return trace_step(self.model, lambda: self.act(list(batches)))


Make = Callable[[], Run]


def each_run(check: Callable[[Subject, Make], None]) -> Callable[[Subject], None]:
    """A check of the subject's train step and of its loop, whichever it has; not applicable where it has neither."""
    return _of_each(check, lambda subject: [*_stepping(subject), *_looping(subject)])


def each_run_or_plain(check: Callable[[Subject, Make], None]) -> Callable[[Subject], None]:
    """The same; a subject without a train step takes plain ones."""
    return _of_each(check, lambda subject: [partial(own_run, subject), *_looping(subject)])


def each_optimizer(check: Callable[[Subject, NamedOptimizer], None]) -> Callable[[Subject], None]:
    """A check of the optimizer that the subject's factory gives and of its loop's, whichever it has."""

    @wraps(check)
    def of_made(subject: Subject, make: Callable[[], NamedOptimizer]) -> None:
        check(subject, make())

    return _of_each(of_made, _holding)


def own_run(subject: Subject, model: nn.Module | None = None, optimizer: Optimizer | None = None) -> Run:
    """The subject's step on a new model with a new optimizer, or on these; a plain step where it has none."""
    model = new_model(subject).train() if model is None else model
    optimizer = new_optimizer(subject, model) if optimizer is None else optimizer
    if subject.train_step is not None:
        step = subject.train_step
        return Run("Subject.train_step", model, optimizer, lambda batches: step(model, optimizer, batches))
    return Run("a plain step", model, optimizer, lambda batches: _plain(subject, model, optimizer, batches))


def step_run(subject: Subject) -> Run:
    """The subject's step on a new model.

    Raises:
        NotApplicable: it has none.
    """
    needed(subject, "train_step")
    return own_run(subject)


def loop_run(subject: Subject) -> Run:
    """A new run of the subject's loop.

    Raises:
        NotApplicable: it has none.
    """
    loop: Loop = needed(subject, "loop")()
    return of_loop(loop)


def of_loop(loop: Loop, name: str = "Subject.loop") -> Run:
    """A loop as a run."""
    return Run(name, loop.model, loop.optimizer, lambda _: loop.step(), loop)


def new_optimizer(subject: Subject, model: nn.Module) -> Optimizer:
    """The subject's optimizer, or AdamW without decay."""
    if subject.optimizer is not None:
        return subject.optimizer(model)
    return torch.optim.AdamW(trainable(model).values(), lr=RATE, weight_decay=0.0)


def as_scheduled(subject: Subject, optimizer: Optimizer) -> Callable[[int], None]:
    """What puts the rates of update 0, 1, ... into an optimizer, as far as the subject says them."""
    if subject.lr_scheduler is not None:
        schedule = subject.lr_scheduler(optimizer)

        def advance(number: int) -> None:
            if number and not asks_a_metric(schedule):
                schedule.step()

        return advance
    if subject.lr_at is not None:
        rate, largest = subject.lr_at, max(float(group["lr"]) for group in optimizer.param_groups) or 1.0
        shares = [float(group["lr"]) / largest or 1.0 for group in optimizer.param_groups]

        def write(number: int) -> None:
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                group["lr"] = float(rate(number)) * share

        return write
    return lambda _: None


def asks_a_metric(schedule: Any) -> bool:
    """Whether a schedule's step wants more than to be called, as one that waits for a plateau does."""
    given = inspect.signature(schedule.step).parameters.values()
    return any(each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD for each in given)


def slopes(subject: Subject, model: nn.Module, batch: Batch) -> State:
    """The loss's own gradient in training mode, by parameter; what it does not reach is absent."""
    held, learning = buffers_of(model), trainable(model)
    with seeded():
        found = torch.autograd.grad(loss_of(subject, model, batch), list(learning.values()), allow_unused=True)
    put_back(model, held)
    return {name: slope for name, slope in zip(learning, found, strict=True) if slope is not None}


def depends(subject: Subject, model: nn.Module, name: str, batch: Batch) -> bool:
    """Whether the loss is another one where a parameter is elsewhere."""
    held, parameter, losses = buffers_of(model), model.get_parameter(name), []
    kept = parameter.detach().clone()
    for shift in (0.0, 0.1):
        generator = torch.Generator().manual_seed(0)
        change = shift * torch.randn(kept.shape, generator=generator, dtype=torch.float64)
        with seeded():
            parameter.data.copy_(kept + change.to(kept) * (1 + kept.abs()))
            losses.append(loss_of(subject, model, batch).detach())
        put_back(model, held)
    parameter.data.copy_(kept)
    return not distance(losses[1], losses[0]) <= rounding(losses[0])


def sharpened(model: nn.Module) -> nn.Module:
    """The model, in place, with larger matrices: its losses differ from token to token, not about ln V everywhere."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and parameter.is_floating_point():
                parameter.mul_(3)
    return model


def counted(subject: Subject, batch: Batch) -> int:
    """How many tokens a batch's loss is the mean of."""
    return int((targets_of(subject, batch) != IGNORE).sum())


def is_ragged(subject: Subject) -> bool:
    """Whether this subject's batches count unequal numbers of tokens, as its own examples show."""
    if subject.collate_padded is not None or subject.encode_instruction is not None:
        return True
    seen = [new_batch(subject, seed) for seed in range(3)]
    if any("labels" not in find(subject, batch) for batch in seen):
        return False
    left_out = {int(n) for batch in seen for n in (targets_of(subject, batch) == IGNORE).sum(1)}
    return len(left_out) > 1  # rows of other lengths alone say nothing of labels that are not counted


def micro_batches(subject: Subject, count: int, *, seed: int = 0) -> list[Batch]:
    """Different batches of one step; as unequal in counted tokens as the subject's own may be."""
    ragged, made = is_ragged(subject), []
    for index in range(count):
        batch = new_batch(subject, seed + index)
        if ragged and index % 2:
            targets_BT = targets_of(subject, batch).clone()
            counted_BT = targets_BT != IGNORE
            from_end_BT = counted_BT.flip(1).cumsum(1).flip(1)  # of a row's own labels, which may end in padding
            targets_BT[from_end_BT > max(2, targets_BT.shape[1] // 4)] = IGNORE
            if bool((targets_BT != IGNORE).any()):
                batch = with_targets(subject, batch, targets_BT)
        made.append(batch)
    return made


def single_rows(subject: Subject, count: int) -> list[Batch]:
    """Batches of one row each."""
    made: list[Batch] = []
    for seed in range(count):
        batch = new_batch(subject, seed)
        made += [rows_of(subject, batch, [row]) for row in range(len(tokens_of(subject, batch)))]
        if len(made) >= count:
            break
    return [batch for batch in made if counted(subject, batch)][:count]


def expected(
    subject: Subject,
    model: nn.Module,
    step: StepTrace,
    batches: Sequence[Batch],
    shares: Sequence[float] = (),
    *,
    scaled: bool = False,
) -> tuple[float, State]:
    """Loss and gradient of these batches together, at the weights that the step found.

    Each has the share that is given, or that of its counted tokens; `scaled` takes it into the loss that is
    differentiated, which is the same but for rounding.
    """
    if not shares:
        counts = [1] if len(batches) == 1 else [counted(subject, batch) for batch in batches]
        shares = [count / sum(counts) for count in counts]
    matched = len(step.calls) == len(batches)
    total, mean = 0.0, {name: torch.zeros_like(p, dtype=torch.float64) for name, p in trainable(model).items()}
    with torch.random.fork_rng(), at_weights(model, step.before, step.buffers):
        torch.set_rng_state(step.random)
        for index, (batch, share) in enumerate(zip(batches, shares, strict=True)):
            model.train()
            if step.calls and (matched or index == 0):
                torch.set_rng_state(step.calls[index].random)
                model.train(step.calls[index].training)
            model.zero_grad(set_to_none=True)
            loss = loss_of(subject, model, batch)
            (loss * share if scaled else loss).backward()
            total += share * float(loss.detach())
            for name, parameter in trainable(model).items():
                if parameter.grad is not None:
                    mean[name] += (1.0 if scaled else share) * parameter.grad.double()
    return total, mean


def tolerance(model: nn.Module, *steps: StepTrace) -> float:
    """What rounding explains between two ways to the same gradient."""
    half = any(p.dtype in (torch.bfloat16, torch.float16) for p in model.parameters())
    return LOOSE if half or any(step.autocast for step in steps) else SAME


def the_update(run: Run, step: StepTrace) -> State:
    """The gradients of a step's one update.

    Raises:
        NotApplicable: it made none or several, or they belong to other tensors than the model's (master weights).
    """
    if len(step.updates) != 1:
        raise NotApplicable(f"one optimizer update per step ({run.name} made {len(step.updates)})")
    if not step.updates[0].gradients:
        raise NotApplicable("an optimizer over the model's own parameters")
    return step.updates[0].gradients


def as_clipped(subject: Subject, actual: State, wanted: State) -> State:
    """What clipping makes of a gradient: to the norm that `hyperparameters` names; else as `actual` shows.

    In that case a factor of at most 1, or one largest absolute value, whichever is nearer, are taken for clipping.
    """
    if "grad_clip" in subject.hyperparameters:
        clip = subject.hyperparameters["grad_clip"]
        factor = min(1.0, clip / max(norm(wanted), 1e-300)) if clip else 1.0
        return {name: tensor * factor for name, tensor in wanted.items()}
    largest = max(float(tensor.double().abs().max()) for tensor in actual.values())
    factor = min(1.0, max(0.0, fitted(actual, wanted)))
    by_norm = {name: tensor * factor for name, tensor in wanted.items()}
    by_value = {name: tensor.clamp(-largest, largest) for name, tensor in wanted.items()}
    return min(by_norm, by_value, key=lambda state: mismatch(actual, state)[0])


def batches_seen(subject: Subject, step: StepTrace) -> list[Batch]:
    """The batches that a loop's step used: told from what its model was called with.

    Raises:
        NotApplicable: the model is not called with whole batches, and they are none of `epoch_batches`.
    """
    example = new_batch(subject)
    keys = [key for key, value in fields(example).items() if isinstance(value, Tensor)]
    known = _by_tokens(subject) if subject.epoch_batches is not None else {}
    seen = []
    for call in step.calls:
        inputs = call.inputs
        if "labels" in find(subject, example) and all(str(key) in inputs for key in keys):
            seen.append(replaced(example, {key: inputs[str(key)] for key in keys}))
            continue
        found = [known[_key(value)] for value in inputs.values() if _key(value) in known]
        if not found:
            raise NotApplicable("batches that can be told from the model's inputs (or Subject.epoch_batches)")
        seen.append(found[0])
    if not seen:
        raise NotApplicable("a model that is called with token ids")
    return seen


def token_rows(subject: Subject, step: StepTrace) -> list[tuple[int, ...]]:
    """The rows of token ids that a step's calls were given, in order, without what a mask says is padding.

    Raises:
        NotApplicable: among several integer inputs, neither a name nor `Subject.roles` tells which are the token ids.
    """
    return [row for call in step.calls for row in _token_rows(call.inputs, subject.roles)]


def data_rows(subject: Subject, step: StepTrace) -> list[tuple[int, ...]]:
    """The same; where nothing tells which are the token ids, the rows of all integer inputs, for comparing runs."""
    try:
        return token_rows(subject, step)
    except NotApplicable:
        inputs = [tensor for call in step.calls for tensor in _different(call.inputs)]
        return [tuple(row.tolist()) for tensor in inputs for row in tensor.reshape(-1, max(1, tensor.shape[-1]))]


def _token_rows(inputs: Mapping[str, Tensor], roles: Mapping[str, str | int]) -> Iterator[tuple[int, ...]]:
    given = {role: key for role, key in roles.items() if isinstance(key, str)}  # a batch's places are not arguments'
    found, different = guessed(inputs, given), _different(inputs)
    if "tokens" not in found and len(different) > 1:
        raise NotApplicable(
            f"a model whose token ids can be told among its arguments {', '.join(inputs)}: they go by "
            f"{', '.join(ROLES['tokens'].names)}, or as in Subject(roles=...)"
        )
    tokens = inputs[str(found["tokens"])] if "tokens" in found else different[0]
    mask = inputs[str(found["mask"])] if "mask" in found else torch.ones_like(tokens)
    real = mask != 0 if mask.shape == tokens.shape else torch.ones_like(tokens, dtype=torch.bool)
    width = max(1, tokens.shape[-1])
    for row, kept in zip(tokens.reshape(-1, width), real.reshape(-1, width), strict=True):
        yield tuple(row[kept].tolist())


def _different(inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """The tensors, each once: what came by position stands under its name, too."""
    found: list[Tensor] = []
    for tensor in inputs.values():
        if not any(tensor.shape == other.shape and torch.equal(tensor, other) for other in found):
            found.append(tensor)
    return found


def _of_each(
    check: Callable[[Subject, Callable[[], Made]], None], ways: Callable[[Subject], list[Callable[[], Made]]]
) -> Callable[[Subject], None]:
    """The check, run for each way to make what it looks at; not applicable where it is so for all."""

    @wraps(check)
    def run_for_each(subject: Subject) -> None:
        lacks, passed = [NotApplicable("train_step or loop")], False
        for make in ways(subject):
            try:
                check(subject, make)
                passed = True
            except NotApplicable as lack:
                lacks.append(lack)
        if not passed:
            raise lacks[-1]

    return run_for_each


def _stepping(subject: Subject) -> list[Make]:
    return [] if subject.train_step is None else [partial(own_run, subject)]


def _looping(subject: Subject) -> list[Make]:
    return [] if subject.loop is None else [partial(loop_run, subject)]


def _holding(subject: Subject) -> list[Callable[[], NamedOptimizer]]:
    given: list[Callable[[], NamedOptimizer]] = [] if subject.optimizer is None else [partial(_given, subject)]
    return given if subject.loop is None else [*given, partial(_of_loop, subject)]


def _given(subject: Subject) -> NamedOptimizer:
    model = new_model(subject).train()
    return NamedOptimizer("Subject.optimizer", model, innermost(new_optimizer(subject, model)))


def _of_loop(subject: Subject) -> NamedOptimizer:
    loop: Loop = needed(subject, "loop")()
    return NamedOptimizer("Subject.loop's optimizer", loop.model, innermost(loop.optimizer))


def _plain(subject: Subject, model: nn.Module, optimizer: Optimizer, batches: list[Batch]) -> dict[str, float]:
    def evaluated() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(subject, model, batches[0])
        loss.backward()
        return loss.detach()

    if asks_again(optimizer):
        return {"loss": float(optimizer.step(evaluated))}  # ty: ignore[no-matching-overload]
    loss = evaluated()
    stepped(optimizer)
    return {"loss": float(loss)}


def _by_tokens(subject: Subject) -> dict[tuple[Any, ...], Batch]:
    assert subject.epoch_batches is not None
    with seeded():
        batches = list(subject.epoch_batches(0))
    flat = [part for batch in batches for part in (batch if isinstance(batch, list) else [batch])]
    return {_key(tokens_of(subject, batch)): batch for batch in flat}


def _key(tokens: Tensor) -> tuple[Any, ...]:
    return tuple(tokens.shape), tuple(tokens.flatten().tolist())
