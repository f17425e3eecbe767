"""Tiny models to write, spoil and read back."""

from pathlib import Path
from typing import Any

import pytest
import torch

from andon.core.config import ModelConfig
from andon.core.files.sums import SUMS
from andon.core.formats.huggingface_config import InterchangeError
from andon.core.formats.interchange import load_model
from andon.core.model.llama import Llama
from tests.core.shapes import SHAPE

TOKENS_BT = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def new_model(**keys: Any) -> Llama:
    """A tiny model with weights; `keys` overrides the shape."""
    model = Llama(ModelConfig(**{**SHAPE, **keys}))
    model.init_weights(torch.Generator().manual_seed(0))
    return model


def logits(model: Llama) -> torch.Tensor:
    """What the model says, without gradients."""
    with torch.no_grad():
        return model(TOKENS_BT)


def unsealed(folder: Path) -> Path:
    """A directory as strangers publish it: without SHA256SUMS."""
    (folder / SUMS).unlink()
    return folder


def assert_refused(path: Path, complaint: str) -> None:
    """Loading fails with the complaint."""
    with pytest.raises(InterchangeError) as caught:
        load_model(path)
    assert complaint in str(caught.value)
