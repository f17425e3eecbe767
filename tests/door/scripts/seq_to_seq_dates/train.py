import datetime
import random

import torch
import torch.nn as nn
import torch.utils.data as tud

"""Translate '3 may 2017' into '2017-05-03' with nn.Transformer."""

PAD, BOS, EOS = 0, 1, 2
SYMBOLS = ["<pad>", "<bos>", "<eos>"] + list("0123456789abcdefghijklmnopqrstuvwxyz -")
INDEX = {s: i for i, s in enumerate(SYMBOLS)}
DEVICE = torch.device("cpu")


class Dates(tud.Dataset):
    def __init__(self, size, seed):
        rng = random.Random(seed)
        first = datetime.date(1990, 1, 1)
        self.pairs = []
        for _ in range(size):
            d = first + datetime.timedelta(days=rng.randrange(12000))
            form = rng.choice(["%d %B %Y", "%B %d %Y", "%d %b %y"])
            self.pairs.append((d.strftime(form).lower().lstrip("0"), d.isoformat()))

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, i):
        return self.pairs[i]


def encode(text):
    return torch.tensor([BOS] + [INDEX[c] for c in text] + [EOS])


def collate(pairs):
    src = nn.utils.rnn.pad_sequence([encode(a) for a, _ in pairs], batch_first=True, padding_value=PAD)
    tgt = nn.utils.rnn.pad_sequence([encode(b) for _, b in pairs], batch_first=True, padding_value=PAD)
    return src, tgt


class Translator(nn.Module):
    def __init__(self, vocab, dim=32, heads=4, layers=1):
        super().__init__()
        self.tok = nn.Embedding(vocab, dim, padding_idx=PAD)
        self.pos = nn.Embedding(32, dim)
        self.core = nn.Transformer(
            dim, heads, layers, layers, 64, dropout=0.1, batch_first=True, norm_first=True
        )
        self.out = nn.Linear(dim, vocab)

    def embed(self, ids):
        return self.tok(ids) + self.pos(torch.arange(ids.size(1), device=ids.device))

    def forward(self, src, tgt):
        causal = torch.triu(torch.ones(tgt.size(1), tgt.size(1), dtype=torch.bool, device=tgt.device), diagonal=1)
        hidden = self.core(
            self.embed(src),
            self.embed(tgt),
            tgt_mask=causal,
            src_key_padding_mask=src == PAD,
            tgt_key_padding_mask=tgt == PAD,
            memory_key_padding_mask=src == PAD,
        )
        return self.out(hidden)


def run_epoch(model, loader, criterion, optimizer=None, scheduler=None):
    training = optimizer is not None
    model.train(training)
    loss_sum, tokens = 0.0, 0
    with torch.set_grad_enabled(training):
        for src, tgt in loader:
            src, tgt = src.to(DEVICE), tgt.to(DEVICE)
            logits = model(src, tgt[:, :-1])
            gold = tgt[:, 1:]
            loss = criterion(logits.transpose(1, 2), gold)
            if training:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
            n = (gold != PAD).sum().item()
            loss_sum += loss.item() * n
            tokens += n
    return loss_sum / tokens


def main(epochs=4, seed=11):
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    train = tud.DataLoader(Dates(512, 1), batch_size=32, shuffle=True, collate_fn=collate)
    valid = tud.DataLoader(Dates(100, 2), batch_size=32, collate_fn=collate)
    model = Translator(len(SYMBOLS)).to(DEVICE)
    criterion = nn.CrossEntropyLoss(ignore_index=PAD)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    warm = 8
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min((k + 1) / warm, (warm / (k + 1)) ** 0.5)
    )
    best = float("inf")
    for epoch in range(epochs):
        a = run_epoch(model, train, criterion, optimizer, scheduler)
        b = run_epoch(model, valid, criterion)
        print("epoch", epoch, "train %.4f" % a, "valid %.4f" % b)
        if b < best:
            best = b
            torch.save(model.state_dict(), "best.pth")


if __name__ == "__main__":
    main()
