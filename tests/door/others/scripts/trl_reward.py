"""trl's RewardTrainer on pairs of texts."""

import random

from datasets import Dataset
from made import WORDS, tokenizer
from transformers import LlamaConfig, LlamaForSequenceClassification, set_seed
from trl import RewardConfig, RewardTrainer

set_seed(0)
chance = random.Random(0)


def row() -> dict[str, str]:
    """Words that go on are chosen over words that do not."""
    start, count = chance.randrange(40), chance.randrange(6, 12)
    return {
        "chosen": " ".join(f"w{(start + step) % 60}" for step in range(count)),
        "rejected": " ".join(f"w{chance.randrange(60)}" for _ in range(count + 2)),
    }


model = LlamaForSequenceClassification(
    LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=2, eos_token_id=3, num_labels=1,
    )
)  # fmt: skip
arguments = RewardConfig(
    "out", max_steps=25, per_device_train_batch_size=4, learning_rate=1e-3, logging_steps=10, report_to=[],
    save_strategy="no", use_cpu=True, bf16=False, max_length=32,
)  # fmt: skip
data = Dataset.from_list([row() for _ in range(96)])
RewardTrainer(model, arguments, train_dataset=data, processing_class=tokenizer()).train()
