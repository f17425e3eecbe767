"""The torch calls between a script's model and its `backward()`, recorded once, to be made again on other numbers.

What the script computes in Python (a length, a factor read by `.item()`) is a constant to a replay.
"""

import dataclasses
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional
from torch.overrides import TorchFunctionMode

COMPARISONS = ("eq", "ne", "__eq__", "__ne__")
LOSSES = (  # not torch's own beneath them, `torch.kl_div`, whose arguments have no names
    functional.nll_loss,
    functional.cross_entropy,
    functional.kl_div,
    functional.ctc_loss,
    functional.binary_cross_entropy_with_logits,
)
MUTATORS = ("__setitem__",)
SELECTIONS = ("__getitem__", "index_select")
APPLY = vars(torch.autograd.Function)["apply"]  # a class method
SHAPED = (Tensor.view, Tensor.reshape, torch.reshape)


def autocast_now() -> torch.dtype | None:
    """To what autocast casts here; None where it is off."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


@dataclasses.dataclass
class Entry:
    """One call: a function of torch's, or a module as a whole."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    module: nn.Module | None = None
    autocast: torch.dtype | None = dataclasses.field(default_factory=autocast_now)
    own: bool = False  # a torch.autograd.Function, with a backward pass of its own

    @property
    def name(self) -> str:
        """The function's."""
        return getattr(self.function, "__name__", str(self.function))

    @property
    def counts(self) -> bool:
        """Whether a function with a backward pass of its own is given a whole number above 0, maybe a divisor."""
        return self.own and any(type(each) is int and each > 0 for each in self.args)

    def given(self) -> list[Tensor]:
        """The tensors that it is given."""
        return tensors((self.args, self.kwargs))

    def made(self) -> list[Tensor]:
        """The tensors that it returns or writes to."""
        written = [self.args[0]] if self.name in MUTATORS or _in_place(self) else []
        return [*returned(self.result), *(each for each in written if isinstance(each, Tensor))]


class Likelihood(NamedTuple):
    """One call of a loss of torch's over classes."""

    name: str
    arguments: Mapping[str, Any]

    @property
    def given(self) -> Tensor:
        """What stands for the prediction."""
        return self.arguments["log_probs" if self.name == "ctc_loss" else "input"]


class Recorder(TorchFunctionMode):
    """Records calls of one thread outside of modules, and the modules' own as one each."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Entry] = []
        self.inside = 0
        self.compared: list[tuple[Tensor, float]] = []  # whole numbers held against a constant, wherever
        self.likelihoods: list[Likelihood] = []  # wherever
        self.models: list[nn.Module] = []  # whose parts are called by a method of theirs
        self.before: dict[int, nn.Module] = {}  # copies from before a module's pass, by its id
        self.random = torch.get_rng_state()  # where the recording begins
        self._thread = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its functions."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._note(func, args, kwargs)
        if not self.inside and (tensors(result) or getattr(func, "__name__", "") in MUTATORS):
            self.entries.append(Entry(func, args, kwargs, result))
        return result

    def _note(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What is looked at within modules, too."""
        name = getattr(func, "__name__", "")
        if func in LOSSES:
            bound = inspect.signature(func).bind(*args, **kwargs)
            bound.apply_defaults()
            self.likelihoods.append(Likelihood(name, bound.arguments))
        given = args[0] if args else kwargs.get("input")
        if not isinstance(given, Tensor):
            return
        whole = name in COMPARISONS and len(args) > 1 and not given.is_floating_point()
        if whole and isinstance(args[1], int) and not isinstance(args[1], bool):
            self.compared.append((given, args[1]))

    def __enter__(self) -> Self:
        """From here on."""
        self.random, self._thread = torch.get_rng_state(), threading.get_ident()

        def apply(function: Any, *args: Any) -> Any:
            return self._apply(function, args)

        torch.autograd.Function.apply = classmethod(apply)  # ty: ignore[invalid-assignment] - torch's own is one as well
        return super().__enter__()

    def __exit__(self, exc_type: object, exc_val: object, exc_tb: object) -> None:
        """Up to here."""
        torch.autograd.Function.apply = APPLY
        super().__exit__(exc_type, exc_val, exc_tb)

    def _apply(self, function: Any, args: tuple[Any, ...]) -> Any:
        """A function with a backward pass of its own: one call, whatever is computed within it."""
        if threading.get_ident() != self._thread:
            return APPLY.__func__(function, *args)
        self.inside += 1
        try:
            result = APPLY.__func__(function, *args)
        finally:
            self.inside -= 1
        if not self.inside:
            self.entries.append(Entry(partial(_applied, function), args, {}, result, own=True))
        return result

    def keep(self, module: nn.Module) -> None:
        """Keep a module as it is before its first pass; what cannot be copied is missing when the capture is made."""
        if id(module) in self.before:
            return
        try:
            self.before[id(module)] = deepcopy(module)
        except (RuntimeError, TypeError, NotImplementedError):  # a tensor of a graph, a lock, a file within it
            return

    def call(self, module: nn.Module, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A module's own pass."""
        self.inside += 1
        try:
            result = call(module, *args, **kwargs)
        finally:
            self.inside -= 1
        self.entries.append(Entry(call, args, kwargs, result, module))
        return result


def whole(module: nn.Module, models: Iterable[nn.Module]) -> nn.Module:
    """The first of the models that a module is a part of; the module itself where it is of none."""
    return next((each for each in models if any(part is module for part in each.modules())), module)


def _applied(function: Any, *args: Any) -> Any:
    return function.apply(*args)


def _in_place(entry: Entry) -> bool:
    name = entry.name
    return name.endswith("_") and not name.endswith("__") and bool(entry.args)


def needed(entries: list[Entry], loss: Tensor) -> list[Entry]:
    """The calls that a loss is made of, in their order."""
    wanted, kept = {id(loss)}, []
    for entry in reversed(entries):
        if any(id(each) in wanted for each in entry.made()):
            kept.append(entry)
            wanted |= {id(each) for each in entry.given()}
    return kept[::-1]


def leaves(entries: list[Entry]) -> list[Tensor]:
    """The tensors that calls are given and that none of them made, each once."""
    made: set[int] = set()
    found: dict[int, Tensor] = {}
    for entry in entries:
        for each in entry.given():
            if id(each) not in made:
                found.setdefault(id(each), each)
        made |= {id(each) for each in entry.made()}
    return list(found.values())


def without_selections(entries: list[Entry]) -> list[Entry]:
    """The calls without those that choose a batch: rows of a whole data set, or a part of a tensor for labels alone."""
    given = _given_to_modules(entries)
    rows, shapes = {len(each) for each in given}, {each.shape for each in given}
    selections = _selections(entries)
    cuts = [entry for entry in selections if _cuts_out(entry, shapes)]
    whole = _uses(entries) - _uses(cuts)
    chosen = {id(entry) for entry in selections if _picks_rows(entry, rows)}
    chosen |= {id(entry) for entry in cuts if not whole[id(entry.args[0])]}
    return [entry for entry in entries if id(entry) not in chosen]


def without_draws(entries: list[Entry]) -> list[Entry]:
    """The calls without those that draw random numbers: what a script has drawn is then given, as its batch is."""
    return [entry for entry in entries if entry.module is not None or not _draws(entry)]


def _draws(entry: Entry) -> bool:
    """Whether a call without a gradient moves the state of random numbers, when it is made again."""
    if _in_place(entry) or entry.own or not (made := tensors(entry.result)) or any(each.requires_grad for each in made):
        return False
    generators = [each for each in (*entry.args, *entry.kwargs.values()) if isinstance(each, torch.Generator)]
    generators.append(torch.default_generator)
    before = [each.get_state() for each in generators]
    with torch.no_grad():
        entry.function(*entry.args, **entry.kwargs)
    return not all(map(torch.equal, before, (each.get_state() for each in generators)))


def _given_to_modules(entries: list[Entry]) -> list[Tensor]:
    """The tensors of one dimension or more that modules are given."""
    called = (entry for entry in entries if entry.module is not None)
    return [each for entry in called for each in entry.given() if each.dim()]


def _uses(entries: list[Entry]) -> Counter[int]:
    """How often calls are given each tensor, by id."""
    return Counter(id(each) for entry in entries for each in entry.given())


def _selections(entries: list[Entry]) -> list[Entry]:
    """The calls that select from tensors that no call has made."""
    outside = {id(each) for each in leaves(entries)}
    found = [entry for entry in entries if entry.name in SELECTIONS and isinstance(entry.result, Tensor)]
    return [entry for entry in found if entry.result.dim() and all(id(each) in outside for each in entry.given())]


def _picks_rows(entry: Entry, rows: set[int]) -> bool:
    """Whether as many rows as a module is given are taken from more."""
    given, index = entry.given(), entry.args[1] if len(entry.args) == 2 else None
    longer = bool(given) and given[0].dim() > 0 and len(given[0]) > len(entry.result)
    by_number = isinstance(index, Tensor) and index.dtype in (torch.int64, torch.int32)
    return longer and (by_number or isinstance(index, slice)) and len(entry.result) in rows


def _cuts_out(entry: Entry, shapes: set[torch.Size]) -> bool:
    """Whether places of a tensor are taken that have the shape of what a module is given: the module's, or labels."""
    one = entry.name == "__getitem__" and len(entry.given()) == 1 and isinstance(entry.result, Tensor)
    return one and entry.result.shape in shapes


def replayed(entries: list[Entry], values: dict[int, Tensor], modules: Mapping[int, nn.Module]) -> dict[int, Tensor]:
    """Make the calls again: `values` maps recorded tensors, by id, to those in their place, and is added to."""
    values = dict(values)
    for entry in entries:
        args, kwargs = swapped(entry.args, values), swapped(entry.kwargs, values)
        with torch.autocast("cpu", entry.autocast) if entry.autocast else nullcontext():
            if entry.module is not None:
                result = modules[id(entry.module)](*args, **kwargs)
            elif entry.function in SHAPED:
                result = _reshaped(entry, args, kwargs)
            else:
                result = entry.function(*args, **kwargs)
        values.update(zip(map(id, returned(entry.result)), returned(result), strict=False))
    return values


def _reshaped(entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A view of another number of elements: the size that the batch decides is left to torch."""
    before, now = entry.args[0], args[0]
    sizes = list(args[1]) if len(args) == 2 and isinstance(args[1], tuple | list) else list(args[1:])
    if before.numel() == now.numel() or -1 in sizes or not all(isinstance(each, int) for each in sizes):
        return entry.function(*args, **kwargs)
    changed = next((place for place, size in enumerate(sizes) if now.numel() * size % before.numel() == 0), 0)
    sizes[changed] = -1
    return entry.function(now, sizes)


def swapped(value: Any, values: Mapping[int, Tensor]) -> Any:
    """The same nest of arguments with other tensors in it."""
    if isinstance(value, Tensor):
        return values.get(id(value), value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(swapped(each, values) for each in value))
    if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
        return type(value)(swapped(each, values) for each in value)
    if isinstance(value, dict):
        return {key: swapped(each, values) for key, each in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and tensors(value):
        fields = {each.name: swapped(getattr(value, each.name), values) for each in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


def tensors(value: Any) -> list[Tensor]:
    """All tensors in a nest of tuples, lists, mappings, dataclasses and torch's distributions, in their order."""
    return list(_tensors(value))


def returned(result: Any) -> list[Tensor]:
    """All tensors of what a call returns; of an object of a class of its own, those that its attributes are."""
    plain = hasattr(result, "__dict__") and not isinstance(result, nn.Module)
    return tensors(result) or (tensors(list(vars(result).values())) if plain else [])


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    for each in _held(value):
        yield from _tensors(each)


def _held(value: Any) -> Iterable[Any]:
    if isinstance(value, tuple | list):
        return value
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, Distribution):  # what it computes when it is first asked comes last
        return vars(value).values()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return (getattr(value, field.name, None) for field in dataclasses.fields(value))
    return ()
