"""One way in for weights, whatever holds them."""

from pathlib import Path

import torch
from tokenizers import Tokenizer

from .gguf_weights import load_gguf
from .huggingface import load_huggingface
from .huggingface_config import InterchangeError
from .manifest import MANIFEST, OPTIMIZER, check_files, read_manifest
from .model import Llama


def load_model(path: Path, dtype: torch.dtype | None = None) -> tuple[Llama, Tokenizer | None]:
    """Model and tokeniser of a checkpoint, a Hugging Face directory or a GGUF file.

    `dtype` None keeps what a directory declares; GGUF weights are dequantised to fp32.

    Raises:
        InterchangeError: there is no model, or one that cannot be read.
        CheckpointError: the checkpoint's files do not match its manifest.
        TokeniserError: its `tokenizer.json` is damaged.
    """
    if path.is_dir():
        if (path / MANIFEST).exists():
            check_files(path, read_manifest(path), skip=(OPTIMIZER,))
        return load_huggingface(path, dtype)
    if path.suffix == ".gguf":
        return load_gguf(path, dtype)
    raise InterchangeError(f"{path}: name a checkpoint, a Hugging Face directory or a .gguf file")
