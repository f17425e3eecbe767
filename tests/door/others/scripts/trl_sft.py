"""trl's SFTTrainer on prompts and completions, with a tokenizer made here."""

import random

from datasets import Dataset
from made import small_llama, tokenizer
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

set_seed(0)
chance = random.Random(0)
pairs = [(start := chance.randrange(40), chance.randrange(4, 9)) for _ in range(128)]
rows = [
    {
        "prompt": " ".join(f"w{(start + step) % 60}" for step in range(4)) + " ",
        "completion": " ".join(f"w{(start + 4 + step) % 60}" for step in range(count)),
    }
    for start, count in pairs
]
arguments = SFTConfig(
    "out", max_steps=30, per_device_train_batch_size=4, learning_rate=2e-3, logging_steps=10, report_to=[],
    save_strategy="no", use_cpu=True, bf16=False, max_length=32,
)  # fmt: skip
SFTTrainer(small_llama(), arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer()).train()
