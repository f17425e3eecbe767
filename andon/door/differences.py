"""What a loss takes beside what modules return, and the torch calls that compare the two."""

from collections.abc import Iterator

from torch import Tensor

from andon.verify.capturing.micro_batch import Captured

DIFFERENCES = ("sub", "__sub__", "__rsub__", "rsub")
COMPARES = (*DIFFERENCES, "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")


def compared_with(captured: Captured) -> Iterator[Tensor]:
    """What has no gradient, and something that the model returned is compared with."""
    made: set[int] = set()
    for entry in captured.entries:
        if entry.module is None and entry.name in COMPARES and any(id(each) in made for each in entry.given()):
            yield from (each.detach() for each in entry.given() if not each.requires_grad)
        if entry.module is not None or any(id(each) in made for each in entry.given()):
            made |= {id(each) for each in entry.made() if each.requires_grad}


def taken_alone(captured: Captured) -> dict[str, Tensor]:
    """The parts of the batch, by name, that the loss takes and no module is given."""
    given = {id(each) for entry in captured.entries if entry.module is not None for each in entry.given()}
    return {name: part for name, part in captured.parts.items() if id(part) not in given}
