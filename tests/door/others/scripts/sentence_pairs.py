"""sentence-transformers' trainer on pairs of sentences, with the other pairs of a batch as negatives."""

import random

from datasets import Dataset
from made import WORDS, tokenizer
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from sentence_transformers.models import Pooling, Transformer
from transformers import BertConfig, BertModel, set_seed

set_seed(0)
chance = random.Random(0)
BertModel(
    BertConfig(vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
).save_pretrained("words")
tokenizer().save_pretrained("words")
encoder = Transformer("words", max_seq_length=32)
model = SentenceTransformer(modules=[encoder, Pooling(32)], device="cpu")


def sentence(topic: int) -> str:
    """Words of a topic."""
    return " ".join(f"w{(topic + chance.randrange(6)) % 60}" for _ in range(chance.randrange(5, 12)))


topics = [chance.randrange(60) for _ in range(192)]
data = Dataset.from_dict({"anchor": [sentence(topic) for topic in topics], "positive": [sentence(t) for t in topics]})
arguments = SentenceTransformerTrainingArguments(
    "out", max_steps=30, per_device_train_batch_size=16, learning_rate=2e-3, logging_steps=10, report_to=[],
    save_strategy="no", use_cpu=True,
)  # fmt: skip
loss = losses.MultipleNegativesRankingLoss(model)
SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=loss).train()
