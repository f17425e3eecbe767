"""A DDPM of diffusers' parts: its U-net, noise schedule, rate schedule and average of weights."""

import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader

torch.manual_seed(0)
pictures = torch.zeros(128, 1, 8, 8)
for row in range(128):
    pictures[row, 0, row % 6 : row % 6 + 3, row // 6 % 6 : row // 6 % 6 + 3] = 1.0
pictures = pictures * 2 - 1
model = UNet2DModel(
    sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(16, 32), norm_num_groups=8,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip
noise_schedule = DDPMScheduler(num_train_timesteps=100)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
loader = DataLoader(pictures, 16, shuffle=True)
schedule = get_cosine_schedule_with_warmup(optimizer, 4, 4 * len(loader))
average = EMAModel(model.parameters(), decay=0.99)
for epoch in range(4):
    for clean in loader:
        noise = torch.randn_like(clean)
        times = torch.randint(0, 100, (len(clean),))
        said = model(noise_schedule.add_noise(clean, noise, times), times).sample
        loss = torch.nn.functional.mse_loss(said, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        average.step(model.parameters())
    print(f"epoch {epoch}: loss {loss.item():.3f}")
