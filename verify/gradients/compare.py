"""Autograd against central differences: of a model's loss, or of one function with a backward of its own.

First along random signs over all tensors at once: each entry has the same weight in such a direction, so that in
float64 one wrong entry of a whole model shows. Where the two disagree, halving finds the tensors and then the entry.
Where differences are coarser, tensor by tensor as well, and single entries: the largest, the smallest and a random one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from andon.verify.access.calls import loss_of, new_batch, new_model, seeded
from andon.verify.access.roles import fields, replaced
from andon.verify.errors import CheckFailed, NotApplicable, SubjectError
from andon.verify.gradients.directional_derivatives import Comparison, Direction, DirectionalDerivatives
from andon.verify.gradients.held import Stops
from andon.verify.observation.float64 import Float64Mode
from andon.verify.observation.tolerances import ROUNDING, norm_of
from andon.verify.subject import Batch, Subject

RTOL = 1e-8  # of a derivative along a direction, in float64
ENTRY = 100.0  # times that, of one entry, beside its tensor's rms
CAST_RTOL = 1e-6  # where the code casts to float32 by itself: its kernels may be as exact as that, whatever the dtype
FACTOR = 0.75  # of the loss: a backward that ignores the gradient coming in is right only for 1
ALONE = 2_000_000  # parameters up to which each tensor is looked at alone, not in groups
LARGE = 30_000_000  # from here on an evaluation takes seconds, and only some groups and entries are looked at
GROUPS = 8
DRAWN = 2  # groups, and tensors of which entries are looked at, of a large model
SHARP = 4.0  # times RTOL: a coarser tolerance is said in the report
NAMED = 8  # wrong tensors named in a message
SOLVER = 1e-3  # a backward that solves its own equations is as exact as its author chose; wrong ones are off by more
EXPLAINED = 0.5  # of a disagreement: more than this must be gone with what was held for that to be its reason
COARSE = 0.1  # a tolerance that lets a tenth of the gradient be wrong is not a check


class Resolution(NamedTuple):
    """What a check that passed rests on."""

    dtype: torch.dtype
    worst: float  # largest error, as a share of the gradient along its direction
    tolerance: float  # what was allowed for it
    evaluations: int
    note: str  # empty in float64


class Place(NamedTuple):
    """Where gradients are taken: a model and a batch of our own, in one dtype."""

    subject: Subject
    model: nn.Module
    batch: Batch
    note: str  # why not float64
    in_float64: bool = False  # the code's own casts to float32, which it has, are float64's

    def function(self) -> Tensor:
        """The loss, times FACTOR."""
        with Float64Mode() if self.in_float64 else nullcontext():
            return loss_of(self.subject, self.model, self.batch) * FACTOR

    @property
    def rtol(self) -> float:
        """Of a derivative along a direction."""
        return CAST_RTOL if self.in_float64 else RTOL

    @property
    def parameters(self) -> dict[str, Tensor]:
        """All that is trainable, by name."""
        return {name: each for name, each in self.model.named_parameters() if each.requires_grad}


def check_gradients(
    loss: Callable[[nn.Module, Batch], Tensor],
    model: nn.Module,
    batch: Batch,
    *,
    order: int = 1,
    rtol: float = RTOL,
    seed: int = 0,
) -> Resolution:
    """Compare the loss's gradients for all trainable parameters and its inputs with central differences.

    Works on copies, in float64 where the code runs in it; train or eval mode is the model's own, and all evaluations
    draw the same random numbers, so that dropout stays as it is. `order=2` also checks the gradient of the gradient.

    Raises:
        CheckFailed: they differ; the message names the parameter, the entry, both values, the error and the tolerance.
        NotApplicable: no parameter is trainable, or the loss is too coarse for differences.
        SubjectError: the loss is not a scalar, or does not depend on the model that it is given.
    """
    place = prepared(Subject(model=model, batch=batch, loss=loss), training=model.training)
    state = list(place.model.buffers())
    options: dict[str, Any] = {
        "order": order,
        "rtol": max(rtol, place.rtol),
        "seed": seed,
        "note": place.note,
        "state": state,
    }
    found = compare_all(place.function, place.parameters, **options)
    inputs = inputs_of(place)  # from here on they stand in for what makes them
    return found if not inputs else _both(found, compare_all(place.function, inputs, **options))


def check_function_gradients(
    function: Callable[..., Tensor | Sequence[Tensor]],
    *inputs: Any,
    order: int = 1,
    rtol: float = RTOL,
    seed: int = 0,
) -> Resolution:
    """Compare a function's backward with central differences: `check_function_gradients(MyFunction.apply, x, weight)`.

    Floating inputs are copied in float64; all outputs count, each entry with a random weight.

    Raises:
        CheckFailed, NotApplicable: as `check_gradients`.
    """
    places = [place for place, each in enumerate(inputs) if isinstance(each, Tensor) and each.is_floating_point()]
    copies = list(inputs)
    for place in places:
        copies[place] = inputs[place].detach().double().requires_grad_()
    generator = torch.Generator().manual_seed(seed)

    def weighted() -> Tensor:
        outputs = function(*copies)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        generator.manual_seed(seed)
        floating = [each for each in outputs if isinstance(each, Tensor) and each.is_floating_point()]
        return sum(((each * _normal(each, generator)).sum() for each in floating), torch.zeros(()))

    leaves = {f"input {place}": copies[place] for place in places}
    return compare_all(weighted, leaves, order=order, rtol=rtol, seed=seed)


def compare_all(
    function: Callable[[], Tensor],
    leaves: dict[str, Tensor],
    *,
    order: int = 1,
    rtol: float = RTOL,
    seed: int = 0,
    note: str = "",
    state: Iterable[Tensor] = (),
    stops: Stops | None = None,
) -> Resolution:
    """Compare along joint directions, then tensors and entries apart; with `stops`, as if held where those are.

    Raises:
        CheckFailed, NotApplicable: as `check_gradients`.
    """
    if not leaves:
        raise NotApplicable("a trainable parameter")
    derivatives = DirectionalDerivatives(function, leaves, rtol, state, stops)
    _require_gradient(derivatives, seed)
    joint, worst = _compare_directions(derivatives, joint_directions(derivatives, seed))
    if joint > SHARP * min(rtol, RTOL) or derivatives.entries > ALONE:  # else one wrong entry has shown
        joint, alone = _compare_directions(derivatives, apart_directions(derivatives, seed), joint)
        _compare_entries(derivatives, seed)
        worst = max(worst, alone)
    if order > 1:
        try:
            compare_all(_second(function, leaves, seed), leaves, order=order - 1, rtol=rtol, seed=seed)
        except RuntimeError as error:
            raise SubjectError(f"there is no second derivative here: {error}") from error
    coarse = joint > SHARP * min(rtol, RTOL) or note
    notes = [f"smallest gradient error that can be detected: {joint:.0e}"] if coarse else []
    notes += [extent] if (extent := _extent(derivatives, seed)) else []
    note = f"gradients{note}: {'; '.join(notes)}" if notes else ""
    return Resolution(derivatives.value.dtype, worst, joint, derivatives.evaluations, note)


def unheld_difference(place: Place, leaves: dict[str, Tensor]) -> str:
    """How autograd differs from a loss of which nothing is held, along directions of all; empty where it does not.

    Raises:
        NotApplicable: the loss is too coarse to say.
    """
    return next((f"along one direction {_values(found)}" for found in _of_all(place, leaves) if not found.agrees), "")


def is_what_stops_leave_out(place: Place, leaves: dict[str, Tensor]) -> bool:
    """Whether autograd disagrees with differences as what gradients stop at is held, and is the slope as it moves.

    A hook, or a solver that runs without gradients, gives what was left out, as exactly as its author chose.
    """
    try:
        pairs = list(zip(_of_all(place, leaves, Stops()), _of_all(place, leaves), strict=True))
    except NotApplicable:
        return False
    return not all(held.agrees for held, _ in pairs) and all(
        abs(free.error) <= max(free.tolerance, min(SOLVER * free.size, EXPLAINED * abs(held.error)))
        for held, free in pairs
    )


def is_near(place: Place, leaves: dict[str, Tensor]) -> bool:
    """Whether autograd is off by no more than a solver's own error, with what gradients stop at held."""
    try:
        return all(abs(found.error) <= SOLVER * found.size for found in _of_all(place, leaves, Stops()))
    except NotApplicable:
        return False


def _of_all(place: Place, leaves: dict[str, Tensor], stops: Stops | None = None) -> Iterator[Comparison]:
    """Autograd and differences along directions of all tensors at once; with `stops`, as if held where those are."""
    derivatives = DirectionalDerivatives(place.function, leaves, place.rtol, place.model.buffers(), stops)
    names = tuple(leaves)
    for direction in (derivatives.signs(names, 1), derivatives.along_gradient(names)):
        yield derivatives.compare(direction)


def prepared(subject: Subject, *, training: bool) -> Place:
    """The subject's loss, in the widest dtype in which the code runs.

    Raises:
        SubjectError: the loss is not a scalar tensor.
    """
    own = next((each.dtype for each in new_model(subject).parameters() if each.is_floating_point()), torch.float32)
    wide = [subject.dtype] if subject.dtype else list(dict.fromkeys([torch.float64, torch.float32, own]))
    refused = ""
    for dtype in wide:
        try:
            place = _placed(subject, dtype, training=training)
        except (RuntimeError, TypeError, NotImplementedError, ValueError, AssertionError) as error:
            if dtype == wide[-1]:
                raise
            refused = str(error).partition("\n")[0]
            continue
        break
    return place._replace(note=f" in {dtype} ({wide[0]} is refused: {refused})" if refused else "")


def _placed(subject: Subject, dtype: torch.dtype, *, training: bool) -> Place:
    """The subject's loss in this dtype, in float64 without its own casts to float32 where it runs so."""
    model = _model_in(new_model(subject), dtype).train(training)
    place = Place(subject, model, _in_dtype(new_batch(subject), dtype), "")
    with seeded():
        place.function()
    return place._replace(in_float64=dtype == torch.float64 and _casts(place))


def _model_in(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model in this dtype, and what is complex in it in the complex one of that width."""
    return model._apply(  # noqa: SLF001 - `to` would drop the imaginary parts
        lambda each: (
            each.to(dtype.to_complex() if each.is_complex() else dtype)
            if each.is_complex() or each.is_floating_point()
            else each
        )
    )


def _casts(place: Place) -> bool:
    """Whether the code casts float64 to float32, and does the same without: code that reads a float's bits does not."""
    mode, given = Float64Mode(), _gradient(place, nullcontext())
    try:
        wide = _gradient(place, mode)
    except (RuntimeError, TypeError):  # a float32 table meets what is no longer cast
        return False
    apart = norm_of(one - other for one, other in zip(wide, given, strict=True))
    return mode.casts > 0 and apart <= ROUNDING[torch.float32] * norm_of(given)


def _gradient(place: Place, mode: AbstractContextManager[object]) -> list[Tensor]:
    """The loss's gradient for each parameter that it reaches, or the loss where none learns; forward within `mode`."""
    learning = [parameter for parameter in place.model.parameters() if parameter.requires_grad]
    with seeded(), mode:
        loss = loss_of(place.subject, place.model, place.batch)
    if not loss.requires_grad or not learning:
        return [loss.detach()]
    return [each for each in torch.autograd.grad(loss, learning, allow_unused=True) if each is not None]


def inputs_of(place: Place) -> dict[str, Tensor]:
    """What the first layers make of ids, in leaves that stand in for it; and the batch's own floating features.

    A layer that runs several times in one forward pass is left out.
    """
    seen: dict[str, list[Tensor]] = {}
    handles = []
    for name, module in place.model.named_modules():
        if not list(module.children()):

            def note_output(_: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                ids = [each for each in inputs if isinstance(each, Tensor) and each.dtype in (torch.int64, torch.int32)]
                if ids and isinstance(output, Tensor) and output.is_floating_point():
                    seen.setdefault(name, []).append(output)

            handles.append(module.register_forward_hook(note_output))
    with seeded():
        place.function()
    for handle in handles:
        handle.remove()
    leaves = {}
    for name, outputs in seen.items():
        if len(outputs) == 1:
            leaf = leaves[f"output of {name}"] = outputs[0].detach().clone().requires_grad_()
            place.model.get_submodule(name).register_forward_hook(lambda _, __, output, leaf=leaf: leaf + 0)
    for key, value in fields(place.batch).items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 2 and bool(value.isfinite().all()):
            leaves[f"batch {key}"] = value.requires_grad_()
    return leaves


def _of_entry(derivatives: DirectionalDerivatives) -> float:
    """What an entry's derivative may be off by."""
    return ENTRY * derivatives.rtol


def joint_directions(derivatives: DirectionalDerivatives, seed: int) -> Iterator[Direction]:
    """Along the gradient, where a wrong scale shows; by random signs, where each entry does."""
    names = tuple(derivatives.leaves)
    if any(derivatives.norms.values()):
        yield derivatives.along_gradient(names)
    yield derivatives.signs(names, seed + 1)
    if derivatives.entries <= LARGE:
        yield derivatives.signs(names, seed + 2)


def apart_directions(derivatives: DirectionalDerivatives, seed: int) -> Iterator[Direction]:
    """The same for tensors apart."""
    for group in groups(derivatives, seed) if len(derivatives.leaves) > 1 else ():
        if any(derivatives.norms[name] for name in group):
            yield derivatives.along_gradient(group)
        yield derivatives.signs(group, seed + 1)


def groups(derivatives: DirectionalDerivatives, seed: int) -> list[tuple[str, ...]]:
    """Each tensor alone; of models above ALONE, tensors of like gradients, so that none drowns another; or some."""
    if derivatives.entries <= ALONE:
        return [(name,) for name in derivatives.leaves]
    ordered = sorted(derivatives.leaves, key=lambda name: derivatives.norms[name] * derivatives.scales[name])
    each = -(-len(ordered) // GROUPS)
    found = [tuple(ordered[start : start + each]) for start in range(0, len(ordered), each)]
    return found if derivatives.entries <= LARGE else [found[place] for place in _drawn(len(found), DRAWN, seed)]


def _in_dtype(batch: Batch, dtype: torch.dtype) -> Batch:
    floating = {k: v for k, v in fields(batch).items() if isinstance(v, Tensor) and v.is_floating_point()}
    return replaced(batch, {key: value.to(dtype) for key, value in floating.items()}) if floating else batch


def _both(first: Resolution, second: Resolution) -> Resolution:
    worst, tolerance = max(first.worst, second.worst), max(first.tolerance, second.tolerance)
    return Resolution(first.dtype, worst, tolerance, first.evaluations + second.evaluations, first.note or second.note)


def _require_gradient(derivatives: DirectionalDerivatives, seed: int) -> None:
    """Refuse a loss that is not a number, or that ignores what it is differentiated for."""
    if not bool(derivatives.value.isfinite()):
        raise NotApplicable(f"a finite loss, not {float(derivatives.value)}")
    if any(derivatives.norms.values()):
        return
    moved = derivatives.compare(derivatives.signs(tuple(derivatives.leaves), seed)).differences
    if moved == 0 and derivatives.stops is not None:
        raise NotApplicable("a loss that moves with what it is to be differentiated for")
    if moved == 0:
        raise SubjectError(
            "the loss depends on none of the tensors it is to be differentiated for; use the model and batch that the "
            "loss is called with, not others from outside"
        )


def _compare_directions(
    derivatives: DirectionalDerivatives, directions: Iterable[Direction], joint: float = 0.0
) -> tuple[float, float]:
    """What was allowed for along all tensors at once, and the largest error, as shares of the gradient."""
    worst = 0.0
    for direction in directions:
        found = derivatives.compare(direction)
        if not found.agrees:
            raise CheckFailed(_blame(derivatives, direction, found))
        if len(direction) == len(derivatives.leaves):
            joint = max(joint, found.tolerance / found.size)
        if joint > COARSE:
            raise NotApplicable(f"a loss in which differences show: they resolve {joint:.0e} of the gradient")
        worst = max(worst, abs(found.error) / found.size)
    return joint, worst


def _compare_entries(derivatives: DirectionalDerivatives, seed: int) -> None:
    for name, place in _entries(derivatives, seed):
        found = derivatives.compare(
            derivatives.entry(name, place), _of_entry(derivatives), size=derivatives.typical(name)
        )
        if not found.agrees:
            raise CheckFailed(_entry_message(derivatives, name, place, found))


def _entries(derivatives: DirectionalDerivatives, seed: int) -> Iterator[tuple[str, int]]:
    """The largest gradient of each tensor, the smallest, and a random one."""
    generator = torch.Generator().manual_seed(seed)
    for name in _with_entries(derivatives, seed):
        sizes = derivatives.gradients[name].abs().flatten()
        random = int(torch.randint(sizes.numel(), (), generator=generator))
        yield from ((name, place) for place in dict.fromkeys((int(sizes.argmax()), int(sizes.argmin()), random)))


def _with_entries(derivatives: DirectionalDerivatives, seed: int) -> list[str]:
    """The tensors of which entries are looked at: of models above ALONE, some."""
    count = (
        len(derivatives.leaves)
        if derivatives.entries <= ALONE
        else GROUPS // 2
        if derivatives.entries <= LARGE
        else DRAWN
    )
    names = list(derivatives.leaves)
    return [names[place] for place in _drawn(len(names), count, seed)]


def _drawn(size: int, count: int, seed: int) -> list[int]:
    """So many places out of `size` at random, in their order; all where there are no more."""
    return sorted(torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count].tolist())


def _extent(derivatives: DirectionalDerivatives, seed: int) -> str:
    """What of a large model was looked at; empty where that is all."""
    if derivatives.entries <= LARGE:
        return ""
    again, alone = groups(derivatives, seed), _with_entries(derivatives, seed)
    return (
        f"of {derivatives.entries:,} entries in {len(derivatives.leaves)} tensors: all together along 2 directions, "
        f"{sum(map(len, again))} tensors again in {len(again)} groups, single entries of {len(alone)}"
    )


def _second(function: Callable[[], Tensor], leaves: dict[str, Tensor], seed: int) -> Callable[[], Tensor]:
    """The gradient along a fixed random direction, as a function to differentiate once more."""
    generator = torch.Generator().manual_seed(seed)
    fixed = [_normal(leaf, generator) for leaf in leaves.values()]

    def along() -> Tensor:
        with torch.enable_grad():
            first = torch.autograd.grad(function(), list(leaves.values()), create_graph=True, allow_unused=True)
            terms = [(g * v).sum() for g, v in zip(first, fixed, strict=True) if g is not None]
            return sum(terms, torch.zeros(()))

    return along


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device, like.dtype)


def _blame(derivatives: DirectionalDerivatives, direction: Direction, joint: Comparison) -> str:
    """Which tensors, and which entry, are to blame for a disagreement."""
    wrong = _wrong_tensors(derivatives, direction, joint)
    name, found = max(wrong, key=lambda each: abs(each[1].error) / each[1].size)
    place = _wrong_entry(derivatives, name, direction[name], found.error)
    if place is not None:
        text = _entry_message(
            derivatives, name, place, derivatives.compare(derivatives.entry(name, place), _of_entry(derivatives))
        )
    else:
        text = f"{name}: along one direction {_values(found)}"
    others = [each for each, _ in wrong if each != name]
    return text + (f"; also wrong: {', '.join(others[:NAMED])}{', ...' * (len(others) > NAMED)}" if others else "")


def _wrong_tensors(
    derivatives: DirectionalDerivatives, direction: Direction, joint: Comparison
) -> list[tuple[str, Comparison]]:
    """Halve the tensors of a direction until each wrong one stands alone."""
    names = tuple(direction)
    if len(names) == 1:
        return [(names[0], joint)]
    found = []
    for half in (names[: len(names) // 2], names[len(names) // 2 :]):
        part = {name: direction[name] for name in half}
        compared = derivatives.compare(part)
        if not compared.agrees and len(found) <= NAMED:
            found += _wrong_tensors(derivatives, part, compared)
    return found or [(max(names, key=lambda name: float(direction[name].norm())), joint)]


def _wrong_entry(derivatives: DirectionalDerivatives, name: str, v: Tensor, error: float) -> int | None:
    """Halve a tensor toward its largest error; None where that is spread too thin to be seen in one entry."""
    first, last = 0, v.numel()
    while last - first > 1:
        middle = (first + last) // 2
        part = torch.zeros_like(v)
        part.view(-1)[first:middle] = v.reshape(-1)[first:middle]
        left = derivatives.compare({name: part}).error
        first, last, error = (first, middle, left) if abs(left) >= abs(error - left) else (middle, last, error - left)
    return None if derivatives.compare(derivatives.entry(name, first), _of_entry(derivatives)).agrees else first


def _entry_message(derivatives: DirectionalDerivatives, name: str, place: int, found: Comparison) -> str:
    shape, index = derivatives.base[name].shape, []
    for size in reversed(shape):
        place, inner = divmod(place, size)
        index.insert(0, inner)
    scale = derivatives.scales[name]
    of_entry = Comparison(*(value / scale for value in found))
    return f"{name}{index if shape else ''}: {_values(of_entry)}"


def _values(found: Comparison) -> str:
    ratio = f", {found.differences / found.autograd:.6g} times it" if found.autograd else ""
    return (
        f"autograd says {found.autograd:.9g} and differences {found.differences:.9g}{ratio}: "
        f"an error of {abs(found.error):.2g} where rounding explains {found.tolerance:.2g}"
    )
