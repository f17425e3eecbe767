"""vector-quantize-pytorch between an encoder and a decoder of pictures."""

import torch
from torch import nn
from vector_quantize_pytorch import VectorQuantize

torch.manual_seed(0)
pictures = torch.rand(256, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
encode = nn.Sequential(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 4, 2, 1))
decode = nn.Sequential(nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1))
quantize = VectorQuantize(dim=16, codebook_size=32, accept_image_fmap=True, commitment_weight=0.25)
model = nn.ModuleDict({"encode": encode, "quantize": quantize, "decode": decode})
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for step in range(60):
    batch = pictures[torch.randint(256, (16,))]
    optimizer.zero_grad()
    latent, _, commitment = quantize(encode(batch))
    loss = (decode(latent) - batch).abs().mean() + commitment
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step}: loss {loss.item():.3f}")
