"""Our core, through `andon.core.training.loop.train` itself: what the bench measures is what `andon train` runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from andon.core.adapters.lora import add_lora, lora_parameters
from andon.core.config import Config, parse_config
from andon.core.data.batch import Batch
from andon.core.data.dataset import Dataset, Split, pack
from andon.core.data.windows import window_count
from andon.core.formats.huggingface import model_from_weights, prepare_weight
from andon.core.model.llama import Llama
from andon.core.training.allocator import keep_freed_memory
from andon.core.training.loop import AUTOCAST_DTYPES, initial_state_of, train
from andon.core.training.loop import initial_state as start_training
from andon.core.training.state import TrainState
from tests.bench.inputs import drawn, fill, token_stream
from tests.bench.run import Run, Step
from tests.bench.workload import Workload

ENDLESS = 1_000_000


class OneBatch(NamedTuple):
    """A training split that holds the bench's one batch, in the shape of `andon.core.data.dataset.Split`."""

    stream: np.ndarray

    @property
    def tokens(self) -> int:
        """Inputs and the last label."""
        return len(self.stream)

    def windows(self, length: int) -> int:
        """One batch's."""
        return window_count(self.tokens, length)

    def batch(self, indices: np.ndarray, length: int, padding: int) -> Batch:
        """The windows of these numbers."""
        return pack(cast("Split", self), indices, length, padding)

    def read(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens at these positions, all of one document."""
        return self.stream[positions], np.zeros_like(positions)


def start(workload: Workload) -> Run:
    """The bench's weights and batch in our training loop."""
    tables: dict[str, Any] = {
        "model": workload.model,
        "training": {
            "epochs": ENDLESS,
            "batch_size": workload.rows,
            "learning_rate": workload.learning_rate,
            "beta1": workload.beta1,
            "beta2": workload.beta2,
            "eps": workload.eps,
            "weight_decay": workload.weight_decay,
            "grad_clip": workload.clip,
            "dtype": workload.dtype,
            "compile": workload.compile,
            "activation_checkpointing": workload.checkpointing,
        },
        "lora": {"rank": workload.rank},
        "qlora": {"rank": workload.rank},
        "schedule": {"type": "constant", "warmup_steps": 0},
        "data": {"sequence_length": workload.length},
    }
    config = parse_config(tables, "tests/bench")
    split = cast("Split", OneBatch(token_stream(workload).numpy()))
    dataset = Dataset(train=split, validation=split, tokenizer_file=Path(), eos_id=0, note="")
    state = _adapted(config, workload) if workload.method != "full" else start_training(config, workload.device)
    if workload.method == "full":
        fill(state.model.named_parameters())

    def steps() -> Iterator[Step]:
        for record in train(state, dataset, config):
            yield Step(record.loss, record.seconds)

    return Run(state.model, state.optimizer, steps())


def _adapted(config: Config, workload: Workload) -> TrainState:
    """What `andon finetune` trains: adapters on a frozen model, which QLoRA never holds whole."""
    keep_freed_memory()
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in Llama(config.model).named_parameters()}
    dtype, table = (
        AUTOCAST_DTYPES.get(workload.dtype, torch.float32),
        config.qlora if workload.method == "qlora" else None,
    )
    weights = {
        name: prepare_weight(name, drawn(name, shape).to(workload.device), dtype, table)
        for name, shape in shapes.items()
    }
    model = model_from_weights(config.model, weights)
    add_lora(model, getattr(config, workload.method), torch.Generator())
    fill(lora_parameters(model, "default").items())
    return initial_state_of(model, config)
