"""Write Llama models in Hugging Face's layout."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import Tokenizer

from andon.core.adapters.nf4 import NF4Linear
from andon.core.data.chat import ChatTemplate
from andon.core.files.folders import atomic_folder
from andon.core.files.manifest import CONFIG, MODEL
from andon.core.files.sums import write_sums
from andon.core.formats.bitsandbytes import quantization_config, to_bitsandbytes
from andon.core.formats.huggingface import EMBEDDING, check_finite
from andon.core.formats.huggingface_config import InterchangeError, dump_huggingface_config
from andon.core.formats.marks import Marks
from andon.core.formats.small_files import eos_token, write_small_files
from andon.core.model.llama import Llama


def export_huggingface(
    model: Llama,
    folder: Path,
    tokenizer: Tokenizer | None = None,
    template: ChatTemplate | None = None,
    marks: Marks | None = None,
) -> None:
    """Write a directory that `transformers` loads, atomically, with its SHA256SUMS.

    A tied head is left out, as `transformers` does.

    `marks` are those of the model that the weights come from: its small files are written as they are, and `template`
    goes before its own.

    Raises:
        InterchangeError: a weight is not finite, the folder is not empty, or the file system refused.
    """
    for name, parameter in model.named_parameters():
        check_finite(name, parameter.detach(), "to be written")
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InterchangeError(f"{folder}: exists and is not an empty folder; choose another for --out")
        with atomic_folder(folder) as partial:
            _write_weights(model, partial, _ids(tokenizer, marks))
            write_small_files(partial, tokenizer, template, marks)
            write_sums(partial)
    except (OSError, SafetensorError) as error:
        raise InterchangeError(
            f"{folder}: could not be written ({error}); free disk space or choose another folder"
        ) from error


def _ids(tokenizer: Tokenizer | None, marks: Marks | None) -> dict[str, Any]:
    """The special tokens' ids for `config.json`: the source's own, else the tokenizer's end."""
    eos_id = eos_token(tokenizer)[1] if tokenizer else None
    return {"eos_token_id": eos_id} | (marks.ids if marks else {})


def _write_weights(model: Llama, folder: Path, ids: dict[str, Any]) -> None:
    """The weights, and the configuration that they are read by."""
    weights = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
    dtype = str(weights[EMBEDDING].dtype).removeprefix("torch.")
    quantized = {name: module.quantized for name, module in model.named_modules() if isinstance(module, NF4Linear)}
    for name, weight in quantized.items():
        weights |= to_bitsandbytes(f"{name}.weight", weight)
    quantization = quantization_config(list(quantized.values())) if quantized else None
    save_file(weights, folder / MODEL, metadata={"format": "pt"})  # transformers 4 refuses files without this
    (folder / CONFIG).write_text(dump_huggingface_config(model.config, dtype, ids, quantization), encoding="utf-8")
