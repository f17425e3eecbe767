# character lstm that invents names, hidden state per name, packed sequences
import math, random, string
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence, pack_padded_sequence, pad_packed_sequence

torch.set_num_threads(1)
random.seed(3); torch.manual_seed(3)
chars = ".|" + string.ascii_lowercase          # 0 = padding, 1 = begin and end
stoi = {c: i for i, c in enumerate(chars)}

def name(r):
    v, c = "aeiou", "bdfghklmnrstv"
    s = "".join(r.choice(c) + r.choice(v) + (r.choice("nrs") if r.random() < .3 else "") for _ in range(r.randint(1, 4)))
    return s

r = random.Random(0)
words = sorted({name(r) for _ in range(900)})
r.shuffle(words)
train, held = words[100:], words[:100]
enc = lambda w: torch.tensor([1] + [stoi[c] for c in w] + [1])

class CharLSTM(nn.Module):
    def __init__(self, n, emb=24, hid=64):
        super().__init__()
        self.emb = nn.Embedding(n, emb, padding_idx=0)
        self.rnn = nn.LSTM(emb, hid, batch_first=True)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(hid, n)

    def forward(self, x, lengths):
        p = pack_padded_sequence(self.emb(x), lengths, batch_first=True, enforce_sorted=False)
        h, _ = pad_packed_sequence(self.rnn(p)[0], batch_first=True)
        return self.out(self.drop(h))

def batch(ws):
    seqs = [enc(w) for w in ws]
    x = pad_sequence([s[:-1] for s in seqs], batch_first=True)
    y = pad_sequence([s[1:] for s in seqs], batch_first=True)
    return x, y, torch.tensor([len(s) - 1 for s in seqs])

model = CharLSTM(len(chars))
crit = nn.CrossEntropyLoss(ignore_index=0)
opt = torch.optim.RMSprop(model.parameters(), lr=2e-3)
BS, EPOCHS = 32, 4

def perplexity(ws):
    model.eval()
    nll = n = 0
    with torch.no_grad():
        for i in range(0, len(ws), BS):
            x, y, l = batch(ws[i:i + BS])
            k = int((y != 0).sum())
            nll += crit(model(x, l).flatten(0, 1), y.flatten()).item() * k
            n += k
    return math.exp(nll / n)

for epoch in range(EPOCHS):
    model.train()
    random.shuffle(train)
    tot = cnt = 0
    for i in range(0, len(train), BS):
        x, y, l = batch(train[i:i + BS])
        loss = crit(model(x, l).flatten(0, 1), y.flatten())
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.2)
        opt.step()
        tot += loss.item(); cnt += 1
    print(f"epoch {epoch} loss {tot / cnt:.3f} held-out perplexity {perplexity(held):.3f}")

torch.save(model.state_dict(), "names.pt")
