"""
Text for the byte model.  No files are read: sentences come out of a little grammar with a
fixed seed, one document = a few sentences, a byte is a token.

    Corpus.rows     list of documents (python lists of ints)
    Sampler         epochs over the documents, reshuffled each time; can be stopped and continued
    collate(docs)   (ids, labels), both (B, T), right padded
"""

import random

import torch

PAD = 0          # never occurs in the text
END = 10         # newline, closes a document
SKIP = -100      # label of a position that does not count
VOCAB = 128      # 7 bit ascii

NOUNS = "river stone lamp garden tower winter sailor letter kitchen engine".split()
VERBS = "follows keeps finds leaves carries watches mends forgets".split()
ADJECTIVES = "old quiet narrow bright broken distant green".split()
LINKS = ["and then", "because", "while", "until", "so"]


def phrase(rng):
    adj = rng.choice(ADJECTIVES) + " " if rng.random() < 0.6 else ""
    return "the " + adj + rng.choice(NOUNS)


def sentence(rng):
    s = f"{phrase(rng)} {rng.choice(VERBS)} {phrase(rng)}"
    while rng.random() < 0.35:
        s += f" {rng.choice(LINKS)} {phrase(rng)} {rng.choice(VERBS)} {phrase(rng)}"
    return s.capitalize() + "."


class Corpus:
    def __init__(self, n_docs, seed, max_len):
        rng = random.Random(seed)
        self.rows = []
        for _ in range(n_docs):
            text = " ".join(sentence(rng) for _ in range(rng.randint(1, 3)))
            row = list(text.encode("ascii"))[: max_len] + [END]
            self.rows.append(row)

    def __len__(self):
        return len(self.rows)

    def n_bytes(self):
        return sum(len(r) for r in self.rows)


class Sampler:
    """Hands out lists of documents for ever.  state()/restore() continue exactly where it was."""

    def __init__(self, corpus, batch, seed):
        self.corpus, self.batch, self.seed = corpus, batch, seed
        self.epoch, self.at = 0, 0
        self.order = self._shuffled()

    def _shuffled(self):
        order = list(range(len(self.corpus)))
        random.Random(self.seed * 1000 + self.epoch).shuffle(order)
        return order

    def next(self):
        if self.at + self.batch > len(self.order):
            self.epoch, self.at = self.epoch + 1, 0
            self.order = self._shuffled()
        picked = self.order[self.at : self.at + self.batch]
        self.at += self.batch
        return [self.corpus.rows[i] for i in picked]

    def state(self):
        return {"epoch": self.epoch, "at": self.at}

    def restore(self, state):
        self.epoch, self.at = state["epoch"], state["at"]
        self.order = self._shuffled()


def collate(docs):
    """Inputs are all bytes but the last, labels all but the first."""
    width = max(len(d) for d in docs) - 1
    ids = torch.full((len(docs), width), PAD, dtype=torch.long)
    labels = torch.full((len(docs), width), SKIP, dtype=torch.long)
    for r, d in enumerate(docs):
        n = len(d) - 1
        ids[r, :n] = torch.tensor(d[:-1])
        labels[r, :n] = torch.tensor(d[1:])
    return ids, labels


def counted(labels):
    """How many positions of a batch count."""
    return int((labels != SKIP).sum())


def decode(ids):
    return bytes(int(i) for i in ids).decode("ascii", "replace")
