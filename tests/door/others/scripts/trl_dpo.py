"""trl's DPOTrainer on pairs of completions."""

import random
from copy import deepcopy

from datasets import Dataset
from made import small_llama, tokenizer
from transformers import set_seed
from trl import DPOConfig, DPOTrainer

set_seed(0)
chance = random.Random(0)


def row() -> dict[str, str]:
    """Words that go on are chosen over words that do not."""
    start, count = chance.randrange(40), chance.randrange(4, 9)
    return {
        "prompt": " ".join(f"w{(start + step) % 60}" for step in range(4)) + " ",
        "chosen": " ".join(f"w{(start + 4 + step) % 60}" for step in range(count)),
        "rejected": " ".join(f"w{chance.randrange(60)}" for _ in range(count + 1)),
    }


arguments = DPOConfig(
    "out", max_steps=25, per_device_train_batch_size=4, learning_rate=1e-3, logging_steps=10, report_to=[],
    save_strategy="no", use_cpu=True, bf16=False, max_length=32,
)  # fmt: skip
data = Dataset.from_list([row() for _ in range(96)])
model = small_llama()
DPOTrainer(model, deepcopy(model), arguments, train_dataset=data, processing_class=tokenizer()).train()
