"""What `bytegpt` is made of, for `andon verify checks:subject`: written once, as a user of it would."""

import sys

import torch
from andon import verify
from bytegpt import train as script
from bytegpt.corpus import END, PAD, VOCAB, Corpus, Sampler, collate, counted
from bytegpt.net import ByteGPT, summed_loss
from bytegpt.optim import load, make_optimizer, rate_at, save, set_rate

sys.argv = ["train.py"]
ARGS = script.arguments()
TRAIN, HELD_OUT = Corpus(ARGS.docs, 7, ARGS.max_len), Corpus(20, 8, ARGS.max_len)


def model():
    return ByteGPT(VOCAB, ARGS.width, ARGS.layers, ARGS.heads, ARGS.max_len, ARGS.dropout)


def batch(generator):
    rows = torch.randperm(len(TRAIN), generator=generator)[: ARGS.batch_size]
    return collate([TRAIN.rows[i] for i in rows])


def loss(net, given):
    return summed_loss(net(given[0]), given[1]) / counted(given[1])


class Fixed:
    """Hands out these batches, as the script's sampler hands out documents."""

    def __init__(self, batches):
        self.batches = iter(batches)

    def next(self):
        return next(self.batches)


def train_step(net, optimizer, micro_batches):
    kept, script.collate = script.collate, lambda given: given
    args = type("Args", (), {**vars(ARGS), "accumulate": len(micro_batches)})
    try:
        value, norm = script.update(net, optimizer, Fixed(micro_batches), args, 0)
    finally:
        script.collate = kept
    return {"loss": float(value), "grad_norm": norm}


class Run(verify.Loop):
    """The script's loop, update by update."""

    def __init__(self, folder=None):
        torch.manual_seed(ARGS.seed)
        self.sampler = Sampler(TRAIN, ARGS.batch_size, ARGS.seed)
        self.model = model()
        self.optimizer = make_optimizer(self.model, ARGS)
        self.done = load(folder / "run.pt", self.model, self.optimizer, self.sampler) if folder else 0
        self.model.train()

    def step(self):
        rate = rate_at(self.done, ARGS)
        set_rate(self.optimizer, rate)
        value, norm = script.update(self.model, self.optimizer, self.sampler, ARGS, self.done)
        self.done += 1
        return {"loss": float(value), "grad_norm": norm, "learning_rate": rate}

    def save(self, folder):
        save(folder / "run.pt", self.model, self.optimizer, self.sampler, self.done)

    def validate(self):
        return script.evaluate(self.model, HELD_OUT, ARGS.batch_size)


def epoch(number):
    sampler = Sampler(TRAIN, ARGS.batch_size, ARGS.seed)
    for _ in range((number + 1) * (len(TRAIN) // ARGS.batch_size)):
        documents = sampler.next()
        if sampler.epoch == number:
            yield collate(documents)


subject = verify.Subject(
    name="bytegpt",
    model=model,
    batch=batch,
    loss=loss,
    collate_padded=collate,
    generate=lambda net, ids, n: net.complete(ids, n),
    optimizer=lambda net: make_optimizer(net, ARGS),
    train_step=train_step,
    lr_at=lambda step: rate_at(step, ARGS),
    loop=Run,
    resume=Run,
    epoch_batches=epoch,
    pad_id=PAD,
    eos_id=END,
    hyperparameters={
        "learning_rate": ARGS.lr,
        "weight_decay": ARGS.weight_decay,
        "grad_clip": ARGS.clip,
        "warmup_steps": ARGS.warmup,
        "steps": ARGS.updates,
        "min_ratio": 0.1,
    },
)
