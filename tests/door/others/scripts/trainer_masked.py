"""transformers' Trainer on a masked language model, with its own collator and a tokenizer made here."""

import random

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
words = {word: at for at, word in enumerate([*SPECIAL, *(f"w{number}" for number in range(60))])}
raw = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
raw.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=raw,
    pad_token="[PAD]",
    unk_token="[UNK]",
    cls_token="[CLS]",
    sep_token="[SEP]",
    mask_token="[MASK]",
)


def sentence(chance: random.Random) -> str:
    """Words that go on, more or less."""
    start = chance.randrange(60)
    return " ".join(f"w{(start + step) % 60}" for step in range(chance.randrange(8, 20)))


set_seed(0)
chance = random.Random(0)
rows = [tokenizer(sentence(chance)) for _ in range(256)]
model = BertForMaskedLM(
    BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
)
arguments = TrainingArguments(
    "out", max_steps=40, per_device_train_batch_size=8, learning_rate=2e-3, logging_steps=10, report_to=[],
    save_strategy="no", use_cpu=True, remove_unused_columns=False,
)  # fmt: skip
Trainer(model, arguments, DataCollatorForLanguageModeling(tokenizer), train_dataset=rows).train()
