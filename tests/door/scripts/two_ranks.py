# ruff: noqa: ANN001, ANN201, ANN204, D101, D102, D103, T201 - as scripts are written
"""A small language model on two ranks by DistributedDataParallel with gloo: correct as it stands."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

WORDS, WIDTH, TIME, ROWS, EPOCHS = 23, 16, 12, 8, 3


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(TIME, WIDTH)
        self.mix, self.drop, self.head = nn.Linear(WIDTH, 3 * WIDTH), nn.Dropout(0.1), nn.Linear(WIDTH, WORDS)

    def forward(self, ids):
        x = self.embed(ids) + self.places(torch.arange(ids.shape[1]))
        q, k, v = self.mix(x).chunk(3, -1)
        x = x + functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(self.drop(x))


def main():
    dist.init_process_group("gloo")
    torch.manual_seed(3)
    torch.set_num_threads(1)
    data = torch.utils.data.TensorDataset(torch.randint(0, WORDS, (128, TIME + 1)))
    sampler = torch.utils.data.DistributedSampler(data, shuffle=True)
    loader = torch.utils.data.DataLoader(data, batch_size=ROWS, sampler=sampler)
    model = DistributedDataParallel(Model())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for (rows,) in loader:
            loss = functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        if dist.get_rank() == 0:
            print(f"epoch {epoch} loss {loss.item():.4f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
