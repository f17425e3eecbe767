"""What `--model` names: a run, a checkpoint, a Hugging Face directory or a GGUF file."""

from pathlib import Path
from typing import TYPE_CHECKING

from andon.rooms import room

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from core.model import Llama


def load(path: Path, dtype: "torch.dtype | None" = None) -> "tuple[Llama, Tokenizer | None]":
    """Model and tokeniser; a run's folder stands for its newest checkpoint. Raises as `core.interchange` does."""
    newest = room("core.folders").latest_checkpoint(path / "checkpoints")
    return room("core.interchange").load_model(newest or path, dtype)
