"""transformers' Trainer on classes of token rows, with accumulation and a measure of its own."""

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    set_seed,
)


class Rows(Dataset):
    """Rows of words, padded; the class is that of the word which comes most."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(4, (count,), generator=generator)
        noise = torch.randint(4, 40, (count, 16), generator=generator)
        marks = torch.rand(count, 16, generator=generator) < 0.4
        self.ids = torch.where(marks, self.labels[:, None] * 9 + 4, noise)
        lengths = torch.randint(8, 17, (count,), generator=generator)
        self.mask = (torch.arange(16)[None] < lengths[:, None]).long()
        self.ids *= self.mask

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[at], "attention_mask": self.mask[at], "labels": self.labels[at]}


def accuracy(seen: EvalPrediction) -> dict[str, float]:
    """The share of classes that are right."""
    return {"accuracy": float((np.argmax(seen.predictions, -1) == seen.label_ids).mean())}


set_seed(0)
model = DistilBertForSequenceClassification(
    DistilBertConfig(
        vocab_size=40, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=16, num_labels=4
    )
)
arguments = TrainingArguments(
    "out", max_steps=40, per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=2e-3,
    eval_strategy="steps", eval_steps=20, logging_steps=10, report_to=[], save_strategy="no", use_cpu=True,
)  # fmt: skip
Trainer(model, arguments, train_dataset=Rows(256, 0), eval_dataset=Rows(64, 1), compute_metrics=accuracy).train()
