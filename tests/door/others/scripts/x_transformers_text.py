"""x-transformers' decoder behind its autoregressive wrapper, evaluated now and then."""

import torch
from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

torch.manual_seed(0)
text = torch.randint(1, 4, (20000,)).cumsum(0) % 50
train, held_out = text[:16000], text[16000:]


def batch(source: torch.Tensor) -> torch.Tensor:
    """Eight windows of 33 tokens."""
    starts = torch.randint(len(source) - 33, (8,))
    return torch.stack([source[start : start + 33] for start in starts])


decoder = Decoder(dim=32, depth=2, heads=2, attn_dim_head=16, rotary_pos_emb=True)
model = AutoregressiveWrapper(TransformerWrapper(num_tokens=50, max_seq_len=32, attn_layers=decoder))
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
for step in range(45):
    model.train()
    for _ in range(2):
        (model(batch(train)) / 2).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    optimizer.zero_grad()
    if step % 15 == 0:
        model.eval()
        with torch.no_grad():
            print(f"step {step}: held out {model(batch(held_out)).item():.3f}")
