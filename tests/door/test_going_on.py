"""A run that writes a file and goes on from it: at the rate that it holds, and with the data that follow."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from andon.door.loading import LoadNotes
from andon.door.records import Run
from andon.door.statements.going_on import MOST, check_resumed_rate, check_resumed_rows
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import Light, light_of
from tests.door.watching import Watching

pytestmark = [pytest.mark.tier2, pytest.mark.usefixtures("patched")]
STEPS, ROWS = 20, 32


def constant(_: int) -> float:
    """One rate."""
    return 0.1


def warmed_up(step: int) -> float:
    """Up in 10 steps, then down."""
    return 0.1 * min((step + 1) / 10, (2 * STEPS - step) / (2 * STEPS - 10))


class Sittings:
    """Two sittings, the second from the file that the first one writes."""

    def __init__(self, folder: Path) -> None:
        self.watching, self.file = Watching(), folder / "last.pt"
        folder.mkdir(exist_ok=True)
        LoadNotes(self.watching.run).install()

    def sit(self, batches: Tensor, rates: list[float], *, state: bool = True) -> None:
        """Train on some batches at some rates."""
        torch.manual_seed(0)
        model = nn.Linear(6, 6)
        optimizer = self.watching.optimizer(model.parameters(), momentum=0.9)
        if self.file.exists():
            content = torch.load(self.file)
            model.load_state_dict(content["model"])
            _ = optimizer.load_state_dict(content["optimizers"][0]) if state else None
        for x, rate in zip(batches, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate
            self.watching.step(optimizer, self.watching.call(model, x).square().mean())
        torch.save({"model": model.state_dict(), "optimizers": [optimizer.state_dict()]}, self.file)


def resumed(
    folder: Path,
    rate: Callable[[int], float] = warmed_up,
    *,
    first: int = STEPS,
    rates_from: int = STEPS,
    rows: str = "go on",
    state: bool = True,
) -> Run:
    """A run of two sittings, whose second begins with the rates of a step and with some rows."""
    data = torch.randn(3 * STEPS, ROWS, 6, generator=torch.Generator().manual_seed(1))
    epoch = torch.cat([data[: first // 2]] * 2) if rows == "of a second epoch" else data[:first]
    after = {
        "go on": data[first:][:STEPS],
        "begin anew": data[:STEPS],
        "of another order": epoch.flip(0)[:STEPS],
        "of a second epoch": epoch[:MOST],
        "epochs": torch.cat([epoch, epoch]),
    }[rows]
    sittings = Sittings(folder)
    sittings.sit(epoch, [rate(step) for step in range(first)])
    sittings.sit(after, [rate(rates_from + step) for step in range(len(after))], state=state)
    return sittings.watching.run


def test_rates_that_begin_anew_are_yellow(tmp_path: Path) -> None:
    """Behavior: a warm-up that comes again after a file of its end was read is; rates that go on are not."""
    check_resumed_rate(resumed(tmp_path / "goes"))
    with pytest.raises(Unusual, match=r"holds a rate of 0\.07 of SGD.*was made at 0\.01"):
        check_resumed_rate(resumed(tmp_path / "anew", rates_from=0))


@pytest.mark.parametrize(
    ("rate", "options", "light"),
    [
        (constant, {"rates_from": 0}, None),
        (lambda step: 0.1 if step < STEPS else 0.01, {}, None),  # ten times less on purpose
        (lambda step: warmed_up(step) * (1 + 9 * (step % 2)), {"rates_from": 0}, None),
        (warmed_up, {"rates_from": 0, "state": False}, NotApplicable),
        (warmed_up, {"rates_from": 0, "first": 3}, NotApplicable),
    ],
    ids=["constant", "less", "jumps", "no state", "few steps"],
)
def test_other_rates_are_none_that_begin_anew(
    tmp_path: Path, rate: Callable[[int], float], options: dict[str, int], light: Light
) -> None:
    """Behavior: nothing where they are near, new, or never were smooth; not asked without a state or steps."""
    assert light is light_of(check_resumed_rate, resumed(tmp_path, rate, **options))  # ty: ignore[invalid-argument-type]


@pytest.mark.parametrize(
    ("options", "light"),
    [
        ({}, None),
        ({"rows": "of another order"}, None),
        ({"rows": "begin anew"}, Unusual),
        ({"rows": "epochs"}, NotApplicable),
        ({"rows": "of a second epoch"}, NotApplicable),
        ({"rows": "begin anew", "state": False}, NotApplicable),
        ({"rows": "begin anew", "first": 3}, NotApplicable),
    ],
    ids=["go on", "another order", "anew", "epochs", "second epoch", "no state", "few steps"],
)
def test_rows_that_begin_anew_are_yellow(tmp_path: Path, options: dict[str, str], light: Light) -> None:
    """Behavior: the first batches again, in their order; not asked where an epoch had ended by the save."""
    assert light is light_of(check_resumed_rows, resumed(tmp_path, **options))  # ty: ignore[invalid-argument-type]
