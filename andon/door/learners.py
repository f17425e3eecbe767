"""Which rows each model of a run has learned from, and how many of those that it is evaluated on it knew before."""

from typing import Any, NamedTuple

from torch import nn

from andon.door.records import Passes, Run

Firsts = dict[int, int]  # rows, by the place among the run's passes at which they were first learned from


class Share(NamedTuple):
    """Of an evaluation, over the models that it is made of."""

    known: int  # rows that the model had learned from before
    rows: int
    passes: Passes
    folds: bool  # the models are shaped alike and share nothing that learns, and no row was given to two of them
    again: float  # of what a model learned from, how much was given to it here; of the one of which it is most

    @property
    def of_all(self) -> float:
        """As a part of all rows; none of none."""
        return self.known / max(self.rows, 1)


class Learners:
    """Models that are trained; a fresh one for each fold knows only its own rows."""

    def __init__(self, run: Run) -> None:
        self._modules = {key: module for each in run.passes.values() for key, module in each.modules.items()}
        self._firsts: dict[int, Firsts] = {}
        for passes in (each for each in run.passes.values() if each.trained):
            for model, firsts in passes.rows.firsts_of().items():
                own = self._firsts.setdefault(model, {})
                own |= {row: min(place, own.get(row, place)) for row, place in firsts.items()}

    def share(self, passes: Passes, begun: int) -> Share:
        """Of the rows that passes gave their models from a place on: how many these had learned from before."""
        lasts = passes.rows.lasts_of(begun)
        best = [self._best(model, rows) for model, rows in lasts.items()]
        known, rows = sum(one for one, _ in best), sum(map(len, lasts.values()))
        folds = rows == len(set().union(*lasts.values())) and self._are_alike(list(lasts))
        return Share(known, rows, passes, folds, max((one / max(of, 1) for one, of in best), default=0.0))

    def _best(self, model: int, rows: dict[int, int]) -> tuple[int, int]:
        """How many rows a model had learned from before, and how many in all, by the source with the fewest."""
        return min(
            ((_known(rows, each), len(set().union(*each))) for each in self._sources(model, max(rows.values()))),
            default=(0, 0),
        )

    def _sources(self, model: int, place: int) -> list[list[Firsts]]:
        """What a model may have learned from: of those that share its weights; of one that is shaped as it is; of all.

        A copy holds the weights of one of those that are shaped alike and have learned before, and which is not known.
        """
        alike = [
            each for each in self._firsts if each == model or _learning(self._modules.get(each)) & self._held(model)
        ]
        if alike:
            return [[self._firsts[each] for each in alike]]
        shapes = _shapes(self._modules.get(model))
        learned = {each: firsts for each, firsts in self._firsts.items() if min(firsts.values()) < place}
        copied = [[firsts] for each, firsts in learned.items() if shapes == _shapes(self._modules.get(each))]
        return copied or [list(self._firsts.values())]

    def _are_alike(self, models: list[int]) -> bool:
        """Whether models are several of one kind, each with weights of its own."""
        held = [_learning(self._modules.get(each)) for each in models]
        shapes = [_shapes(self._modules.get(each)) for each in models]
        own = sum(map(len, held)) == len(set().union(*held))
        return len(models) > 1 and own and all(each == shapes[0] for each in shapes)

    def _held(self, model: int) -> set[int]:
        module = self._modules.get(model)
        return {id(p) for p in module.parameters()} if isinstance(module, nn.Module) else set()


def _known(rows: dict[int, int], sources: list[Firsts]) -> int:
    """How many of some rows were learned from before they were given last."""
    return sum(any(firsts.get(row, place) < place for firsts in sources) for row, place in rows.items())


def _learning(module: Any) -> set[int]:
    """Weights that learn: what is frozen may be shared by models that have nothing else in common."""
    return {id(p) for p in module.parameters() if p.requires_grad} if isinstance(module, nn.Module) else set()


def _shapes(module: Any) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in module.parameters()] if isinstance(module, nn.Module) else []
