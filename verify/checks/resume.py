"""A run, saved and taken up again: the same data, rates and weights as if nothing had happened."""

import hashlib
import random
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from andon.verify.access.calls import needed
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, left_out_by
from andon.verify.observation.optimizers import innermost
from andon.verify.observation.padding import Row, rows_apart, unpadded
from andon.verify.observation.runs import Run, loop_run, of_loop
from andon.verify.observation.shown_batches import data_rows, token_rows
from andon.verify.subject import Subject

SHORT = 3  # steps of a run that is only repeated
LONGEST = 12  # steps of an epoch that checks go through whole
FARTHEST = 32  # steps of an epoch into whose successor a run is followed, to be saved there


class Print(NamedTuple):
    """What is kept of a tensor: enough to tell it from any other."""

    dtype: torch.dtype
    digest: str
    norm: float


class Record(NamedTuple):
    """What a step of a run can be told by."""

    rows: list[Row]  # in the order seen
    rates: tuple[float, ...]
    weights: dict[str, Print]
    moments: dict[str, Print]


def check_determinism(subject: Subject) -> None:
    """Two new runs are the same, bit by bit: data, learning rates, weights and optimizer state.

    Silent because every run looks plausible; but no result can be reproduced, and no fault narrowed down.

    Look for seeds that are not set, sets that are iterated over, and workers that race.

    Example:
        # wrong: no seed, so every run has other weights and another order of the data
        model = GPT(config)
        loader = DataLoader(dataset, batch_size=8, shuffle=True)

        # right
        torch.manual_seed(1337)
        model = GPT(config)
        loader = DataLoader(dataset, batch_size=8, shuffle=True)

    Reference: PyTorch documentation, Reproducibility.
    """
    first = _records(subject, loop_run(subject), SHORT)
    second = _records(subject, loop_run(subject), SHORT)
    _compare(first, second, "two new runs", "the second")


def check_continuation(subject: Subject) -> None:
    """A run that is saved and resumed goes on as the run that was not, bit by bit, wherever it was saved.

    Saved after the first step, around the end of an epoch and in the middle of the second one, where an epoch is short
    enough; each resumed run is followed for a few steps beyond the last of these places.

    Silent because the resumed run trains: on data it has seen, at another learning rate, with new moments or random
    numbers.

    Look at what the checkpoint leaves out: position in the data, epoch, order, schedule, moments, their dtype,
    scaler, random states; and at the order in which they are restored.

    Example:
        # wrong: moments, schedule, position in the data and random state are lost
        torch.save({"model": model.state_dict(), "step": step}, path)

        # right
        state = {"model": model.state_dict(), "step": step}
        state["optimizer"] = optimizer.state_dict()
        state["scheduler"] = scheduler.state_dict()
        state["loader"] = loader.state_dict()  # a torchdata StatefulDataLoader
        state["rng"] = torch.get_rng_state()
        torch.save(state, path)

    Reference: PyTorch tutorials, Saving and Loading Models.
    """
    whole = _whole(subject)
    for saved in _places(subject):
        _compare(
            whole,
            _interrupted(subject, [saved], len(whole)),
            "the run",
            f"the one saved after step {saved} and resumed",
        )


def check_twice(subject: Subject) -> None:
    """A run that is saved and resumed twice goes on as one that never was.

    Silent because a first resume can come out right thanks to what only the first process set up or counted.

    Look at counters that are restored relative to the resumed run, and at what only a new run sets up.

    Example:
        # wrong: a resumed run counts from 0, and its checkpoints say so
        for step, batch in enumerate(loader):
            train_step(batch, learning_rate(first_step + step))
            save_checkpoint(path, step=step + 1)

        # right
        for step, batch in enumerate(loader, start=first_step):
            train_step(batch, learning_rate(step))
            save_checkpoint(path, step=step + 1)
    """
    whole, first = _whole(subject), _places(subject)[0]
    twice = [first, first + 1]
    _compare(
        whole, _interrupted(subject, twice, len(whole)), "the run", f"the one saved and resumed after steps {twice}"
    )


def check_saving(subject: Subject) -> None:
    """Saving a checkpoint changes nothing in the run that goes on.

    Silent because the run that goes on trains as well.

    Look at models that are moved, cast, merged or put into eval mode to be saved, and at random numbers drawn for it.

    Example:
        # wrong: after its first checkpoint the run goes on in eval mode, without dropout
        model.eval()
        sample = model.generate(prompt_ids, do_sample=False, max_new_tokens=64)
        torch.save({"model": model.state_dict(), "sample": sample}, path)

        # right
        model.eval()
        sample = model.generate(prompt_ids, do_sample=False, max_new_tokens=64)
        torch.save({"model": model.state_dict(), "sample": sample}, path)
        model.train()
    """
    plain = _records(subject, loop_run(subject), SHORT)
    saved = _records(subject, loop_run(subject), SHORT, save_each=True)
    _compare(plain, saved, "the run", "the one saved after each step")


def check_checkpoint_stays(subject: Subject) -> None:
    """The files of a checkpoint do not change while training goes on.

    Silent until the checkpoint is wanted: the weights in it turn out to be later ones, or a mixture of several steps.

    Look for references kept where copies were meant, and for files that are mapped or written late.

    Example:
        # wrong: the thread writes tensors that the next steps change
        state = model.state_dict()
        threading.Thread(target=torch.save, args=(state, path)).start()

        # right: written before training goes on
        torch.save(model.state_dict(), path)
    """
    run = loop_run(subject)
    run.step()
    with tempfile.TemporaryDirectory() as name:
        _save(run, _new(Path(name), "saved"))
        before = _hashes(Path(name))
        for _ in range(SHORT):
            run.step()
        after = _hashes(Path(name))
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    if changed:
        raise CheckFailed(
            f"{SHORT} steps after it was saved, {len(changed)} files of a checkpoint differ: {changed[0]}"
        )


def check_progress(subject: Subject) -> None:
    """A run moves on through its data: steps in a row are not shown the same rows.

    Premise: all that the model is called with is the same, integers and floats, not only what is taken for token ids.

    Silent because the loss falls even faster: one batch is learned by heart.

    Look for an iterator or a shuffle that is made anew in each step, and for a seed that is set there.

    Example:
        # wrong: each step starts a new iterator, which begins with the first batch
        loader = DataLoader(dataset, batch_size=8)
        for step in range(max_steps):
            train_step(next(iter(loader)))

        # right
        batches = iter(DataLoader(dataset, batch_size=8))
        for step in range(max_steps):
            train_step(next(batches))
    """
    if subject.hyperparameters.get("epoch_steps", 0) <= 1:
        raise NotApplicable("hyperparameters['epoch_steps'] above 1")
    run = loop_run(subject)
    seen, whole = [], []
    for _ in range(SHORT):
        with _inputs_of(run.model) as given:
            seen.append(token_rows(subject, run.step()))
        whole.append(given)
    if seen[0] and all(rows == seen[0] for rows in seen) and all(given == whole[0] for given in whole):
        raise CheckFailed(f"{run.name}: {SHORT} steps in a row are shown the same {len(seen[0])} rows")


def check_epochs(subject: Subject) -> None:
    """The second epoch shows the same examples as the first, none of them lost or repeated, in another order.

    Rows are compared without their padding (which token that is, is measured): another batch pads to another
    length.

    Silent because a part of the data teaches as well; the same order each time is learned as if it meant something.

    Look at the seed of the shuffle, at `set_epoch`, at batches skipped to resume, and at how an epoch's end is counted.

    Example:
        # wrong: without set_epoch() every epoch has the same order
        loader = DataLoader(dataset, batch_size=8, sampler=DistributedSampler(dataset))
        for epoch in range(epochs):
            train_epoch(model, loader)

        # right
        loader = DataLoader(dataset, batch_size=8, sampler=DistributedSampler(dataset))
        for epoch in range(epochs):
            loader.sampler.set_epoch(epoch)
            train_epoch(model, loader)

    Reference: PyTorch documentation, torch.utils.data.distributed.DistributedSampler.
    """
    steps, run = _short_epoch(subject), loop_run(subject)
    seen = [token_rows(subject, run.step()) for _ in range(2 * steps)]
    first, second = ([row for rows in seen[start : start + steps] for row in rows] for start in (0, steps))
    if not first:
        raise NotApplicable("a model that is called with token ids")
    one, two = unpadded(subject, first, second)
    spare = 2 * (max(len(rows) for rows in seen) - 1)
    if (lost := rows_apart(one, two)) > spare:
        raise CheckFailed(
            f"{run.name}: the first epoch of {steps} steps shows {len(first)} rows ({len(one)} different), the second "
            f"{len(second)} ({len(two)} different), and {lost} of them are not in both"
        )
    repeats = len(first) - len(one), len(second) - len(two)
    if min(repeats) == 0 < max(repeats) or min(repeats) > max(spare, len(first) // 2):
        raise CheckFailed(
            f"{run.name}: the first epoch shows {len(first)} rows, of which {len(one)} are different; the second "
            f"{len(second)}, of which {len(two)} are"
        )
    if first == second and len(one) > 3:
        raise CheckFailed(f"{run.name}: the second epoch shows the {len(first)} rows of the first in the same order")


@contextmanager
def _inputs_of(model: nn.Module) -> Generator[list[Print]]:
    """What is kept of each tensor that a model is called with."""
    given: list[Print] = []

    def note(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        given.extend(_print(value) for value in tree_leaves((arguments, named)) if isinstance(value, Tensor))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield given
    finally:
        handle.remove()


def _records(subject: Subject, run: Run, count: int, *, save_each: bool = False) -> list[Record]:
    made = []
    with tempfile.TemporaryDirectory() as name:
        for number in range(count):
            made.append(_record(subject, run))
            if save_each:
                _save(run, _new(Path(name), str(number)))
    return made


def _record(subject: Subject, run: Run) -> Record:
    step = run.step()
    rates = tuple(float(group.get("lr") or 0.0) for group in run.optimizer.param_groups)
    rates = step.updates[-1].rates if step.updates else rates
    weights = {name: _print(parameter) for name, parameter in run.model.named_parameters()}
    return Record(data_rows(subject, step), rates, weights, _moments(run))


def _whole(subject: Subject) -> list[Record]:
    """A run that is never saved."""
    needed(subject, "resume")
    whole = _records(subject, loop_run(subject), min(max(_places(subject)) + SHORT, _total(subject)))
    try:
        _compare(whole[:SHORT], _records(subject, loop_run(subject), len(whole[:SHORT])), "", "")
    except CheckFailed as error:
        raise NotApplicable("a loop that is deterministic") from error
    return whole


def _places(subject: Subject) -> list[int]:
    """The steps after which a run is saved, with one more to come at least."""
    epoch = int(subject.hyperparameters.get("epoch_steps", 0))
    wanted = {1, epoch - 1, epoch, epoch + max(1, epoch // 2)} if 0 < epoch <= LONGEST else {1, 2}
    wanted |= {epoch + 2} if LONGEST < epoch <= FARTHEST else set()
    return sorted(place for place in wanted if 0 < place < _total(subject))


def _short_epoch(subject: Subject) -> int:
    """How many steps an epoch has, whose examples are the same each time.

    Raises:
        NotApplicable: they are not, or nobody says, or they are too many.
    """
    if subject.random_augmentation:
        raise left_out_by("random_augmentation", True, "a run whose examples stay as they are")
    steps = int(subject.hyperparameters.get("epoch_steps", 0))
    if not 0 < steps <= LONGEST or _total(subject) < 2 * steps:
        raise NotApplicable(f"hyperparameters['epoch_steps'] of at most {LONGEST}, and two epochs in a run")
    return steps


def _total(subject: Subject) -> int:
    return int(subject.hyperparameters.get("steps", 1 << 30))


def _interrupted(subject: Subject, places: list[int], count: int) -> list[Record]:
    """The run's records where it is saved and resumed after these steps."""
    assert subject.resume is not None
    run, made = loop_run(subject), []
    with tempfile.TemporaryDirectory() as name:
        for place in places:
            made += [_record(subject, run) for _ in range(place - len(made))]
            folder = _new(Path(name), str(place))
            _save(run, folder)
            _record(subject, run)  # the interrupted process went on a little
            _forget()
            run = of_loop(subject.resume(folder))
        return made + [_record(subject, run) for _ in range(count - len(made))]


def _save(run: Run, folder: Path) -> None:
    assert run.loop is not None
    run.loop.save(folder)


def _forget() -> None:
    """Another process: its random numbers are not those of this one."""
    torch.manual_seed(987654321)
    random.seed(987654321)


def _compare(first: list[Record], second: list[Record], one: str, other: str) -> None:
    for number, (due, found) in enumerate(zip(first, second, strict=True), start=1):
        if due.rows != found.rows:
            same = len(set(due.rows) & set(found.rows))
            raise CheckFailed(
                f"{one} and {other} differ in the data of step {number}: {len(found.rows)} rows, of which {same} are "
                f"among the {len(due.rows)} due, in this order or another"
            )
        if due.rates != found.rates:
            raise CheckFailed(
                f"{one} and {other} differ in the rate of step {number}: {max(due.rates):.7g}, {max(found.rates):.7g}"
            )
        for what, before, after in (("weights", due.weights, found.weights), ("moments", due.moments, found.moments)):
            name = _difference(before, after)
            if name:
                raise CheckFailed(f"{one} and {other} differ in the {what} after step {number}: {name}")


def _difference(before: dict[str, Print], after: dict[str, Print]) -> str:
    """The first tensor that differs, and how; empty where none does."""
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            return f"{name} is in one of them only"
        one, two = before[name], after[name]
        if one.dtype != two.dtype:
            return f"{name} is {one.dtype} and {two.dtype}"
        if one.digest != two.digest:
            return f"{name} has the norms {one.norm:.9g} and {two.norm:.9g}"
    return ""


def _print(tensor: Tensor) -> Print:
    flat = tensor.detach().cpu().contiguous().flatten()
    digest = hashlib.sha256(flat.view(torch.uint8).numpy()).hexdigest() if flat.numel() else ""
    return Print(tensor.dtype, digest, float(flat.double().norm()))


def _moments(run: Run) -> dict[str, Print]:
    optimizer = innermost(run.optimizer)
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    return {
        f"{key} of {names.get(id(parameter), 'another tensor')}": _print(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }


def _new(folder: Path, name: str) -> Path:
    path = folder / name
    path.mkdir()
    return path


def _hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


CHECKS = (
    Check("resume.determinism", check_determinism, ("loop",), tier=2),
    Check("resume.progress", check_progress, ("loop",), tier=2),
    Check("resume.saving", check_saving, ("loop",), tier=2),
    Check("resume.checkpoint_stays", check_checkpoint_stays, ("loop",), tier=2),
    Check("resume.epochs", check_epochs, ("loop",), tier=3),
    Check("resume.continuation", check_continuation, ("loop", "resume"), tier=3),
    Check("resume.twice", check_twice, ("loop", "resume"), tier=3),
)
