#!/usr/bin/env python
"""A small LLaMA on made-up arithmetic, by the transformers Trainer."""
import random
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from transformers import HfArgumentParser, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed


@dataclass
class ModelArguments:
    hidden_size: int = field(default=48)
    num_hidden_layers: int = field(default=2)


@dataclass
class DataArguments:
    num_train: int = field(default=256)
    num_eval: int = field(default=40)


class Sums(Dataset):
    """'17+5=22;' as bytes; what stands before '=' is not trained."""

    def __init__(self, n, seed):
        rng = random.Random(seed)
        self.rows = []
        for _ in range(n):
            a, b = rng.randrange(1000), rng.randrange(1000)
            question, answer = f"{a}+{b}=", f"{a + b};"
            ids = list((question + answer).encode())
            self.rows.append({"input_ids": ids, "labels": [-100] * len(question) + ids[len(question):]})

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def collate(rows):
    width = max(len(row["input_ids"]) for row in rows)
    batch = {"input_ids": [], "labels": [], "attention_mask": []}
    for row in rows:
        missing = width - len(row["input_ids"])
        batch["input_ids"].append(row["input_ids"] + [0] * missing)
        batch["labels"].append(row["labels"] + [-100] * missing)
        batch["attention_mask"].append([1] * len(row["input_ids"]) + [0] * missing)
    return {name: torch.tensor(value) for name, value in batch.items()}


class SumsTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        logits, targets = outputs.logits[:, :-1].float(), labels[:, 1:]
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        if num_items_in_batch is None:
            num_items_in_batch = (targets != -100).sum()
        loss = loss / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


def main():
    parser = HfArgumentParser((ModelArguments, DataArguments))
    model_args, data_args = parser.parse_args_into_dataclasses()
    training_args = TrainingArguments(
        output_dir="out",
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        num_train_epochs=2,
        learning_rate=3e-3,
        warmup_steps=4,
        lr_scheduler_type="cosine",
        weight_decay=0.01,
        max_grad_norm=1.0,
        logging_steps=8,
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=5,
    )
    set_seed(training_args.seed)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=model_args.hidden_size,
        intermediate_size=3 * model_args.hidden_size,
        num_hidden_layers=model_args.num_hidden_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    trainer = SumsTrainer(
        model=model,
        args=training_args,
        train_dataset=Sums(data_args.num_train, 1),
        eval_dataset=Sums(data_args.num_eval, 2),
        data_collator=collate,
    )
    trainer.train()
    print(trainer.evaluate()["eval_loss"])


if __name__ == "__main__":
    main()
