"""What a subject's own pass shows: which parts of its batch look up a table, and which cross-entropy its loss takes.

A part of a batch is token ids as its numbers pick rows of an embedding, not as it is called `input_ids`. A loss is a
cross-entropy of logits as its gradient is `weight * (softmax(logits) - target)` in each row, whatever the code is like.
Legend: B batch, T time, V vocab, R rows.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from andon.verify.access.calls import loss_of, new_batch, new_model, precise, seeded
from andon.verify.access.larger_weights import perturbed_model
from andon.verify.access.roles import IGNORE, fields
from andon.verify.access.shown_roles import shown_roles
from andon.verify.subject import Batch, Subject

LAST = 64  # results before the loss among which logits are looked for
FEWEST = 3  # classes: of two, any gradient that sums to zero is a cross-entropy's
ALLOWED = 1e-3  # of a row's gradient, in float32: what is further off is no cross-entropy of it
UNSEEN = 1e-9  # of the largest row's gradient: a row without
PLAIN = 1e-4  # of the loss: how near it is to the sum that its rows make
LOOKUPS = (functional.embedding, torch.embedding, functional.embedding_bag, torch.embedding_bag)
SELECTIONS = (Tensor.__getitem__, torch.index_select, Tensor.index_select)
_FACTS = WeakIdKeyDictionary()


class CrossEntropy(NamedTuple):
    """A cross-entropy as the gradient of its logits shows it, in the logits' own layout."""

    logits: Tensor  # (..., V)
    targets: Tensor  # (...), IGNORE where nothing is counted
    weights: Tensor  # (...), of each target's part in the loss; 0 where nothing is counted
    smoothing: float  # share of each target that is spread evenly
    part: float  # of the loss: what they make in all
    whole: bool  # whether the loss is nothing but these parts

    @property
    def counted(self) -> Tensor:
        """(...): where a target counts."""
        return self.targets != IGNORE


class Facts(NamedTuple):
    """What one pass showed."""

    parts: tuple[str | int, ...] = ()  # of the batch
    indexed: tuple[str | int, ...] = ()  # parts of the batch that look up rows of a table, in their order
    cross_entropy: CrossEntropy | None = None  # of the first logits in the pass that show most of the loss
    roles: Mapping[str, str | int] = MappingProxyType({})  # of parts, that what they do shows


def facts_of(subject: Subject) -> Facts:
    """What the subject's own pass shows, looked at once: of a new model on batch 0, in eval mode if that shows all."""
    if subject not in _FACTS:
        model, batch = precise(subject, new_model(subject)), new_batch(subject)
        found = observed(subject, model.eval(), batch)
        if found.cross_entropy is None and any(module.training for module in model.train().modules()):
            found = observed(subject, model, batch)
        _FACTS[subject] = found  # what is asked of it on the way to larger weights
        _FACTS[subject] = _at_larger_weights(subject, batch, found)
    return _FACTS[subject]


def _at_larger_weights(subject: Subject, batch: Batch, found: Facts) -> Facts:
    """The facts with a cross-entropy that no nearly even softmax hides: there, smoothed targets look like others."""
    if found.cross_entropy is None:
        return found
    larger = observed(subject, perturbed_model(subject), batch).cross_entropy
    same = larger is not None and torch.equal(larger.targets, found.cross_entropy.targets)
    return found._replace(cross_entropy=larger) if same else found


def observed(subject: Subject, model: nn.Module, batch: Batch) -> Facts:
    """What this pass shows; where there is no backward pass in the model's mode, no cross-entropy."""
    seen = _Observer(model, batch)
    with seeded(), torch.enable_grad(), seen:
        loss = loss_of(subject, model, batch)
    entropy, parts = cross_entropy_of(loss, seen.results), fields(batch)
    targets, classes = (entropy.targets, entropy.logits.shape[-1]) if entropy is not None else (None, 0)
    return Facts(tuple(parts), tuple(seen.indexed), entropy, shown_roles(parts, seen.indexed, targets, classes))


class _Observer(TorchFunctionMode):
    """Notes what looks up tables, and the last floating results that the loss may depend on."""

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.tables = {id(each) for each in (*model.parameters(), *model.buffers())}
        self.origins = WeakIdKeyDictionary()  # whole numbers, and the parts of the batch that they come from
        for key, part in _numbers(batch):  # one tensor may be several parts
            self.origins[part] = (*self.origins.get(part, ()), key)
        self.indexed: dict[str | int, int] = {}  # and how many rows its table has
        self.results: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its functions."""
        values = (*args, *(kwargs or {}).values())
        whole = [each for each in _tensors(values) if not each.is_floating_point()]
        origin = tuple(dict.fromkeys(key for each in whole for key in self.origins.get(each, ())))
        if origin and (func in LOOKUPS or (func in SELECTIONS and id(args[0]) in self.tables)):
            self.indexed |= dict.fromkeys(origin, _rows(values))
        result = func(*args, **(kwargs or {}))
        for each in _tensors((result,)):
            self._keep(each, origin)
        return result

    def _keep(self, made: Tensor, origin: tuple[str | int, ...]) -> None:
        if not made.is_floating_point():
            if origin and made.dtype != torch.bool and made not in self.origins:
                self.origins[made] = origin
        elif made.requires_grad and made.dim() > 1:
            self.results = [*self.results[1 - LAST :], made]


def _numbers(batch: Batch) -> Iterator[tuple[str | int, Tensor]]:
    for key, value in fields(batch).items():
        if isinstance(value, Tensor) and not value.is_floating_point() and value.dtype != torch.bool:
            yield key, value


def _rows(values: tuple[Any, ...]) -> int:
    """How many rows the table has that is looked up."""
    return next((len(each) for each in _tensors(values) if each.is_floating_point() and each.dim()), 0)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)
        elif isinstance(value, Mapping):
            yield from _tensors(value.values())


def cross_entropy_of(loss: Tensor, results: list[Tensor]) -> CrossEntropy | None:
    """The cross-entropy that a loss is of the first of these results that shows one by its gradient."""
    candidates = [each for each in results if _has_graph(each)]
    if not loss.requires_grad or not candidates:
        return None
    try:
        gradients = torch.autograd.grad(loss, candidates, allow_unused=True)
    except Exception:  # noqa: BLE001 - changed in place since, or hooks that refuse a backward pass in this mode
        return None
    found = [
        each for logits, gradient in zip(candidates, gradients, strict=True) for each in _reads(logits, gradient, loss)
    ]
    if not found:
        return None
    most = max((each.whole, each.part) for each in found)  # a router, too, may be given a gradient of this form
    least = most[1] - ALLOWED * abs(most[1])
    return next(each for each in found if each.whole == most[0] and each.part >= least)


def _reads(logits: Tensor, gradient: Tensor | None, loss: Tensor) -> Iterator[CrossEntropy]:
    """A result read with its classes last, and second, where torch has those of images and sequences."""
    if gradient is None or gradient.is_sparse or not gradient.numel():
        return
    for last in (True, False) if logits.dim() > 2 else (True,):
        z, g = (each.detach() if last else each.detach().movedim(1, -1) for each in (logits, gradient))
        if z.shape[-1] >= FEWEST and (found := _read(z, g, float(loss.detach()))) is not None:
            yield found


def _has_graph(result: Tensor) -> bool:
    try:
        return result.grad_fn is not None
    except RuntimeError:  # a view whose base was changed in place since
        return False


def _read(logits: Tensor, gradient: Tensor, loss: float) -> CrossEntropy | None:
    """The targets, weights and smoothing that a gradient shows; None where it is not that of a cross-entropy."""
    z, g = logits.reshape(-1, logits.shape[-1]), gradient.reshape(-1, logits.shape[-1])
    norms = g.norm(dim=-1)
    rows = norms > UNSEEN * norms.max()
    if not bool(norms.max() > 0) or not bool((g[rows].sum(-1).abs() <= ALLOWED * norms[rows]).all()):
        return None
    z, g = z[rows].double(), g[rows].double()
    log_p = z.log_softmax(-1)
    for smoothed in (False, True):
        fitted = _fit(log_p.exp(), g, smoothed=smoothed)
        if fitted is not None:
            targets, weights, smoothing = fitted
            break
    else:
        return None
    v = z.shape[-1]
    even = smoothing / v * log_p.sum(-1) if smoothing else 0.0  # a class that is masked out has -inf
    nll = -(1 - smoothing) * log_p.gather(-1, targets[:, None])[:, 0] - even
    part = float((weights * nll).sum())
    whole = abs(part - loss) <= PLAIN * max(1.0, abs(loss))
    all_targets = torch.full(rows.shape, IGNORE, device=targets.device).masked_scatter(rows, targets)
    all_weights = torch.zeros(rows.shape, dtype=torch.float64, device=targets.device).masked_scatter(rows, weights)
    shape = logits.shape[:-1]
    return CrossEntropy(logits, all_targets.view(shape), all_weights.view(shape), smoothing, part, whole)


def _fit(p: Tensor, g: Tensor, *, smoothed: bool) -> tuple[Tensor, Tensor, float] | None:
    """Targets (R,), weights (R,) and smoothing of g = w (p - target); None where nothing fits."""
    for targets in (g.argmin(-1), g.argmax(-1)):  # a negative weight turns it round
        one_hot = functional.one_hot(targets, p.shape[-1]).double()
        smoothing = _smoothing(p, g, one_hot) if smoothed else 0.0
        t = (1 - smoothing) * one_hot + smoothing / p.shape[-1]
        away = p - t
        weights = (g * away).sum(-1) / away.square().sum(-1).clamp_min(1e-300)
        off = (g - weights[:, None] * away).norm(dim=-1)
        if bool((off <= ALLOWED * g.norm(dim=-1)).all()):
            return targets, weights, smoothing
    return None


def _smoothing(p: Tensor, g: Tensor, one_hot: Tensor) -> float:
    """The share e of g = w (p - (1 - e) one_hot - e / V): beside the target, g is a line in p with w and -w e / V."""
    others = (one_hot == 0).double()
    count = others.sum(-1, keepdim=True)
    p_mean, g_mean = ((each * others).sum(-1, keepdim=True) / count for each in (p, g))
    p_off, g_off = (p - p_mean) * others, (g - g_mean) * others
    slope = (p_off * g_off).sum(-1) / p_off.square().sum(-1).clamp_min(1e-300)
    offset = (g_mean - slope[:, None] * p_mean)[:, 0]
    usable = slope.abs() > 0
    return float((-offset[usable] / slope[usable]).median()) * p.shape[-1] if bool(usable.any()) else 0.0
