"""What checks of training make of odd subjects: they name what these lack, and find what only these have."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.checkpoint import checkpoint

from andon.verify.access.roles import IGNORE
from andon.verify.run.runner import check
from andon.verify.subject import Adapters, Subject
from tests.verify import loops
from tests.verify.checks.test_odd_models import PASSED, Odd, built, unlabeled
from tests.verify.small import VOCAB, WIDTH, Small, batch, loss, said, small

pytestmark = pytest.mark.long
MIXTURE = "a mixture's micro-batches of one size"
ONCE = "one optimizer update per step"
Act = Callable[..., Mapping[str, float]]


# ---------------------------------------------------------------------------------------------- steps
def plainly(model: nn.Module, optimizer: Any, batches: list[Any]) -> dict[str, float]:
    """A step as scripts write it."""
    optimizer.zero_grad()
    losses = [loss(model, each) / len(batches) for each in batches]
    for each in losses:
        each.backward()
    optimizer.step()
    return {"loss": float(sum(each.detach() for each in losses))}


def quietly(*given: Any) -> dict[str, float]:
    """A step that reports nothing."""
    plainly(*given)
    return {}


def idly(*_: Any) -> dict[str, float]:
    """No step."""
    return {}


def twice(model: nn.Module, optimizer: Any, batches: list[Any]) -> dict[str, float]:
    """Two updates."""
    plainly(model, optimizer, batches)
    return plainly(model, optimizer, batches)


def emptily(_model: nn.Module, optimizer: Any, _batches: list[Any]) -> dict[str, float]:
    """An update without a gradient."""
    optimizer.zero_grad()
    optimizer.step()
    return {}


def under_autocast(model: nn.Module, optimizer: Any, batches: list[Any]) -> dict[str, float]:
    """A step whose backward pass runs under autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        loss(model, batches[0]).backward()
    optimizer.step()
    return {}


def refusing(model: nn.Module, optimizer: Any, batches: list[Any]) -> dict[str, float]:
    """A step that raises where the gradient is not finite."""
    optimizer.zero_grad()
    loss(model, batches[0]).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
    optimizer.step()
    return {}


def emptied(model: nn.Module, optimizer: Any, batches: list[Any]) -> dict[str, float]:
    """A step whose gradient is zero where it is not finite."""
    optimizer.zero_grad()
    loss(model, batches[0]).backward()
    if not torch.isfinite(nn.utils.clip_grad_norm_(model.parameters(), 1.0)):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {}


def put_back(model: nn.Module, optimizer: Any, batches: list[Any]) -> dict[str, float]:
    """A step whose weights are put back where the gradient was not finite, and whose moments stay."""
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    plainly(model, optimizer, batches)
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        for parameter, value in zip(model.parameters(), kept, strict=True):
            parameter.data.copy_(value)
    return {}


def of_loss(mean: Callable[[Any, Any], Tensor]) -> Act:
    """A step of another loss."""

    def step(model: nn.Module, optimizer: Any, batches: list[Any]) -> dict[str, float]:
        optimizer.zero_grad()
        mean(model, batches[0]).backward()
        optimizer.step()
        return {}

    return step


def drifting(model: nn.Module, optimizer: Any, batches: list[Any]) -> dict[str, float]:
    """A step that moves what is frozen."""
    plainly(model, optimizer, batches)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3)
    return {}


def careless(model: Any, optimizer: Any, batches: list[Any]) -> dict[str, float]:
    """A step that counts on every gradient."""
    optimizer.zero_grad()
    loss(model, batches[0]).backward()
    model.mix.weight.grad.clamp_(-1.0, 1.0)
    optimizer.step()
    return {}


def beside(model: nn.Module, optimizer: Any, batches: list[Any]) -> dict[str, float]:
    """A step in which another model learns too."""
    other = Small()
    plainly(other, torch.optim.SGD(other.parameters(), lr=0.1), batches)
    return plainly(model, optimizer, batches)


def on_vectors(model: Any, optimizer: Any, batches: list[Any]) -> dict[str, float]:
    """A step in which no module is called with ids."""
    optimizer.zero_grad()
    vectors = one_hot(batches[0]["tokens"], VOCAB).float() @ model.embed.weight
    total = cross_entropy(model.head(vectors).flatten(0, 1), batches[0]["labels"].flatten())
    total.backward()
    optimizer.step()
    return {"loss": float(total)}


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW without decay."""
    return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)


def stepping(act: Act, **parts: Any) -> Subject:
    """The small subject with a step."""
    return small(**{"train_step": act, "optimizer": adamw, **parts})


# ---------------------------------------------------------------------------------------------- optimizers
class Bare:
    """An optimizer that is none of torch's, and has no hooks."""

    def __init__(self, model: nn.Module) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "lr": 1e-3}]

    def step(self) -> None:
        """Down the gradient."""
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.add_(parameter.grad, alpha=-1e-3)


class Both:
    """Two optimizers that share a model."""

    def __init__(self, model: nn.Module) -> None:
        one, *others = model.parameters()
        self.parts = [torch.optim.SGD(each, lr=1e-2) for each in ([one], others)]
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def zero_grad(self) -> None:
        """Of both."""
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        """Of both."""
        for part in self.parts:
            part.step()


class Bound(torch.optim.Optimizer):
    """An optimizer that no copy can stand for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), {"lr": 1e-2})
        self.own = id(self)

    def step(self, closure: Any = None) -> Any:  # noqa: ARG002 - torch's signature
        """Down the gradient; refused to a copy."""
        if id(self) != self.own:
            raise RuntimeError("this handle is of another optimizer")
        for parameter in self.param_groups[0]["params"]:
            parameter.data.sub_(1e-2 * parameter.grad)


def listed_twice(model: nn.Module) -> torch.optim.Optimizer:
    """One parameter again."""
    made = adamw(model)
    made.param_groups[0]["params"].append(made.param_groups[0]["params"][0])
    return made


def with_foreign_parameter(model: nn.Module) -> torch.optim.Optimizer:
    """A tensor that is none of the model's."""
    return torch.optim.SGD([*model.parameters(), nn.Parameter(torch.ones(3))], lr=1e-2)


def two_rates(model: nn.Module) -> torch.optim.Optimizer:
    """A rate for each group."""
    one, *others = model.parameters()
    return torch.optim.SGD([{"params": [one], "lr": 0.5}, {"params": others}], lr=1e-2)


def halves(rate: float, act: Act = plainly) -> Subject:
    """Weights in bfloat16."""
    return stepping(
        act, model=lambda: Small().bfloat16(), optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=rate)
    )


# ---------------------------------------------------------------------------------------------- loops
class Loop:
    """A run of the small model: a new batch each step, at rates that may be given."""

    def __init__(self, act: Act = plainly, rates: tuple[float, ...] = ()) -> None:
        torch.manual_seed(0)
        self.model, self.act, self.rates, self.number = Small(), act, rates, 0
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)

    def step(self) -> Mapping[str, float]:
        """On the batch of this step."""
        if self.number < len(self.rates):
            self.optimizer.param_groups[0]["lr"] = self.rates[self.number]
        given = batch(torch.Generator().manual_seed(self.number))
        self.number += 1
        return self.act(self.model, self.optimizer, [given])

    def save(self, folder: Path) -> None:
        """Weights and place."""
        loops.write(folder, self.model.state_dict(), {"number": self.number})

    def validate(self) -> float:
        """On one batch."""
        with torch.no_grad():
            return float(loss(self.model, batch(torch.Generator().manual_seed(99))))


def in_double(folder: Path) -> Loop:
    """The run goes on in double precision."""
    run, (tensors, numbers) = Loop(), loops.read(folder)
    run.model.load_state_dict(tensors)
    run.model.double()
    run.number = numbers["number"]
    return run


class Wandering(loops.Script):
    """Each run has other data."""

    runs = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.data = loops.corpus(loops.EXAMPLES, next(self.runs), ragged=True)


class Resting(loops.Script):
    """Evaluation ends in eval mode, and no step leaves it."""

    def validate(self) -> float:
        """The loss."""
        value = super().validate()
        self.model.eval()
        return value


def looping(act: Act = plainly, rates: tuple[float, ...] = (), **parts: Any) -> Subject:
    """The small subject with a loop."""
    return small(loop=lambda: Loop(act, rates), **parts)


def script(**parts: Any) -> Subject:
    """The script with some parts exchanged."""
    return replace(loops.script(), **parts)


# ---------------------------------------------------------------------------------------------- evaluation, schedules
def validated(model: nn.Module, batches: list[Any]) -> float:
    """The mean in eval mode."""
    model.eval()
    with torch.no_grad():
        value = sum(float(loss(model, each)) for each in batches) / len(batches)
    model.train()
    return value


def counting(model: Any, batches: list[Any]) -> float:
    """The same; a weight is written."""
    model.mix.bias.data.add_(1)
    return validated(model, batches)


def with_graph(model: nn.Module, batches: list[Any]) -> Tensor:
    """The same, as a tensor with its graph."""
    return torch.stack([loss(model, each) for each in batches]).mean()


def by_ids(model: nn.Module, batches: list[Any]) -> float:
    """The mean of what has no labels."""
    mean = unlabeled().loss
    with torch.no_grad():
        return sum(float(mean(model, each)) for each in batches) / len(batches)


class Ticking:
    """A schedule without a state."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        """A little less."""
        self.optimizer.param_groups[0]["lr"] *= 0.9


def rated(rate: Callable[[int], float], **settings: float) -> Subject:
    """A subject of a rate with a peak of 1."""
    return small(lr_at=rate, hyperparameters={"learning_rate": 1.0, **settings})


# ---------------------------------------------------------------------------------------------- adapters
class Directed(loops.Lora):
    """An adapter whose change has a size of its own."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        change = self.b @ self.a
        return self.base(x) + x @ (change / change.norm()).mT


class Around(nn.Module):
    """A model within another."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        return self.model(tokens)


def add(model: Any, rank: int, alpha: float) -> nn.Module:
    """An adapter on one layer."""
    model.requires_grad_(False)
    model.mix = loops.Lora(model.mix, rank, alpha)
    return model


def add_writing(model: Any, rank: int, alpha: float) -> nn.Module:
    """The same; each pass in training writes a frozen weight."""

    def write(*_: Any) -> None:
        model.head.weight.data.mul_(1 + 1e-3 * model.training)

    model.embed.register_forward_hook(write)
    return add(model, rank, alpha)


def add_filled(model: Any, rank: int, alpha: float) -> nn.Module:
    """The same; neither side begins at 0."""
    made = add(model, rank, alpha)
    nn.init.normal_(made.get_parameter("mix.b"))
    return made


def add_gain(model: Any, *_: float) -> nn.Module:
    """A gain, whatever the rank."""
    model.requires_grad_(False)
    model.gain = nn.Parameter(torch.ones(WIDTH))
    model.embed.register_forward_hook(lambda _module, _tokens, states: states * model.gain)
    return model


def add_aside(model: Any, rank: int, alpha: float) -> nn.Module:
    """An adapter that is not called."""
    model.requires_grad_(False)
    model.rest = loops.Lora(nn.Linear(WIDTH, WIDTH).requires_grad_(False), rank, alpha)
    return model


def add_directed(model: Any, rank: int, alpha: float) -> nn.Module:
    """Adapters on two layers, which are nothing where they are zero."""
    model.requires_grad_(False)
    model.mix, model.head = Directed(model.mix, rank, alpha), Directed(model.head, rank, alpha)
    return model


def merge(model: Any) -> nn.Module:
    """Folded in."""
    model.mix.fold(1)
    return model


def merge_once(model: Any) -> nn.Module:
    """Folded in, or refused."""
    if model.mix.merged:
        raise RuntimeError("merged already")
    return merge(model)


def merge_more(model: Any) -> nn.Module:
    """Folded in, with noise."""
    model.mix.base.weight.data.add_(torch.randn(WIDTH, WIDTH))
    return merge(model)


def unmerge(model: Any) -> nn.Module:
    """Taken out."""
    model.mix.fold(-1)
    return model


def unmerge_into(model: Any) -> nn.Module:
    """Taken out, within another model."""
    return Around(unmerge(model))


def unmerge_moving(model: Any) -> nn.Module:
    """Taken out; a weight that nothing calls has moved."""
    model.spare.weight.data.mul_(2)
    return unmerge(model)


def save_unmerged(model: Any, _: Path) -> None:
    """Refused where it is merged."""
    raise RuntimeError(f"merged: {model.mix.merged}")


def adapted(*parts: Any, model: Callable[[], nn.Module] = Small, **settings: float) -> Subject:
    """The small subject with adapters."""
    return small(adapters=Adapters(*parts), model=model, hyperparameters=settings)


def spare(model: Any) -> None:
    """A layer that nothing calls."""
    model.spare = nn.Linear(WIDTH, WIDTH)


class Recomputed(Small):
    """A model that can compute activations again."""

    again = False

    def gradient_checkpointing_enable(self) -> None:
        """From here on."""
        self.again = True

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        return checkpoint(super().forward, tokens, use_reentrant=False) if self.again else super().forward(tokens)


class Always(Small):
    """A model that always computes activations again."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        return checkpoint(super().forward, tokens, use_reentrant=False)


class Taking(Small):
    """A model that is called with a whole batch."""

    def forward(self, tokens: Any) -> Tensor:
        """Logits of a batch, or of tokens."""
        return super().forward(tokens["tokens"] if isinstance(tokens, Mapping) else tokens)


def but_one(model: Any) -> None:
    """One matrix is left to learn."""
    for frozen in (model.embed, model.head):
        frozen.requires_grad_(False)


def rest(model: Any) -> None:
    """A parameter that has no part."""
    model.rest = nn.Parameter(torch.ones(2))


def with_rest(*given: Any) -> Tensor:
    """The loss, in which it counts 0 times."""
    return loss(*given) + 0.0 * given[0].rest.sum()


def beginning(generator: torch.Generator) -> dict[str, Tensor]:
    """A batch whose first labels alone are counted."""
    given = batch(generator)
    return given | {"labels": given["labels"].index_fill(1, torch.arange(3, 6), IGNORE)}


def taken(model: nn.Module, given: Any) -> Tensor:
    """The loss of a model that takes whole batches."""
    return cross_entropy(model(given).flatten(0, 1), given["labels"].flatten())


ODD = {
    # ------------------------------------------------------------------------------------------ accumulation
    "many rows of a mixture": Odd("accumulation.many", lambda: stepping(plainly, mixture_of_experts=True), PASSED),
    "parts of a mixture": Odd("accumulation.gradient", lambda: stepping(plainly, mixture_of_experts=True), PASSED),
    "loop of a mixture": Odd("updates.gradient", lambda: script(mixture_of_experts=True, train_step=None), MIXTURE),
    "nothing reported": Odd("accumulation.reported_loss", lambda: stepping(quietly), "loss among what the step"),
    "first step that reports nothing": Odd("updates.logged_loss", lambda: stepping(quietly), PASSED),
    "optimizer without hooks": Odd(
        "autocast.scope", lambda: stepping(under_autocast, optimizer=Bare), "the backward pass ran under autocast"
    ),
    # ------------------------------------------------------------------------------------------ clipping
    "threshold of 0": Odd(
        "clipping.bound",
        lambda: stepping(plainly, hyperparameters={"grad_clip": 0.0}),
        "hyperparameters['grad_clip'] above 0",
    ),
    "step that raises": Odd("clipping.non_finite", lambda: stepping(refusing), PASSED),
    "gradient emptied": Odd("clipping.non_finite", lambda: stepping(emptied), PASSED),
    "moments not put back": Odd(
        "clipping.non_finite", lambda: stepping(put_back, hyperparameters={"skips_nonfinite": 1}), "6 of 6 steps with"
    ),
    "parameter without a gradient": Odd(
        "clipping.non_finite",
        lambda: stepping(plainly, model=built(rest).model, hyperparameters={"skips_nonfinite": 1}),
        "2 of 6 steps with",
    ),
    # ------------------------------------------------------------------------------------------ evaluation
    "evaluation of a mixture": Odd(
        "evaluation.cut",
        lambda: small(validate=validated, mixture_of_experts=True),
        "whose tokens do not share experts",
    ),
    "batches of one size": Odd("evaluation.cut", lambda: small(validate=validated), PASSED),
    "batches without labels": Odd("evaluation.mean", lambda: unlabeled(validate=by_ids), PASSED),
    "evaluation that writes": Odd(
        "evaluation.traces", lambda: small(validate=counting), "changes 1 tensors of the model: mix.bias"
    ),
    "evaluation with a graph": Odd("evaluation.traces", lambda: small(validate=with_graph), "keeps its graph alive"),
    "evaluated run that wanders": Odd("evaluation.trajectory", lambda: script(loop=Wandering), "that is deterministic"),
    "run that stays in eval mode": Odd(
        "evaluation.mode", lambda: script(loop=Resting, validate=None), "the step after an evaluation runs 2 passes"
    ),
    # ------------------------------------------------------------------------------------------ recomputation
    "checkpointing by method": Odd("memory.recomputation", lambda: small(model=Recomputed), PASSED),
    "adapter and checkpointing": Odd("adapters.recomputation", lambda: adapted(add_gain, model=Recomputed), PASSED),
    "step that computes again": Odd("updates.gradient", lambda: stepping(plainly, model=Always), PASSED),
    # ------------------------------------------------------------------------------------------ adapters
    "frozen weight written": Odd("adapters.frozen", lambda: adapted(add_writing), "3 steps change 1 of 4 frozen"),
    "no checkpointing": Odd("adapters.recomputation", lambda: adapted(add), "gradient_checkpointing_enable()"),
    "adapter that learns": Odd("adapters.learning", lambda: adapted(add), PASSED),
    "nothing at 0": Odd("adapters.scale", lambda: adapted(add_filled), PASSED),
    "no rank": Odd("adapters.scale", lambda: adapted(add_gain), "an adapter of the same tensors at each rank"),
    "adapter aside": Odd("adapters.merge", lambda: adapted(add_aside, lambda model: model), "moves the logits by 0 of"),
    "nothing folded": Odd(
        "adapters.merged_weights", lambda: adapted(add, lambda model: model), "the base's parameters"
    ),
    "more than B A": Odd("adapters.merged_weights", lambda: adapted(add, merge_more), "by a matrix of rank above 3"),
    "second merge refused": Odd("adapters.merge_again", lambda: adapted(add, merge_once), PASSED),
    "unmerged within another": Odd("adapters.unmerge", lambda: adapted(add, merge, unmerge_into), PASSED),
    "unmerged and moved": Odd(
        "adapters.unmerge",
        lambda: adapted(add, merge, unmerge_moving, model=built(spare).model),
        "merging and unmerging moves spare.weight",
    ),
    "merged file refused": Odd(
        "adapters.file_of_merged", lambda: adapted(add, merge, None, save_unmerged, lambda model, _: model), PASSED
    ),
    "base with dropout": Odd(
        "adapters.dropout",
        lambda: adapted(add, model=lambda: Small(0.3), lora_dropout=0.2),
        "a base without dropout of its own",
    ),
    "adapter of a size": Odd(
        "adapters.dropout", lambda: adapted(add_directed, lora_dropout=0.2), "adapters that can be all zero"
    ),
    # ------------------------------------------------------------------------------------------ optimizers
    "listed twice": Odd("optimizer.membership", lambda: small(optimizer=listed_twice), "of which only 4 are different"),
    "rates of its own": Odd(
        "optimizer.settings", lambda: small(optimizer=two_rates, hyperparameters={"learning_rate": 0.1}), PASSED
    ),
    "decay beyond 1": Odd(
        "optimizer.settings",
        lambda: small(optimizer=lambda model: torch.optim.AdamW(model.parameters(), weight_decay=1.5)),
        "a group's weight_decay is 1.5",
    ),
    "large eps": Odd(
        "optimizer.settings",
        lambda: small(optimizer=lambda model: torch.optim.AdamW(model.parameters(), eps=0.5)),
        "a group's eps is 0.5",
    ),
    "halves without updates": Odd("optimizer.survival", lambda: halves(1e-5, idly), "at rates below their rounding"),
    "halves at a large rate": Odd("optimizer.survival", lambda: halves(1.0), "at rates below their rounding"),
    # ------------------------------------------------------------------------------------------ runs
    "augmented run": Odd("resume.epochs", lambda: script(random_augmentation=True), "whose examples stay as they are"),
    "run on vectors": Odd(
        "resume.epochs",
        lambda: looping(on_vectors, hyperparameters={"epoch_steps": 2}),
        "that is called with token ids",
    ),
    "step on vectors": Odd("updates.gradient", lambda: looping(on_vectors), "that is called with token ids"),
    "run without epochs": Odd(
        "resume.epochs", lambda: looping(hyperparameters={"epoch_steps": 2}), "of them are not in both"
    ),
    "resumed run that wanders": Odd("resume.continuation", lambda: script(loop=Wandering), "that is deterministic"),
    "resumed in double": Odd(
        "resume.continuation", lambda: looping(resume=in_double), "is torch.float32 and torch.float64"
    ),
    # ------------------------------------------------------------------------------------------ schedules
    "dip in the warm-up": Odd(
        "schedule.warmup",
        lambda: rated(lambda step: (0.25, 0.1, 0.5, 0.75, 1.0)[min(step, 4)], warmup_steps=4),
        "updates the rate falls by 0.15",
    ),
    "end not said": Odd("schedule.decline", lambda: rated(lambda step: max(0.0, 1 - step / 9), steps=9), PASSED),
    "another end": Odd(
        "schedule.decline",
        lambda: rated(lambda step: max(0.3, 1 - step / 9), steps=9, min_ratio=0.1),
        "min_ratio 0.1 of",
    ),
    "no end": Odd(
        "schedule.decline",
        lambda: rated(lambda step: max(0.0, 1 - 0.009 * step), steps=100, min_ratio=0.1),
        "beyond the last step the rate goes on",
    ),
    "run without updates": Odd("schedule.run", lambda: looping(idly, hyperparameters={"learning_rate": 1e-3}), ONCE),
    "rates of no updates": Odd("schedule.applied", lambda: looping(idly), ONCE),
    "below the peak": Odd(
        "schedule.run", lambda: looping(hyperparameters={"learning_rate": 1e-2}), "the rate is 0.001 at most"
    ),
    "run that dips": Odd(
        "schedule.run",
        lambda: looping(rates=(0.2, 0.1, 0.5, 1.0), hyperparameters={"learning_rate": 1.0, "warmup_steps": 3}),
        "in the warm-up of 3 updates the rate falls from 0.2 to 0.1",
    ),
    "run that begins at its peak": Odd(
        "schedule.run",
        lambda: looping(rates=(1.0, 1.0, 1.0), hyperparameters={"learning_rate": 1.0, "warmup_steps": 3}),
        "the first of 3 warm-up updates is made at 1, the peak",
    ),
    "schedule without a state": Odd(
        "schedule.state", lambda: small(lr_scheduler=Ticking), "a schedule with state_dict"
    ),
    # ------------------------------------------------------------------------------------------ updates
    "frozen part that moves": Odd(
        "updates.movement",
        lambda: stepping(drifting, model=built(lambda model: model.mix.requires_grad_(False)).model),
        "2 of 2 frozen parameters changed",
    ),
    "no update": Odd("updates.movement", lambda: stepping(idly), "no update was made"),
    "gradient of 0": Odd(
        "updates.movement",
        lambda: stepping(of_loss(with_rest), model=built(rest).model, loss=with_rest),
        PASSED,
    ),
    "rate of 0": Odd(
        "updates.movement",
        lambda: stepping(plainly, optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.0)),
        "at rates up to 0",
    ),
    "one matrix": Odd(
        "updates.frozen",
        lambda: stepping(plainly, model=built(but_one).model),
        "two trainable matrices",
    ),
    "step that needs all gradients": Odd(
        "updates.frozen", lambda: stepping(careless), "a step that can train with mix.weight frozen"
    ),
    "nothing moves": Odd("updates.frozen", lambda: stepping(idly), "none of the other 3 parameters moved"),
    "tensor of nobody's": Odd(
        "updates.arithmetic",
        lambda: stepping(plainly, optimizer=with_foreign_parameter),
        "over the model's own parameters",
    ),
    "no copy can step": Odd(
        "updates.arithmetic", lambda: stepping(plainly, optimizer=Bound), "an optimizer of which a copy can step"
    ),
    "two updates": Odd("updates.gradient", lambda: stepping(twice), "(Subject.train_step made 2)"),
    "update without a gradient": Odd("updates.gradient", lambda: stepping(emptily), "over the model's own parameters"),
    "part that gets no gradient": Odd("updates.gradient", lambda: stepping(plainly, model=built(rest).model), PASSED),
    "few labels and a collator": Odd(
        "accumulation.gradient",
        lambda: stepping(plainly, batch=beginning, collate_padded=list),
        "differs by 0.3 of itself",
    ),
    "another model beside it": Odd("updates.single", lambda: stepping(beside), PASSED),
    "two optimizers": Odd("updates.single", lambda: stepping(plainly, optimizer=Both), PASSED),
    "called with a batch": Odd("updates.gradient", lambda: stepping(of_loss(taken), model=Taking, loss=taken), PASSED),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_odd_subject_is_told_what_it_lacks_or_has(odd: Odd) -> None:
    """Behavior: a check of an odd subject passes, names what it needs, or finds the fault, with these words."""
    report = check(odd.made(), only=(odd.check,))
    assert odd.said in said(report)
