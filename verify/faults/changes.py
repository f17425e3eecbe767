"""What generic faults change: `change(subject, factory, *arguments)` answers instead of `factory(*arguments)`."""

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.weak import WeakTensorKeyDictionary

from andon.verify.access.documents import documents_key
from andon.verify.access.parts import find, part
from andon.verify.access.roles import IGNORE, fields, replaced, rows
from andon.verify.subject import Batch, Loop, Subject

Factory = Callable[..., Any]


# ---------------------------------------------------------------------------------------------- loss and labels
def with_labels(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """The loss of a batch with other labels, where it has labels."""

    def changed(subject: Subject, loss: Factory, model: nn.Module, batch: Batch) -> Tensor:
        key = find(subject, batch).get("labels")
        return loss(model, batch if key is None else replaced(batch, {key: change(fields(batch)[key].clone())}))

    return changed


def shifted(labels_BT: Tensor) -> Tensor:
    """One more to the left."""
    return torch.cat((labels_BT[:, 1:], torch.full_like(labels_BT[:, :1], IGNORE)), 1)


def without_last(labels_BT: Tensor) -> Tensor:
    """The last position is not counted."""
    labels_BT[:, -1] = IGNORE
    return labels_BT


def of_first_row(_: Subject, loss: Factory, model: nn.Module, batch: Batch) -> Tensor:
    """The loss of one row."""
    return loss(model, rows(batch, torch.tensor([0])))


def half_detached(_: Subject, loss: Factory, model: nn.Module, batch: Batch) -> Tensor:
    """The same loss, half of its gradient."""
    whole = loss(model, batch)
    return whole / 2 + whole.detach() / 2


def coarse(_: Subject, loss: Factory, model: nn.Module, batch: Batch) -> Tensor:
    """Rounded to bfloat16."""
    whole = loss(model, batch)
    return whole.bfloat16().to(whole.dtype)


# ---------------------------------------------------------------------------------------------- states, gradients
def with_states(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """The model, whose states (B, T, D) change where integers become such: behind the embedding."""

    def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        are_states = isinstance(output, Tensor) and output.dim() == 3 and output.is_floating_point()
        are_tokens = bool(inputs) and isinstance(inputs[0], Tensor) and not inputs[0].is_floating_point()
        return change(output) if are_states and are_tokens else None

    def changed(_: Subject, make: Factory) -> nn.Module:
        model = make()
        for leaf in [module for module in model.modules() if not any(module.children())]:
            leaf.register_forward_hook(hook)
        return model

    return changed


def leaking(x_BTD: Tensor) -> Tensor:
    """A tenth of the next position."""
    return x_BTD + 0.1 * torch.cat((x_BTD[:, 1:], torch.zeros_like(x_BTD[:, :1])), 1)


def blind(x_BTD: Tensor) -> Tensor:
    """Without the first position."""
    return torch.cat((torch.zeros_like(x_BTD[:, :1]), x_BTD[:, 1:]), 1)


def growing() -> Callable[[Tensor], Tensor]:
    """States that are larger with every call."""
    calls = [0]

    def grown(x_BTD: Tensor) -> Tensor:
        calls[0] += 1
        return x_BTD * (1 + 0.01 * calls[0])

    return grown


def with_gradient(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """The loss; the largest trainable tensor gets another gradient from it."""
    hooked = WeakTensorKeyDictionary()

    def changed(_: Subject, loss: Factory, model: nn.Module, batch: Batch) -> Tensor:
        largest = max((p for p in model.parameters() if p.requires_grad), key=Tensor.numel)
        if largest not in hooked:
            hooked[largest] = largest.register_hook(change)
        return loss(model, batch)

    return changed


def one_entry_turned(gradient: Tensor) -> Tensor:
    """The largest entry has the wrong sign."""
    turned = gradient.clone()
    turned.view(-1)[turned.abs().argmax()] *= -1
    return turned


# ---------------------------------------------------------------------------------------------- optimizer and step
def forgetful(_: Subject, build: Factory, model: nn.Module) -> Optimizer:
    """Without one parameter."""
    optimizer = build(model)
    optimizer.param_groups[0]["params"].pop()
    return optimizer


def with_decay(everywhere: bool) -> Callable[..., Any]:
    """The optimizer, with the largest decay in all groups, or none."""

    def changed(_: Subject, build: Factory, model: nn.Module) -> Optimizer:
        optimizer = build(model)
        largest = max(group.get("weight_decay", 0.0) for group in optimizer.param_groups) or 0.1
        for group in optimizer.param_groups:
            group["weight_decay"] = largest if everywhere else 0.0
        return optimizer

    return changed


@contextmanager
def instead(optimizer: Optimizer, name: str, method: Callable[..., Any]) -> Generator[None]:
    """Another method of this optimizer, for a while."""
    setattr(optimizer, name, method)
    try:
        yield
    finally:
        delattr(optimizer, name)


def not_cleared(_: Subject, step: Factory, model: nn.Module, optimizer: Optimizer, batches: list[Batch]) -> Any:
    """Gradients stay from step to step."""
    with instead(optimizer, "zero_grad", lambda *_, **__: None):
        return step(model, optimizer, batches)


def clipped_again(subject: Subject, step: Factory, model: nn.Module, optimizer: Optimizer, batches: list[Batch]) -> Any:
    """To half the bound."""
    update, bound = optimizer.step, subject.hyperparameters.get("grad_clip", 1.0) / 2

    def again(*arguments: Any, **named: Any) -> Any:
        nn.utils.clip_grad_norm_(model.parameters(), bound)
        return update(*arguments, **named)

    with instead(optimizer, "step", again):
        return step(model, optimizer, batches)


def updated_twice(_: Subject, step: Factory, model: nn.Module, optimizer: Optimizer, batches: list[Batch]) -> Any:
    """Each step updates twice."""
    update = optimizer.step

    def twice(*arguments: Any, **named: Any) -> Any:
        update(*arguments, **named)
        return update(*arguments, **named)

    with instead(optimizer, "step", twice):
        return step(model, optimizer, batches)


def without_last_batch(_: Subject, step: Factory, model: nn.Module, optimizer: Optimizer, batches: list[Batch]) -> Any:
    """The last micro-batch is left out."""
    return step(model, optimizer, batches[:-1] or batches)


def rounded(_: Subject, step: Factory, model: nn.Module, optimizer: Optimizer, batches: list[Batch]) -> Any:
    """Weights are kept in bfloat16."""
    logged = step(model, optimizer, batches)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    return logged


# ---------------------------------------------------------------------------------------------- runs and data
def rising_again(subject: Subject, rate: Factory, step: int) -> float:
    """Beyond the last step the schedule runs backwards."""
    return rate(step - 2 * max(0, step - int(subject.hyperparameters.get("steps", step))))


def mean_of_means(_: Subject, validate: Factory, model: nn.Module, batches: list[Batch]) -> float:
    """Batches' means are averaged."""
    return sum(validate(model, [batch]) for batch in batches) / max(1, len(batches))


def left_in_eval(_: Subject, validate: Factory, model: nn.Module, batches: list[Batch]) -> float:
    """The model stays in eval mode."""
    loss = validate(model, batches)
    model.eval()
    return loss


def drawing(_: Subject, validate: Factory, model: nn.Module, batches: list[Batch]) -> float:
    """Validation draws random numbers."""
    torch.randperm(8)
    return validate(model, batches)


def without_moments(_: Subject, resume: Factory, folder: Path) -> Loop:
    """The optimizer's moments start at 0 again."""
    loop = resume(folder)
    for state in loop.optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                value.zero_()
    return loop


def one_late(_: Subject, resume: Factory, folder: Path) -> Loop:
    """One step's data is passed over."""
    loop = resume(folder)
    kept = {name: value.clone() for name, value in loop.model.state_dict().items()}
    moments = copy.deepcopy(loop.optimizer.state_dict())
    loop.step()
    loop.model.load_state_dict(kept)
    loop.optimizer.load_state_dict(moments)
    return loop


def trained_on(subject: Subject, held_out: Factory) -> list[Batch]:
    """Validation batches are training batches."""
    return list(subject.epoch_batches(0))[:2] if subject.epoch_batches else list(held_out())


def joined(subject: Subject, pack: Factory, documents: Any) -> Batch:
    """Labels at documents' ends ask for what follows in the row."""
    batch = pack(documents)
    key = find(subject, batch).get("labels")
    if key is None:
        return batch
    tokens_BT, labels_BT = part(subject, batch, "tokens"), fields(batch)[key]
    counted = labels_BT != IGNORE
    inside = bool((labels_BT[counted] == tokens_BT[counted]).double().mean() > 0.5)
    return replaced(batch, {key: tokens_BT if inside else torch.cat((tokens_BT[:, 1:], labels_BT[:, -1:]), 1)})


def unmarked(subject: Subject, pack: Factory, documents: Any) -> Batch:
    """A row does not say where its documents begin."""
    batch = pack(documents)
    key = documents_key(subject, batch)
    return batch if key is None else replaced(batch, {key: torch.zeros_like(fields(batch)[key])})


def forgotten_first(_: Subject, decode: Factory, model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """The cache holds nothing of the first token."""
    first, rest = tokens_BT[:, :1], tokens_BT[:, 1:]
    return torch.cat([decode(model, part) for part in (first, rest) if part.shape[1]], 1)


def second_best(_: Subject, generate: Factory, model: nn.Module, tokens_BT: Tensor, count: int) -> Tensor:
    """The last generated token is another one."""
    made_BT = generate(model, tokens_BT, count).clone()
    made_BT[:, -1] = made_BT[:, 0]
    return made_BT
