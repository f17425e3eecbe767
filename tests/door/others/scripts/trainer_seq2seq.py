"""transformers' Seq2SeqTrainer on a small T5 that reverses rows of numbers of several lengths."""

import random

import torch
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, T5Config, T5ForConditionalGeneration, set_seed

PAD, END = 0, 1


def collated(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """Padded inputs, their mask, and labels that are not counted where there is padding."""
    longest = max(map(len, rows)) + 1
    ids = torch.tensor([[*row, END] + [PAD] * (longest - len(row) - 1) for row in rows])
    labels = torch.tensor([[*row[::-1], END] + [-100] * (longest - len(row) - 1) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels}


set_seed(0)
chance = random.Random(0)
rows = [[chance.randrange(2, 30) for _ in range(chance.randrange(4, 12))] for _ in range(256)]
model = T5ForConditionalGeneration(
    T5Config(vocab_size=30, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=PAD)
)
arguments = Seq2SeqTrainingArguments(
    "out", max_steps=40, per_device_train_batch_size=8, learning_rate=3e-3, logging_steps=10, report_to=[],
    save_strategy="no", use_cpu=True, remove_unused_columns=False,
)  # fmt: skip
Seq2SeqTrainer(model, arguments, collated, train_dataset=rows).train()
