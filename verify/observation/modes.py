"""What a model's mode changes, training or evaluation, and how its modules are called."""

from collections.abc import Callable, Iterable

from torch import nn

from andon.verify.access.calls import loss_of, seeded
from andon.verify.observation.parameters import buffers_of, modes_kept, put_back
from andon.verify.subject import Batch, Subject


def losses_by_mode(subject: Subject, model: nn.Module, batch: Batch, draws: int = 1) -> tuple[float, float]:
    """The loss in eval mode, and as it is trained: the mean over some draws of its random numbers."""
    held = buffers_of(model)

    def loss(seed: int) -> float:
        with seeded(seed):
            value = float(loss_of(subject, model, batch).detach())
        put_back(model, held)
        return value

    with modes_kept(model):
        model.eval()
        evaluated = loss(0)
        model.train()
        return evaluated, sum(map(loss, range(draws))) / draws


def differs_in_training(subject: Subject, model: nn.Module, batch: Batch) -> bool:
    """Whether the loss is another one in training mode than in eval mode."""
    evaluated, trained = losses_by_mode(subject, model, batch)
    return evaluated != trained


def at_each_call(
    modules: Iterable[nn.Module], act: Callable[[], object], look: Callable[[nn.Module], bool]
) -> list[bool]:
    """What `look` says of each of these modules that is called while `act` runs, as it is called."""
    seen: list[bool] = []
    handles = [each.register_forward_pre_hook(lambda called, _: seen.append(look(called))) for each in modules]
    try:
        act()
    finally:
        for handle in handles:
            handle.remove()
    return seen
