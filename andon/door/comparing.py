"""What the script does beside its passes while it evaluates for the first time: comparisons of labels, and noise."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from andon.door import places
from andon.door.draws import noise_of
from andon.door.records import Comparison, Crossed, Passes, Run

IGNORED = -100  # what torch's losses do not count
LOSSES = (
    "cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
)  # fmt: skip
EQUALITIES = ("eq", "ne", "__eq__", "__ne__")
MOST = 64  # comparisons that are looked at


class Comparing(TorchFunctionMode):
    """Notes comparisons of whole numbers, some of them -100, with another constant; and draws of noise."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.on, self.left = False, MOST
        self.passes: Passes | None = None  # that are made now
        self.given: Tensor | None = None  # what the pass was given first, where it is no choice of tokens
        self.noise: set[str] = set()  # what drew since the last pass

    def begin(self) -> None:
        """From here on, once in a run."""
        if not self.on and self.left:
            self.on = True
            self.__enter__()

    def end(self) -> None:
        """No more, as soon as no mode of the script's own lies above."""
        if self.on and _get_current_function_mode() is self:
            self.on, self.left, self.given = False, 0, None
            self.__exit__(None, None, None)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its functions."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.noise |= {noise_of(func, kwargs)} - {""}
        name = getattr(func, "__name__", "")
        if name in LOSSES:
            self._held_against((*args, *kwargs.values()), loss=True)
        elif name in EQUALITIES and len(args) == 2:
            self._held_against(args, loss=False)
            self._note(*args)
        return result

    def _held_against(self, values: tuple[Any, ...], *, loss: bool) -> None:
        """One tensor is held against another: in a loss, or by an equality."""
        if loss or all(isinstance(each, Tensor) for each in values):
            self._score(values)
        if _are_crossed(values):
            one, other = (tuple(each.shape) for each in values[:2])
            self.run.crossed.append(Crossed(places.here(), one, other, loss))

    def _score(self, values: tuple[Any, ...]) -> None:
        """What a pass gave is held against something."""
        if self.passes is not None and not any(self._is_given(each) for each in values):
            self.passes.scored = True

    def _is_given(self, tensor: Any) -> bool:
        """Whether it is the pass's own input, in any shape: what is to be made again, and no label."""
        own = self.given
        if own is None or not isinstance(tensor, Tensor):
            return False
        return (tensor.data_ptr(), tensor.numel()) == (own.data_ptr(), own.numel())

    def _note(self, tensor: Any, constant: Any) -> None:
        whole = isinstance(tensor, Tensor) and not tensor.is_floating_point() and tensor.dim() > 0
        if not self.left or not whole or type(constant) is not int or constant == IGNORED:
            return
        self.left -= 1
        ignored = int((tensor.detach() == IGNORED).sum())
        if ignored:
            occurs = int((tensor.detach() == constant).sum())
            self.run.comparisons.append(Comparison(places.here(), constant, occurs, ignored, tensor.numel()))


def _are_crossed(args: tuple[Any, ...]) -> bool:
    """Whether (B,) stands beside (B, 1): all are held against all."""
    if len(args) < 2 or not all(isinstance(each, Tensor) for each in args[:2]):
        return False
    row, column = sorted(args[:2], key=Tensor.dim)
    apart = row.untyped_storage().data_ptr() != column.untyped_storage().data_ptr()  # else all pairs of one are meant
    return apart and row.dim() == 1 and column.shape == (len(row), 1) and len(row) > 1
