"""Lightning's Trainer on a small language model: accumulation, clipping and its optimizer step."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from andon.verify.subject import Batch, Subject
from andon.verify.subjects import small

library: Any = lightning  # whose types change from version to version
RATE = 1e-2
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def accumulated(**arguments: Any) -> Subject:
    """A step is a Trainer that accumulates over all micro-batches; `arguments` are the Trainer's."""
    clip = arguments.get("gradient_clip_val")
    return replace(
        small.subject(name="lightning's accumulation"),
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=RATE),
        train_step=lambda model, optimizer, batches: _step(model, optimizer, batches, arguments),
        hyperparameters={"learning_rate": RATE} | ({"grad_clip": clip} if clip else {}),
    )


class Module(library.LightningModule):
    """A model, its loss and an optimizer that is there already."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        super().__init__()
        self.model, self.made, self.losses = model, optimizer, []

    def training_step(self, batch: Batch, _number: int) -> Tensor:
        """The loss of one micro-batch."""
        loss = small.loss(self.model, batch)
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> Optimizer:
        """The optimizer that it was given."""
        return self.made


def _step(
    model: nn.Module, optimizer: Optimizer, batches: list[Batch], arguments: Mapping[str, Any]
) -> Mapping[str, float]:
    given = QUIET | {"accumulate_grad_batches": len(batches), "max_steps": 1} | dict(arguments)
    module = Module(model, optimizer)
    examples: Any = batches  # a list is a map-style dataset
    library.Trainer(**given).fit(module, torch.utils.data.DataLoader(examples, batch_size=None))
    return {"loss": sum(module.losses) / len(module.losses)}
