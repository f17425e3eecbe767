"""A loop around Hugging Face's accelerate: accumulation, clipping, a schedule, an evaluation."""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from made import small_llama
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup

set_seed(0)
accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True)
rows = torch.randint(1, 4, (256, 24)).cumsum(1) % 60 + 4
model = small_llama()
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
train, held_out = DataLoader(rows[:192], batch_size=8, shuffle=True), DataLoader(rows[192:], batch_size=8)
schedule = get_cosine_schedule_with_warmup(optimizer, 4, 3 * len(train) // 2)
model, optimizer, train, held_out, schedule = accelerator.prepare(model, optimizer, train, held_out, schedule)
for epoch in range(3):
    model.train()
    for batch in train:
        with accelerator.accumulate(model):
            loss = model(input_ids=batch, labels=batch).loss
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        losses = [model(input_ids=batch, labels=batch).loss.item() for batch in held_out]
    accelerator.print(f"epoch {epoch}: loss {sum(losses) / len(losses):.3f}")
