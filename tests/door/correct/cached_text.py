"""Text is generated with a cache: greedily, with beams that change places, and with a window over the last tokens."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

torch.manual_seed(0)
WORDS, WIDTH, LENGTH = 17, 32, 32


class Block(nn.Module):
    """Causal attention; a cache is a dictionary that it fills."""

    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x, cache, window):
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        before = 0
        if cache is not None:
            if "k" in cache:
                before = cache["k"].shape[1]
                k, v = torch.cat((cache["k"], k), 1), torch.cat((cache["v"], v), 1)
            cache["k"], cache["v"] = k, v
        mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril(before).triu(before - window + 1)
        return x + self.out(scaled_dot_product_attention(q, k, v, attn_mask=mask))


class Model(nn.Module):
    """Two of them."""

    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks, self.head = nn.ModuleList([Block(), Block()]), nn.Linear(WIDTH, WORDS)

    def forward(self, ids, caches=None, start=0, window=LENGTH):
        x = self.embed(ids) + self.place(torch.arange(start, start + ids.shape[1]))
        for i, block in enumerate(self.blocks):
            x = block(x, caches[i] if caches else None, window)
        return self.head(x)


model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
text = torch.randint(WORDS, (64, 3)).repeat(1, 8)[:, :20]


@torch.no_grad()
def generate(prompt, window=LENGTH, beams=False):
    model.eval()
    caches, ids = [{}, {}], prompt
    logits = model(ids, caches, 0, window)
    for _ in range(6):
        ids = torch.cat((ids, logits[:, -1:].argmax(-1)), 1)
        if beams:
            order = torch.randperm(len(ids))
            ids = ids[order]
            for cache in caches:
                cache["k"], cache["v"] = cache["k"][order], cache["v"][order]
        logits = model(ids[:, -1:], caches, ids.shape[1] - 1, window)
    model.train()
    return ids[0, -6:].tolist()


for epoch in range(5):
    for rows in torch.randperm(64).split(16):
        optimizer.zero_grad()
        logits = model(text[rows, :-1])
        cross_entropy(logits.flatten(0, 1), text[rows, 1:].flatten()).backward()
        optimizer.step()
    print(epoch, generate(text[:3, :7], beams=True), generate(text[:3, :7], 4), generate(text[:2, :9]))
