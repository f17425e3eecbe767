"""What a loop's parts are: the optimizer holds the parameters, tied weights stay one, training is in train mode."""

from torch import Tensor, nn

from andon.verify.errors import listed
from andon.verify.invariants.watched import Watched
from andon.verify.observation.optimizers import tensors_of
from andon.verify.observation.parameters import trainable
from andon.verify.run.report import YELLOW


class OptimizerMembership:
    """What requires gradients is in the optimizer, or a wider copy of it is (`has_masters`)."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self.has_masters = False  # the optimizer holds wider copies of the weights, as in mixed precision by hand
        self._require_members()

    def before(self) -> None:
        """Now and then, compare what the two hold."""
        if self.watched.is_due:
            self._require_members()

    def after(self) -> None:
        """Nothing."""

    def _require_members(self) -> None:
        tensors = tensors_of(self.watched.optimizer)
        known = {id(p) for p in tensors}
        missing = {name: p for name, p in trainable(self.watched.model).items() if id(p) not in known}
        if not missing:
            return
        own = {id(p) for p in self.watched.parameters.values()}
        foreign = [p for p in tensors if id(p) not in own]
        if foreign:
            self._compare_with(foreign, missing)
        if not self.has_masters:
            self.watched.found(
                "optimizer",
                f"the optimizer does not hold {listed(sorted(missing))}, which require gradients",
                "Look at the parameter groups, and whether they were made before the model was complete.",
                YELLOW,  # whoever trains two parts by two optimizers does so
            )

    def _compare_with(self, foreign: list[Tensor], missing: dict[str, nn.Parameter]) -> None:
        """What the optimizer holds and the model has not is a wider copy of what is missing, or what that once was."""
        dtypes = {p.dtype for p in missing.values()}
        copies = {p.shape for p in foreign if p.dtype not in dtypes}
        self.has_masters = self.has_masters or all(p.shape in copies for p in missing.values())
        shapes = {p.shape for p in foreign} - copies
        stale = [name for name, p in missing.items() if p.shape in shapes]
        if stale:
            self.watched.found(
                "stale",
                f"the optimizer moves other tensors than the model's: {listed(sorted(stale))}",
                "Make the optimizer after the model is loaded, moved, wrapped or given adapters.",
            )


class TiedWeights:
    """Names that stood for one tensor when the run began still do."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self._first: dict[str, str] = _first_names(watched.model)

    def before(self) -> None:
        """Now and then, look whether they are one."""
        for name, first in self._first.items() if self.watched.is_due else ():
            if self.watched.get(name) is not self.watched.get(first):
                self.watched.found(
                    "tied",
                    f"{name} and {first} were one tensor and are two",
                    "Look for code that assigns a new weight, such as loading, casting or moving to a device.",
                )

    def after(self) -> None:
        """Nothing."""


class TrainMode:
    """A model that has dropout, or was in train mode before, is updated in train mode."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self._was_training = False

    def before(self) -> None:
        """Look at the mode that the gradients were taken in."""
        training = self.watched.model.training
        if not training and (self._was_training or self._drops()):
            since = "after steps in train mode" if self._was_training else "although it has dropout"
            self.watched.found(
                "mode",
                f"the model is updated in eval mode {since}",
                "Call model.train() after each evaluation, and before the first step.",
                YELLOW,  # whoever trains a part of a model without its dropout does so
            )
        self._was_training = self._was_training or training

    def after(self) -> None:
        """Nothing."""

    def _drops(self) -> bool:
        modules = self.watched.model.modules()
        dropouts = [each for each in modules if isinstance(each, nn.modules.dropout._DropoutNd)]  # noqa: SLF001 - all of torch's dropouts
        return any(getattr(each, "p", 0.0) > 0 for each in dropouts)


def _first_names(model: nn.Module) -> dict[str, str]:
    """Each further name of a parameter to its first."""
    first: dict[int, str] = {}
    names = [(name, id(p)) for name, p in model.named_parameters(remove_duplicate=False)]
    return {name: first[key] for name, key in names if first.setdefault(key, name) != name}
