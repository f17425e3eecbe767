"""The state that a training run carries from step to step."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from andon.core.data.batch import DataState

if TYPE_CHECKING:
    import torch

    from andon.core.model.llama import Llama


@dataclass
class TrainState:
    """Everything that a step changes, except the random number generators."""

    model: "Llama"
    optimizer: "torch.optim.AdamW"
    step: int = 0
    data: DataState = field(default_factory=DataState)
    skipped_in_a_row: int = 0
    loss_scale: float = 1.0  # fp16 only
    scale_streak: int = 0  # finite steps since the loss scale last changed
