"""The training loop: a generator that yields one frozen record per step.

Logging, checkpoint cadence, validation and stopping are a `for` loop in the caller. The one hook is `span`, a factory
of context managers around each step and its phases, for tracing.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch

from andon.core.config import Config, TrainingConfig
from andon.core.data.batch import IGNORE, Batch
from andon.core.data.dataset import Dataset, batches
from andon.core.model.llama import Llama, build_model
from andon.core.training.allocator import keep_freed_memory
from andon.core.training.loss import loss
from andon.core.training.optimizer import build_optimizer, gradient_norm, step
from andon.core.training.schedule import learning_rate
from andon.core.training.seconds import PhaseSeconds
from andon.core.training.state import TrainState


class OpenSpan(Protocol):
    """What a span factory's context manager yields."""

    def set_attributes(self, **attributes: str | bool | float) -> None:
        """Add what is known only at the span's end."""
        ...


class NotRecorded:
    """The open span of an untraced run."""

    def set_attributes(self, **attributes: str | bool | float) -> None:
        """Do nothing."""


Span = Callable[..., AbstractContextManager[OpenSpan]]

AUTOCAST_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
INITIAL_LOSS_SCALE = 65536.0  # of a float16 loss; halved on overflow, doubled after this many finite steps:
LOSS_SCALE_GROWTH_INTERVAL = 2000


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a loss or gradient that is not finite."""


@dataclass(frozen=True)
class StepRecord:
    """What one optimizer step did."""

    step: int  # 1 for the first
    epoch: int
    loss: float  # nats per counted token, over all micro-batches
    grad_norm: float  # before clipping
    learning_rate: float
    tokens: int  # counted labels
    skipped: bool  # loss or gradient not finite: the weights were left alone
    seconds: dict[str, float]  # by phase: data, forward, backward, clip, optimizer; on a GPU see PhaseSeconds.collect


def no_span(_name: str, **_attributes: object) -> AbstractContextManager[OpenSpan]:
    """The span factory of an untraced run."""
    return nullcontext(NotRecorded())


def initial_state(config: Config, device: str = "cpu") -> TrainState:
    """A new run's state: seeded weights and an empty optimizer."""
    keep_freed_memory()
    model = build_model(config.model, config.training.seed, device)
    return initial_state_of(model, config)


def initial_state_of(model: Llama, config: Config) -> TrainState:
    """A new run's state for a model that has its weights."""
    torch.manual_seed(config.training.seed)
    model.activation_checkpointing = config.training.activation_checkpointing
    if config.training.compile:
        model.hidden = torch.compile(model.hidden)
    scale = INITIAL_LOSS_SCALE if config.training.dtype == "float16" else 1.0
    return TrainState(model, build_optimizer(model, config.training), loss_scale=scale)


def train(state: TrainState, dataset: Dataset, config: Config, *, span: Span = no_span) -> Iterator[StepRecord]:
    """Train from where `state` stands to the run's end, changing `state` in place, and yield one record per step.

    A step whose loss or gradient is not finite changes no weight and is marked `skipped`.

    Raises:
        NonFiniteError: `training.max_skipped_steps` steps in a row were skipped. Their records have been yielded.
    """
    steps = dataset.steps(config)
    device = state.model.lm_head.weight.device
    upcoming = batches(dataset, config, state.data)
    seconds = PhaseSeconds()
    while state.step < steps:
        seconds = PhaseSeconds(seconds.late)
        epoch = state.data.epoch
        rate = learning_rate(state.step, steps, config.training.learning_rate, config.schedule)
        with span("train.step", step=state.step + 1, epoch=epoch, learning_rate=rate) as recorded:
            with _phase("data", span, seconds, device):
                micro_batches, state.data = next(upcoming)
            total, tokens = accumulate_gradients(state, micro_batches, config.training, span, seconds)
            with _phase("clip", span, seconds, device):
                norm = float(gradient_norm(state.optimizer)) / state.loss_scale
            finite = math.isfinite(total) and math.isfinite(norm)
            with _phase("optimizer", span, seconds, device):
                if finite:
                    step(state.optimizer, rate, norm, config.training.grad_clip, state.loss_scale)
                else:
                    state.optimizer.zero_grad(set_to_none=True)
            recorded.set_attributes(loss=total, grad_norm=norm, tokens=tokens, skipped=not finite)
        seconds.collect()
        state.step += 1
        state.skipped_in_a_row = 0 if finite else state.skipped_in_a_row + 1
        _update_loss_scale(state, finite, config.training)
        yield StepRecord(state.step, epoch, total, norm, rate, tokens, not finite, dict(seconds))
        if state.skipped_in_a_row >= config.training.max_skipped_steps:
            raise NonFiniteError(
                f"step {state.step}: loss {total} or gradient norm {norm} was not finite for {state.skipped_in_a_row} "
                "steps in a row; the weights are those before the first of them. Lower training.learning_rate, "
                "lengthen schedule.warmup_steps, or inspect the data of these steps"
            )


def validate(model: Llama, held_out: Iterable[Batch], dtype: str = "float32") -> tuple[float, int]:
    """Mean nats per counted token over all batches together, and the number of counted tokens.

    The model's training mode is restored.
    """
    was_training = model.training
    model.eval()
    total, tokens = 0.0, 0
    device = model.lm_head.weight.device
    try:
        for batch in held_out:
            with torch.no_grad(), autocast(dtype, device):
                total += float(loss(model, _to_device(batch, device), tokens=1))
            tokens += int((batch.labels_BT != IGNORE).sum())
    finally:
        model.train(was_training)
    return total / tokens, tokens


def autocast(dtype: str, device: torch.device) -> AbstractContextManager[object]:
    """Half precision for matrix products; nothing for "float32"."""
    return torch.autocast(device.type, AUTOCAST_DTYPES[dtype]) if dtype in AUTOCAST_DTYPES else nullcontext()


def accumulate_gradients(
    state: TrainState, micro_batches: list[Batch], training: TrainingConfig, span: Span, seconds: PhaseSeconds
) -> tuple[float, int]:
    """Gradients of one large batch, one micro-batch at a time: each loss is divided by the tokens of all of them."""
    state.model.train()
    device = state.model.lm_head.weight.device
    tokens = sum(int((batch.labels_BT != IGNORE).sum()) for batch in micro_batches)
    total = torch.zeros((), dtype=torch.float64)
    for batch in micro_batches:
        with _phase("forward", span, seconds, device), autocast(training.dtype, device):
            part = loss(state.model, _to_device(batch, device), tokens)
        with _phase("backward", span, seconds, device):
            (part * state.loss_scale if state.loss_scale != 1 else part).backward()
        total += part.detach().cpu()
    return float(total), tokens


def _to_device(batch: Batch, device: torch.device) -> Batch:
    documents_BT = None if batch.documents_BT is None else batch.documents_BT.to(device)
    return Batch(batch.tokens_BT.to(device), batch.labels_BT.to(device), documents_BT)


def _update_loss_scale(state: TrainState, finite: bool, training: TrainingConfig) -> None:
    """Dynamic loss scaling (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2)."""
    if training.dtype != "float16":
        return
    state.scale_streak = state.scale_streak + 1 if finite else 0
    if not finite:
        state.loss_scale /= 2
    elif state.scale_streak % LOSS_SCALE_GROWTH_INTERVAL == 0:
        state.loss_scale *= 2


@contextmanager
def _phase(name: str, span: Span, seconds: PhaseSeconds, device: torch.device) -> Generator[None]:
    """A span, and its seconds."""
    with seconds.measure(name, device), span(name):
        yield
