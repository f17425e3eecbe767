"""The loop: what a step leaves behind, what it refuses, and what it may depend on."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from andon.core.data.batch import IGNORE, Batch
from andon.core.data.dataset import Dataset, open_dataset, validation_batches
from andon.core.model.llama import build_model
from andon.core.training import loop as training
from andon.core.training.loop import (
    NonFiniteError,
    StepRecord,
    accumulate_gradients,
    initial_state,
    initial_state_of,
    no_span,
    train,
    validate,
)
from andon.core.training.loss import loss
from andon.core.training.seconds import PhaseSeconds
from andon.core.training.state import TrainState
from tests.small_run import small_config, write_corpus
from tests.tolerances import distance


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A small corpus."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def plain(paths: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainState, list[StepRecord]]:
    """The unchanged run, finished."""
    return finished(paths, tmp_path_factory.mktemp("cache"))


def finished(paths: list[str], cache: Path, *overrides: tuple[str, Any]) -> tuple[TrainState, list[StepRecord]]:
    """A whole run in memory."""
    config = small_config(paths, *overrides)
    state = initial_state(config)
    return state, list(train(state, open_dataset(config, cache), config))


def weights(state: TrainState) -> list[torch.Tensor]:
    """Copies of all weights."""
    return [parameter.detach().clone() for parameter in state.model.parameters()]


@pytest.mark.tier3
def test_loss_falls(paths: list[str], tmp_path: Path) -> None:
    """Behavior: the loss after a run is well below that of its first step."""
    _, records = finished(paths, tmp_path, ("training.epochs", 5))
    assert records[-1].loss < records[0].loss - 1


@pytest.mark.tier2
def test_same_seed_same_run(plain: tuple[TrainState, list[StepRecord]], paths: list[str], tmp_path: Path) -> None:
    """Behavior: two runs of one configuration agree bitwise in every loss, norm and weight."""
    (one, first), (two, second) = plain, finished(paths, tmp_path)
    assert [(r.loss, r.grad_norm) for r in first] == [(r.loss, r.grad_norm) for r in second]
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(two), strict=True))


@pytest.mark.tier2
def test_records_say_what_happened(paths: list[str], tmp_path: Path) -> None:
    """Behavior: records number the steps from 1, count the labels of an epoch once, and time every phase."""
    config = small_config(paths)
    dataset = open_dataset(config, tmp_path)
    records = list(train(initial_state(config), dataset, config))
    epoch = [record for record in records if record.epoch == 0]
    documents = len(dataset.train.bounds) - 1
    assert list(range(1, dataset.steps(config) + 1)) == [record.step for record in records]
    assert dataset.train.tokens - documents == sum(record.tokens for record in epoch)
    assert {"data", "forward", "backward", "clip", "optimizer"} == set(records[0].seconds)
    assert config.training.learning_rate / 2 == records[0].learning_rate


@pytest.mark.tier3
@pytest.mark.parametrize(("dtype", "scale"), [("float32", 1.0), ("bfloat16", 1.0), ("float16", 65536.0)])
def test_only_float16_begins_with_a_loss_scale(paths: list[str], dtype: str, scale: float) -> None:
    """Behavior: other dtypes reach small gradients by themselves."""
    assert scale == initial_state(small_config(paths, ("training.dtype", dtype))).loss_scale


def unequal_rows(config: Any) -> Batch:
    """Eight rows in which 1 to 15 labels count."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(config.model.vocab_size, (8, 16), generator=generator)
    labels = torch.randint(config.model.vocab_size, (8, 16), generator=generator)
    for row in range(8):
        labels[row, 1 + 2 * row :] = IGNORE
    return Batch(tokens, labels, None)


@pytest.mark.tier2
def test_micro_batches_add_up() -> None:
    """Behavior: gradients of eight micro-batches of unequal length equal those of one batch (float64, rtol 1e-10)."""
    config = small_config([])
    batch = unequal_rows(config)
    grads, losses = [], []
    for parts in (1, 8):
        state = initial_state_of(build_model(config.model, 0, dtype=torch.float64), config)
        rows = zip(*(part.split(8 // parts) for part in batch[:2]), strict=True)
        micro_batches = [Batch(tokens, labels, None) for tokens, labels in rows]
        assert parts == len(micro_batches)
        total, _ = accumulate_gradients(state, micro_batches, config.training, no_span, PhaseSeconds())
        losses.append(total)
        grads.append([parameter.grad for parameter in state.model.parameters()])
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-10, atol=0)
    for one, many in zip(*grads, strict=True):
        assert distance(many, one) < 1e-10


@pytest.mark.tier2
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_step_is_skipped(bad: float, paths: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    """Behavior: a step with a loss that is not finite changes nothing, is marked, and training goes on."""
    config = small_config(paths)
    state, calls = initial_state(config), 0

    def broken(model: Any, batch: Batch, tokens: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return loss(model, batch, tokens) * (bad if calls == 5 else 1.0)  # in the middle of the second step

    monkeypatch.setattr(training, "loss", broken)
    steps = train(state, open_dataset(config, tmp_path), config)
    next(steps)
    before, moments = weights(state), {p: dict(s) for p, s in state.optimizer.state.items()}
    skipped = next(steps)
    assert skipped.skipped
    assert 1 == state.skipped_in_a_row
    assert all(torch.equal(a, b) for a, b in zip(before, weights(state), strict=True))
    assert all(float(moments[p]["step"]) == float(s["step"]) for p, s in state.optimizer.state.items())
    after = next(steps)
    assert not after.skipped
    assert 0 == state.skipped_in_a_row


@pytest.mark.tier2
def test_non_finite_gradient_is_skipped(paths: list[str], tmp_path: Path) -> None:
    """Behavior: a finite loss with a gradient that is not finite changes no weight."""
    config = small_config(paths)
    state = initial_state(config)
    state.model.model.norm.weight.register_hook(lambda grad: grad * float("inf"))
    before = weights(state)
    assert next(train(state, open_dataset(config, tmp_path), config)).skipped
    assert all(torch.equal(a, b) for a, b in zip(before, weights(state), strict=True))


@pytest.mark.tier2
def test_too_many_skips_end_the_run(paths: list[str], tmp_path: Path) -> None:
    """Behavior: the record of the last allowed skip is yielded, and then the run ends with the step in the message."""
    config = small_config(paths, ("training.max_skipped_steps", 3))
    state = initial_state(config)
    with torch.no_grad():
        state.model.lm_head.weight.fill_(float("nan"))
    records = []
    with pytest.raises(NonFiniteError, match=r"step 3.*3 steps in a row"):
        records.extend(train(state, open_dataset(config, tmp_path), config))
    steps = train(initial_state(config), open_dataset(config, tmp_path), config)
    assert not next(steps).skipped


@pytest.mark.tier2
def test_half_precision_scale_halves_on_overflow(paths: list[str], tmp_path: Path) -> None:
    """Behavior: a float16 run starts with a large loss scale, and an overflow halves it and skips the step."""
    config = small_config(paths, ("training.dtype", "float16"))
    state = initial_state(config)
    state.loss_scale = 2.0**40
    record = next(train(state, open_dataset(config, tmp_path), config))
    assert record.skipped
    assert 2.0**39 == state.loss_scale


@pytest.mark.tier2
def test_loss_scale_does_not_change_the_step(paths: list[str], tmp_path: Path) -> None:
    """Behavior: the scale is divided out again: the norm and AdamW's first moment do not know it, up to rounding."""
    config = small_config(paths, ("training.dtype", "float16"))
    dataset = open_dataset(config, tmp_path)
    results = []
    for scale in (2.0**12, 2.0**16):
        state = initial_state(config)
        state.loss_scale = scale
        record = next(train(state, dataset, config))
        results.append((record.grad_norm, [moments["exp_avg"] for moments in state.optimizer.state.values()]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-2)
    assert all(distance(a, b) < 5e-2 for a, b in zip(results[1][1], results[0][1], strict=True))


@pytest.mark.tier2
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_float32(
    dtype: str, plain: tuple[TrainState, list[StepRecord]], paths: list[str], tmp_path: Path
) -> None:
    """Behavior: under autocast the weights stay float32 and the first loss is float32's within half precision."""
    config = small_config(paths, ("training.dtype", dtype))
    state = initial_state(config)
    record = next(train(state, open_dataset(config, tmp_path), config))
    assert {torch.float32} == {parameter.dtype for parameter in state.model.parameters()}
    assert record.loss == pytest.approx(plain[1][0].loss, rel=1e-2)
    assert record.loss != plain[1][0].loss


@pytest.mark.tier2
def test_activation_checkpointing_changes_nothing(
    plain: tuple[TrainState, list[StepRecord]], paths: list[str], tmp_path: Path
) -> None:
    """Behavior: recomputing activations gives bitwise the same run."""
    again, _ = finished(paths, tmp_path, ("training.activation_checkpointing", True))
    assert all(torch.equal(a, b) for a, b in zip(weights(plain[0]), weights(again), strict=True))


@pytest.mark.tier2
def test_validation_leaves_no_trace(paths: list[str], tmp_path: Path) -> None:
    """Behavior: validating changes neither mode, nor gradients, nor random numbers, and weighs tokens equally."""
    config = small_config(paths)
    dataset: Dataset = open_dataset(config, tmp_path)
    model = initial_state(config).model.train()
    random_state = torch.get_rng_state()
    mean, tokens = validate(model, validation_batches(dataset, config))
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(random_state, torch.get_rng_state())
    sums = [
        (float(loss(model, batch, 1).detach()), int((batch.labels_BT != IGNORE).sum()))
        for batch in validation_batches(dataset, config)
    ]
    assert len({count for _, count in sums}) > 1  # unequal batches, or a mean of means would do as well
    assert sum(count for _, count in sums) == tokens
    assert sum(total for total, _ in sums) / tokens == pytest.approx(mean, rel=1e-12)


@pytest.mark.tier2
def test_the_loss_scale_halves_on_overflow_and_doubles_after_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: by hand, with a patience of three clean steps; other dtypes have no scale to change."""
    monkeypatch.setattr(training, "LOSS_SCALE_GROWTH_INTERVAL", 3)
    config = small_config([], ("training.dtype", "float16"))
    state = initial_state_of(build_model(config.model, 0), config)
    state.loss_scale, scales = 8.0, []
    for finite in (True, False, True, True, True, True, True, True, False):
        training._update_loss_scale(state, finite, config.training)
        scales.append(state.loss_scale)
    assert [8, 4, 4, 4, 8, 8, 8, 16, 8] == scales
    training._update_loss_scale(state, False, small_config([]).training)
    assert 8 == state.loss_scale


@pytest.mark.tier2
@pytest.mark.parametrize("packed", [True, False])
def test_a_batch_is_moved_whole(packed: bool) -> None:
    """Behavior: tokens, labels and, where there are any, documents."""
    batch = Batch(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2) if packed else None)
    moved = training._to_device(batch, torch.device("meta"))
    assert [packed] == [part is not None for part in moved[2:]]
    assert all(part.is_meta for part in moved if part is not None)


@pytest.mark.tier2
def test_a_phases_seconds_add_up() -> None:
    """Behavior: micro-batches of one step share a figure."""
    seconds = PhaseSeconds()
    seconds["forward"] = 5.0
    with training._phase("forward", no_span, seconds, torch.device("cpu")):
        pass
    assert 5 < seconds["forward"] < 6


class StandInEvent:
    """A GPU's event without a GPU; `done` says for each, by the order of making, whether the work has ended."""

    made: ClassVar[list["StandInEvent"]] = []
    calls: ClassVar[list[str]] = []

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.number, self.done = len(self.made), False
        self.made.append(self)

    def record(self) -> None:
        """Note the call."""
        self.calls.append(f"record {self.number}")

    def query(self) -> bool:
        """Whether the work before it has ended."""
        return self.done

    def elapsed_time(self, end: "StandInEvent") -> float:
        """Milliseconds; that both have ended is the caller's to know."""
        assert self.done
        assert end.done
        return 1000.0 * (end.number - self.number)


@pytest.mark.tier2
def test_a_gpu_is_never_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: a phase lies between two events; what has not ended is read in the step after, and nothing waits."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("a synchronization"))
    monkeypatch.setattr(torch.cuda, "Event", StandInEvent)
    monkeypatch.setattr(StandInEvent, "made", [])
    monkeypatch.setattr(StandInEvent, "calls", [])
    first = PhaseSeconds()
    for name in ("clip", "optimizer"):
        with training._phase(name, no_span, first, torch.device("cuda")):
            StandInEvent.calls.append(name)
    assert ["record 0", "clip", "record 1", "record 2", "optimizer", "record 3"] == StandInEvent.calls
    for event in StandInEvent.made[:2]:
        event.done = True
    first.collect()
    second = PhaseSeconds(first.late)
    second.collect()
    assert ({"clip": 1.0}, {}) == (first, second)
    for event in StandInEvent.made:
        event.done = True
    second.collect()
    assert {"optimizer": 1.0} == second


@pytest.mark.tier2
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_gradients_are_scaled_and_the_loss_is_not(scale: float) -> None:
    """Reference: the model's own loss and gradients in float64; the sum of micro-batches keeps its digits."""
    config = small_config([])
    batch = unequal_rows(config)
    model = build_model(config.model, 0, dtype=torch.float64)
    expected = loss(model, batch)
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    state = initial_state_of(model, config)
    state.loss_scale = scale
    total, _ = accumulate_gradients(state, [batch], config.training, no_span, PhaseSeconds())
    assert float(expected.detach()) == pytest.approx(total, rel=1e-14)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        assert distance(parameter.grad, scale * gradient) < 1e-12


@pytest.mark.tier2
def test_compiling_is_of_what_stops_before_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: only where it is requested."""
    monkeypatch.setattr(torch, "compile", lambda function: ("compiled", function))
    for requested in (True, False):
        config = small_config([], ("training.compile", requested))
        model = build_model(config.model, 0)
        plain = model.hidden
        assert (("compiled", plain) if requested else plain) == initial_state_of(model, config).model.hidden


@pytest.mark.tier2
def test_a_step_is_a_span_with_its_number_and_phases(paths: list[str], tmp_path: Path) -> None:
    """Behavior: the names that traces are read by."""
    config = small_config(paths)
    spans: list[Any] = []

    def noted(name: str, **attributes: object) -> Any:
        spans.append((name, attributes))
        return no_span(name)

    next(train(initial_state(config), open_dataset(config, tmp_path), config, span=noted))
    parts = [("forward", {}), ("backward", {})] * 3
    (_, said), *phases = spans
    assert {"step": 1, "epoch": 0} == {key: said[key] for key in ("step", "epoch")}
    assert [("data", {}), *parts, ("clip", {}), ("optimizer", {})] == phases


@pytest.mark.tier2
def test_a_skipped_step_frees_its_gradients(paths: list[str], tmp_path: Path) -> None:
    """Behavior: they are None, as after any step, and take no memory until the next."""
    config = small_config(paths)
    state = initial_state(config)
    state.model.model.norm.weight.register_hook(lambda grad: grad * float("nan"))
    assert next(train(state, open_dataset(config, tmp_path), config)).skipped
    assert all(parameter.grad is None for parameter in state.model.parameters())


@pytest.mark.tier2
def test_validation_is_where_the_model_lies(paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: every held-out batch is moved there."""
    devices: list[object] = []
    monkeypatch.setattr(training, "_to_device", lambda batch, device: devices.append(device) or batch)
    config = small_config(paths)
    held_out = list(validation_batches(open_dataset(config, tmp_path), config))
    validate(initial_state(config).model, held_out)
    assert [torch.device("cpu")] * len(held_out) == devices


@pytest.mark.tier2
def test_validation_is_in_the_dtype_of_the_run(paths: list[str], tmp_path: Path) -> None:
    """Behavior: half precision differs from float32, which is the default, within its tolerance."""
    config = small_config(paths)
    dataset, model = open_dataset(config, tmp_path), initial_state(config).model
    plain, same, half = (
        validate(model, validation_batches(dataset, config), *dtype)[0] for dtype in ([], ["float32"], ["bfloat16"])
    )
    assert plain == same != half
    assert plain == pytest.approx(half, rel=1e-2)


@pytest.mark.tier2
def test_the_loss_scale_begins_and_grows_as_torchs() -> None:
    """Reference: torch's own scaler, as it comes."""
    scaler = torch.amp.GradScaler("cpu")
    assert (scaler.get_scale(), scaler.get_growth_interval()) == (
        training.INITIAL_LOSS_SCALE,
        training.LOSS_SCALE_GROWTH_INTERVAL,
    )
