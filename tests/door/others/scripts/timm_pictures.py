"""A small vision transformer of timm's, with its optimizer factory, its schedule and its loss."""

import torch
from timm import create_model
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler

torch.manual_seed(0)
classes = torch.randint(4, (256,))
pictures = 0.3 * torch.randn(256, 3, 32, 32)
for row, kind in enumerate(classes.tolist()):
    pictures[row, :, 8 * kind : 8 * kind + 8] += 1.0
model = create_model(
    "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=4, drop_rate=0.1
)
optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05)
schedule = CosineLRScheduler(optimizer, t_initial=48, warmup_t=4, warmup_lr_init=1e-5, t_in_epochs=False)
loss_of, step = LabelSmoothingCrossEntropy(0.1), 0
for epoch in range(3):
    for rows in torch.randperm(256).split(16):
        loss = loss_of(model(pictures[rows]), classes[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        schedule.step_update(step)
    print(f"epoch {epoch}: loss {loss.item():.3f}")
