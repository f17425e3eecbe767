"""Load a model, whatever format it is stored in."""

from pathlib import Path

import torch
from tokenizers import Tokenizer

from andon.core.config import ModelConfig, QloraConfig
from andon.core.files.manifest import CONFIG, OPTIMIZER
from andon.core.files.sums import check_vouched
from andon.core.formats.gguf_header import load_gguf_config
from andon.core.formats.gguf_weights import load_gguf
from andon.core.formats.huggingface import load_huggingface
from andon.core.formats.huggingface_config import InterchangeError, load_huggingface_config
from andon.core.model.llama import Llama


def load_model(
    path: Path, dtype: torch.dtype | None = None, quantize: QloraConfig | None = None
) -> tuple[Llama, Tokenizer | None]:
    """Model and tokenizer of a checkpoint, a Hugging Face directory or a GGUF file.

    `dtype` None keeps the dtype that a directory declares; GGUF weights are dequantized to fp32. `quantize` converts
    the blocks' matrices, in `dtype`, to NF4 one at a time, so that the full unquantized model is never in memory.

    Raises:
        InterchangeError: there is no model, or one that cannot be read.
        QuantError: a matrix to quantize holds infinity or NaN.
        CheckpointError: the checkpoint's files do not match its manifest or SHA256SUMS.
        TokenizerError: its `tokenizer.json` is damaged.
    """
    if path.is_dir():
        check_vouched(path, skip=(OPTIMIZER,))
        return load_huggingface(path, dtype, quantize)
    if path.suffix == ".gguf":
        return load_gguf(path, dtype, quantize)
    raise InterchangeError(f"{path}: name a checkpoint, a Hugging Face directory or a .gguf file")


def load_model_config(path: Path) -> ModelConfig:
    """The configuration of the model that `load_model` would read.

    Raises:
        InterchangeError: there is no model, or one that cannot be read.
    """
    return load_gguf_config(path) if path.suffix == ".gguf" else load_huggingface_config(path / CONFIG)[0]
