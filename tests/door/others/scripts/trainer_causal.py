"""transformers' Trainer on a small causal language model, with evaluation and a warm-up."""

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed


class Text(Dataset):
    """Rows of a made-up language: each word is one to three behind the one before."""

    def __init__(self, count: int, seed: int) -> None:
        steps = torch.randint(1, 4, (count, 32), generator=torch.Generator().manual_seed(seed))
        self.rows = steps.cumsum(1) % 50

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[at], "labels": self.rows[at].clone()}


set_seed(0)
model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=32, n_embd=32, n_layer=2, n_head=2, bos_token_id=0))
arguments = TrainingArguments(
    "out", max_steps=40, per_device_train_batch_size=8, learning_rate=2e-3, warmup_steps=4, eval_strategy="steps",
    eval_steps=20, logging_steps=10, report_to=[], save_strategy="no", use_cpu=True,
)  # fmt: skip
Trainer(model, arguments, train_dataset=Text(256, 0), eval_dataset=Text(64, 1)).train()
