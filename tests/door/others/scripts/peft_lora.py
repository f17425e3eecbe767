"""peft's LoRA on a small causal model, trained by transformers' Trainer."""

import torch
from made import small_llama
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments, set_seed

set_seed(0)
steps = torch.randint(1, 4, (192, 24), generator=torch.Generator().manual_seed(0))
rows = [{"input_ids": row, "labels": row.clone()} for row in steps.cumsum(1) % 60 + 4]
config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], lora_dropout=0.05, task_type="CAUSAL_LM")
arguments = TrainingArguments(
    "out", max_steps=40, per_device_train_batch_size=8, learning_rate=5e-3, logging_steps=10, report_to=[],
    save_strategy="no", use_cpu=True, remove_unused_columns=False,
)  # fmt: skip
model = get_peft_model(small_llama(), config)
Trainer(model, arguments, train_dataset=rows).train()
model.save_pretrained("adapter")
