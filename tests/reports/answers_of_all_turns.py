"""Conversations of several turns, each answer of which is to be learned."""

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from andon.verify import Subject
from tests.reports.small import VOCAB, Batch, Decoder, next_token_loss

BUG = "of a conversation only the last answer is trained: what comes before it is left out as if it were a prompt"
PAD, BEGIN, STOP, HUMAN, BOT, FIRST_WORD = 0, 1, 2, 3, 4, 5
Turns = list[tuple[int, list[int]]]
Encoded = tuple[list[int], list[int]]


def talk(seed: int) -> Turns:
    """Two to four questions with their answers."""
    dice = random.Random(seed)
    turns: Turns = []
    for _ in range(dice.randint(2, 4)):
        turns += [(who, [dice.randrange(FIRST_WORD, VOCAB) for _ in range(dice.randint(1, 3))]) for who in (HUMAN, BOT)]
    return turns


def encode(turns: Turns, *, last_only: bool) -> Encoded:
    """Ids and labels: an answer's words and the mark that ends it."""
    ids, labels = [], []
    for place, (who, words) in enumerate(turns):
        learned = who == BOT and (place == len(turns) - 1 or not last_only)
        ids += [BEGIN, who, *words, STOP]
        labels += [-100, -100, *([*words, STOP] if learned else [-100] * (len(words) + 1))]
    return ids, labels


def side_by_side(rows: Sequence[Encoded]) -> Batch:
    """Padded on the right."""
    width = max(len(ids) for ids, _ in rows)
    fill = [(ids + [PAD] * (width - len(ids)), labels + [-100] * (width - len(ids))) for ids, labels in rows]
    ids, labels = (torch.tensor(column) for column in zip(*fill, strict=True))
    return {"input_ids": ids, "labels": labels, "attention_mask": (ids != PAD).long()}


def masked_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Of the answers' tokens."""
    return next_token_loss(model(batch["input_ids"], batch["attention_mask"]), batch["labels"])


def subject(*, last_only: bool) -> Subject:
    """Batches, epochs and single instructions of one encoder."""

    def batch(generator: torch.Generator) -> Batch:
        first = int(torch.randint(10**6, (), generator=generator))
        return side_by_side([encode(talk(first + row), last_only=last_only) for row in range(3)])

    def epoch(number: int) -> Iterator[Batch]:
        order = random.Random(f"epoch {number}").sample(range(12), 12)
        for begin in range(0, 12, 3):
            yield side_by_side([encode(talk(each), last_only=last_only) for each in order[begin : begin + 3]])

    def instruction(prompt: str, answer: str) -> Encoded:
        asked, answered = ([FIRST_WORD + ord(letter) % (VOCAB - FIRST_WORD) for letter in each] for each in (prompt, answer))
        return encode([(HUMAN, asked), (BOT, answered)], last_only=last_only)

    return Subject(
        name="answers", model=Decoder, batch=batch, loss=masked_loss, eos_id=STOP, pad_id=PAD, epoch_batches=epoch,
        encode_instruction=instruction,
    )  # fmt: skip


def faulty() -> Subject:
    """The last answer alone."""
    return subject(last_only=True)


def fixed() -> Subject:
    """Every answer."""
    return subject(last_only=False)
