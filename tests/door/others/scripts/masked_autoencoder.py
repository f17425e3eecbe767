"""vit-pytorch's masked autoencoder around its vision transformer, on made-up pictures."""

import torch
from vit_pytorch import MAE, ViT

torch.manual_seed(0)
pictures = torch.rand(128, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
encoder = ViT(image_size=32, patch_size=8, num_classes=4, dim=32, depth=2, heads=2, mlp_dim=64)
learner = MAE(encoder=encoder, masking_ratio=0.75, decoder_dim=32, decoder_depth=1)
optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-3)
for step in range(40):
    loss = learner(pictures[torch.randint(128, (16,))])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        print(f"step {step}: loss {loss.item():.3f}")
