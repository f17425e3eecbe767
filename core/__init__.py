"""A compact LLaMA training core: it knows torch, and none of this project's other packages.

    config = load_config(Path("configs/tiny.toml"))
    state = initial_state(config)                        # a Llama and its optimizer
    for record in train(state, dataset, config): ...     # one StepRecord per step

Nothing here imports torch until it is used.
"""

from typing import TYPE_CHECKING

from andon.lazy import on_first_use

if TYPE_CHECKING:
    from andon.core.adapters.lora import add_lora, merge_lora, set_adapter, unmerge_lora
    from andon.core.adapters.nf4 import dequantize_model, quantize_model
    from andon.core.checkpoint import load_checkpoint, save_checkpoint
    from andon.core.config import Config, ConfigError, LoraConfig, ModelConfig, load_config, parse_config
    from andon.core.data.batch import Batch
    from andon.core.data.dataset import batches, open_dataset
    from andon.core.data.tokenizer import load_tokenizer
    from andon.core.files.manifest import CheckpointError
    from andon.core.formats.huggingface_export import export_huggingface
    from andon.core.formats.interchange import load_model
    from andon.core.formats.peft import load_adapter, save_adapter
    from andon.core.model.generate import generate
    from andon.core.model.llama import Llama, build_model
    from andon.core.training.loop import NonFiniteError, StepRecord, initial_state, initial_state_of, train, validate
    from andon.core.training.loss import cross_entropy, loss
    from andon.core.training.schedule import learning_rate
    from andon.core.training.state import TrainState

__all__ = [
    "Batch",
    "CheckpointError",
    "Config",
    "ConfigError",
    "Llama",
    "LoraConfig",
    "ModelConfig",
    "NonFiniteError",
    "StepRecord",
    "TrainState",
    "add_lora",
    "batches",
    "build_model",
    "cross_entropy",
    "dequantize_model",
    "export_huggingface",
    "generate",
    "initial_state",
    "initial_state_of",
    "learning_rate",
    "load_adapter",
    "load_checkpoint",
    "load_config",
    "load_model",
    "load_tokenizer",
    "loss",
    "merge_lora",
    "open_dataset",
    "parse_config",
    "quantize_model",
    "save_adapter",
    "save_checkpoint",
    "set_adapter",
    "train",
    "unmerge_lora",
    "validate",
]

__getattr__, __dir__ = on_first_use(__name__)
