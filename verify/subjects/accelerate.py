"""accelerate's prepared data loader in a run that is saved with `save_state` and resumed with `skip_first_batches`.

As the guide on checkpoints has it: the rest of an interrupted epoch comes from the skipping loader, later epochs from
the prepared one.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, utils
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from andon.verify.subject import Batch, Subject
from andon.verify.subjects import small

EXAMPLES, ROWS, EPOCHS = 12, 2, 3
RATE = 1e-2


def loaded(**options: Any) -> Subject:
    """A small language model on a shuffled data set; `options` are `DataLoaderConfiguration`'s.

    By default the sampler can be seeded, so that an order depends on the epoch's number alone.
    """
    given = {"use_seedable_sampler": True} | options
    steps = EXAMPLES // ROWS
    return replace(
        small.subject(name="accelerate's loader"),
        loop=lambda: Run(given),
        resume=lambda folder: Run(given, folder),
        epoch_batches=lambda number: _epoch(given, number),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=RATE),
        hyperparameters={"epoch_steps": steps, "steps": EPOCHS * steps},
    )


class Run:
    """A loop over epochs, and the place in one from which it goes on."""

    def __init__(self, options: Mapping[str, Any], checkpoint: Path | None = None) -> None:
        torch.manual_seed(0)
        self._accelerator = _accelerator(options)
        made = small.Model()
        optimizer = torch.optim.AdamW(made.parameters(), lr=RATE)
        prepared: Any = self._accelerator.prepare(made, optimizer, _loader())
        self.model: nn.Module = prepared[0]
        self.optimizer: Optimizer = prepared[1]
        self._loader = prepared[2]
        self._place = {"epoch": 0, "batch": 0}
        if checkpoint is not None:
            self._accelerator.load_state(str(checkpoint))
            self._place = json.loads((checkpoint / "place.json").read_text(encoding="utf-8"))
        self._batches = self._begun()

    def step(self) -> Mapping[str, float]:
        """One batch, one update."""
        loss = small.loss(self.model, next(self._batches))
        self.optimizer.zero_grad()
        self._accelerator.backward(loss)
        self.optimizer.step()
        return {"loss": float(loss.detach())}

    def save(self, folder: Path) -> None:
        """The library's state, and the place in the data, which is the caller's."""
        self._accelerator.save_state(str(folder))
        (folder / "place.json").write_text(json.dumps(self._place), encoding="utf-8")

    def validate(self) -> float:
        """The loss of one batch that is not in the data."""
        with torch.no_grad():
            return float(small.loss(self.model, small.batch(torch.Generator().manual_seed(99))))

    def _begun(self) -> Iterator[Batch]:
        """Batches from this place on; the place is that of the batch to come."""
        while True:
            self._loader.set_epoch(self._place["epoch"])
            skip = self._place["batch"]
            rest: Iterable[Batch] = self._accelerator.skip_first_batches(self._loader, skip) if skip else self._loader
            for batch in rest:
                self._place = {"epoch": self._place["epoch"], "batch": self._place["batch"] + 1}
                if self._place["batch"] == EXAMPLES // ROWS:
                    self._place = {"epoch": self._place["epoch"] + 1, "batch": 0}
                yield batch


def _accelerator(options: Mapping[str, Any]) -> Accelerator:
    return Accelerator(cpu=True, dataloader_config=utils.DataLoaderConfiguration(**options))


def _loader() -> DataLoader[Any]:
    tokens, targets = small.batch(torch.Generator().manual_seed(7), EXAMPLES)
    examples: Any = list(zip(tokens, targets, strict=True))  # a list is a map-style dataset
    return DataLoader(examples, batch_size=ROWS, shuffle=True, collate_fn=_stacked)


def _epoch(options: Mapping[str, Any], number: int) -> list[Batch]:
    torch.manual_seed(0)
    loader: Any = _accelerator(options).prepare(_loader())
    loader.set_epoch(number)
    return list(loader)


def _stacked(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([tokens for tokens, _ in rows]), torch.stack([targets for _, targets in rows])
