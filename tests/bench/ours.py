"""Our core, through `core.train.train` itself: what the bench measures is what `andon train` runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from core.config import parse_config
from core.data import Batch, Dataset, Split, pack
from core.train import start as start_training
from core.train import train
from core.windows import window_count
from tests.bench.inputs import fill, token_stream
from tests.bench.run import Run, Step
from tests.bench.workload import Workload

ENDLESS = 1_000_000


class OneBatch(NamedTuple):
    """A training split that holds the bench's one batch, in the shape of `core.data.Split`."""

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
        },
        "schedule": {"type": "constant", "warmup_steps": 0},
        "data": {"sequence_length": workload.length},
    }
    config = parse_config(tables, "tests/bench")
    split = cast("Split", OneBatch(token_stream(workload).numpy()))
    dataset = Dataset(train=split, validation=split, tokenizer=Path(), end=0, note="")
    state = start_training(config, workload.device)
    fill(state.model.named_parameters())

    def steps() -> Iterator[Step]:
        for record in train(state, dataset, config):
            yield Step(record.loss, record.seconds)

    return Run(state.model, state.optimizer, steps())
