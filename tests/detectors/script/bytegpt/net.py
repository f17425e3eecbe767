"""GPT-2 in small: learned positions, pre-LayerNorm, GELU, tied head.  (B, T) bytes in, (B, T, V) logits out."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .corpus import SKIP


class Attention(nn.Module):
    def __init__(self, width, heads, max_len, drop):
        super().__init__()
        if width % heads:
            raise ValueError("width must be a multiple of heads")
        self.heads, self.drop = heads, drop
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.resid_drop = nn.Dropout(drop)
        allowed = torch.tril(torch.ones(max_len, max_len, dtype=torch.bool))
        self.register_buffer("allowed", allowed, persistent=False)

    def forward(self, x):
        b, t, w = x.shape
        q, k, v = self.c_attn(x).split(w, dim=2)
        q = q.view(b, t, self.heads, -1).transpose(1, 2)
        k = k.view(b, t, self.heads, -1).transpose(1, 2)
        v = v.view(b, t, self.heads, -1).transpose(1, 2)
        score = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
        score = score.masked_fill(~self.allowed[:t, :t], float("-inf"))
        prob = F.softmax(score, dim=-1)
        prob = F.dropout(prob, self.drop, training=self.training)
        out = (prob @ v).transpose(1, 2).reshape(b, t, w)
        return self.resid_drop(self.c_proj(out))


class MLP(nn.Module):
    def __init__(self, width, drop):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(drop)

    def forward(self, x):
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))


class Block(nn.Module):
    def __init__(self, width, heads, max_len, drop):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, max_len, drop)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = MLP(width, drop)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return x


class ByteGPT(nn.Module):
    def __init__(self, vocab, width=48, layers=3, heads=4, max_len=96, drop=0.1):
        super().__init__()
        self.max_len, self.layers = max_len, layers
        self.wte = nn.Embedding(vocab, width)
        self.wpe = nn.Embedding(max_len, width)
        self.drop = nn.Dropout(drop)
        self.h = nn.ModuleList([Block(width, heads, max_len, drop) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocab, bias=False)
        self.apply(self._init_weights)
        for name, p in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(p, mean=0.0, std=0.02 / math.sqrt(2 * layers))
        self.lm_head.weight = self.wte.weight

    @staticmethod
    def _init_weights(m):
        if isinstance(m, (nn.Linear, nn.Embedding)):
            nn.init.normal_(m.weight, mean=0.0, std=0.02)
        if isinstance(m, nn.Linear) and m.bias is not None:
            nn.init.zeros_(m.bias)

    def forward(self, ids):
        t = ids.size(1)
        if t > self.max_len:
            raise ValueError(f"{t} positions, at most {self.max_len}")
        pos = torch.arange(t, device=ids.device)
        x = self.drop(self.wte(ids) + self.wpe(pos))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))

    def n_params(self):
        return sum(p.numel() for p in self.parameters())

    @torch.no_grad()
    def complete(self, ids, n):
        """Greedy continuation of one row, cropped to the context at each step."""
        was = self.training
        self.eval()
        for _ in range(n):
            logits = self(ids[:, -self.max_len :])
            ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        self.train(was)
        return ids


def summed_loss(logits, labels):
    """Cross entropy summed over the positions that count; the caller divides."""
    flat = logits.reshape(-1, logits.size(-1)).float()
    return F.cross_entropy(flat, labels.reshape(-1), ignore_index=SKIP, reduction="sum")
