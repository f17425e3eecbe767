"""
Trains a byte-level GPT on sentences from a grammar.

    python -m bytegpt.train
    python -m bytegpt.train --updates 12 --save ckpt.pt && python -m bytegpt.train --resume ckpt.pt
"""

import argparse
import json
import time

import torch

from .corpus import VOCAB, Corpus, Sampler, collate, counted, decode
from .net import ByteGPT, summed_loss
from .optim import clip, load, make_optimizer, rate_at, save, set_rate


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # model
    ap.add_argument("--width", type=int, default=48)
    ap.add_argument("--layers", type=int, default=3)
    ap.add_argument("--heads", type=int, default=4)
    ap.add_argument("--max-len", type=int, default=96)
    ap.add_argument("--dropout", type=float, default=0.1)
    # data
    ap.add_argument("--docs", type=int, default=160)
    ap.add_argument("--batch-size", type=int, default=8)
    ap.add_argument("--accumulate", type=int, default=3)
    # optimization
    ap.add_argument("--updates", type=int, default=24)
    ap.add_argument("--warmup", type=int, default=4)
    ap.add_argument("--lr", type=float, default=3e-3)
    ap.add_argument("--weight-decay", type=float, default=0.1)
    ap.add_argument("--clip", type=float, default=0.5)
    # the run
    ap.add_argument("--seed", type=int, default=1337)
    ap.add_argument("--eval-every", type=int, default=6)
    ap.add_argument("--stop-after", type=int, default=0, help="updates after which to stop (0: do all)")
    ap.add_argument("--save", default="")
    ap.add_argument("--resume", default="")
    ap.add_argument("--log", default="")
    return ap.parse_args()


def evaluate(model, corpus, batch):
    """Nats per byte over the whole held-out corpus."""
    model.eval()
    total, n = 0.0, 0
    with torch.no_grad():
        for i in range(0, len(corpus), batch):
            ids, labels = collate(corpus.rows[i : i + batch])
            total += summed_loss(model(ids), labels).item()
            n += counted(labels)
    model.train()
    return total / n


class Log:
    """A line on the screen now and then, one JSON object a step in a file if there is one."""

    def __init__(self, path):
        self.path, self.started = path, time.time()
        self.average, self.seen = 0.0, 0

    def step(self, step, loss, rate, norm):
        self.seen += 1
        self.average += (loss - self.average) / self.seen
        if self.path:
            with open(self.path, "a") as f:
                f.write(json.dumps({"step": step, "loss": float(loss), "rate": rate, "norm": norm}) + "\n")

    def validation(self, step, value):
        print(f"update {step:4d}  train {float(self.average):.4f}  held out {value:.4f}", flush=True)
        self.average, self.seen = 0.0, 0


def update(model, optimizer, sampler, args, step):
    """One optimizer step over `accumulate` micro-batches; returns loss per byte and the gradient's norm."""
    micro = [collate(sampler.next()) for _ in range(args.accumulate)]
    total = sum(counted(labels) for _, labels in micro)
    optimizer.zero_grad(set_to_none=True)
    loss_sum = 0.0
    for ids, labels in micro:
        loss = summed_loss(model(ids), labels) / total
        loss.backward()
        loss_sum += loss.item()
    params = [p for p in model.parameters() if p.requires_grad]
    norm = clip(params, args.clip)
    optimizer.step()
    return loss_sum, norm


def main():
    args = arguments()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    train_set = Corpus(args.docs, seed=7, max_len=args.max_len)
    held_out = Corpus(20, seed=8, max_len=args.max_len)
    sampler = Sampler(train_set, args.batch_size, args.seed)

    model = ByteGPT(VOCAB, args.width, args.layers, args.heads, args.max_len, args.dropout)
    optimizer = make_optimizer(model, args)
    done = load(args.resume, model, optimizer, sampler) if args.resume else 0
    print(f"{model.n_params():,} parameters, {train_set.n_bytes():,} bytes")

    log = Log(args.log)
    model.train()
    for step in range(done, args.updates):
        rate = rate_at(step, args)
        set_rate(optimizer, rate)
        loss, norm = update(model, optimizer, sampler, args, step)
        log.step(step, loss, rate, norm)
        if (step + 1) % args.eval_every == 0:
            log.validation(step + 1, evaluate(model, held_out, args.batch_size))
        if step + 1 == args.stop_after:
            break
    if args.save:
        save(args.save, model, optimizer, sampler, step + 1)

    start = torch.tensor([list(b"The old ")])
    print(repr(decode(model.complete(start, 24)[0])))


if __name__ == "__main__":
    main()
