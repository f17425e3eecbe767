"""A model under Hugging Face's `Trainer`, its phases timed by hand. Arguments: the trace's folder or "", and another."""

import json
import sys
import time

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

SECONDS = {}


def by_hand(name, call, *args, **kwargs):
    begun = time.process_time()
    result = call(*args, **kwargs)
    SECONDS[name] = SECONDS.get(name, 0.0) + time.process_time() - begun
    return result


def row(index):
    x = torch.randn(512, 512, generator=torch.Generator().manual_seed(index))
    return {"x": x[0], "labels": x.matrix_power(2)[1].clamp(-1, 1)}


class Rows(Dataset):
    timed = True

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return by_hand("data", row, index) if self.timed else row(index)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(512, 2048), nn.Linear(2048, 512)

    def loss(self, x, labels):
        return {"loss": (self.second(self.first(x).relu()) - labels).square().mean()}

    def forward(self, x=None, labels=None):
        return by_hand("forward", self.loss, x, labels) if self.training else self.loss(x, labels)


class AdamW(torch.optim.AdamW):
    def step(self, closure=None):
        return by_hand("optimizer", super().step, closure)


folder, other = sys.argv[1:]
callbacks = []
if folder:
    from andon.tracing.trainer import TraceCallback

    callbacks = [TraceCallback(folder)]
torch.manual_seed(0)
torch.set_num_threads(1)
model, evaluated = Model(), Rows()
evaluated.timed = False
arguments = TrainingArguments(
    other,
    per_device_train_batch_size=8,
    gradient_accumulation_steps=2,
    num_train_epochs=3,
    logging_steps=1,
    eval_strategy="epoch",
    save_strategy="epoch",
    report_to=[],
    use_cpu=True,
    disable_tqdm=True,
)
trainer = Trainer(model, arguments, train_dataset=Rows(), eval_dataset=evaluated, callbacks=callbacks)
trainer.optimizer = AdamW(model.parameters())
printed, sys.stdout = sys.stdout, sys.stderr
trainer.train()
losses = [each["loss"] for each in trainer.state.log_history if "loss" in each]
weights = [p.double().sum().item() for p in model.parameters()]
json.dump({"losses": losses, "weights": weights, "seconds": SECONDS}, printed)
