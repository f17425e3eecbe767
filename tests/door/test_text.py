"""Text that a run reads: carried state, order, and held-out text at another offset."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from andon.door.records import Run
from andon.door.statements.data import check_order
from andon.door.statements.held_out import check_carried, check_held_out_text
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from tests.door.watching import WORDS, Reader, Watching

pytestmark = pytest.mark.tier2
TIME, ROWS, SPAN = 10, 8, 40


def text(count: int) -> Tensor:
    """A stream in which each token has two followers."""
    torch.manual_seed(0)
    follows, stream = torch.randint(WORDS, (WORDS, 2)), [0]
    for choice in torch.randint(2, (count - 1,)).tolist():
        stream.append(int(follows[stream[-1], choice]))
    return torch.tensor(stream)


def read(stream: Tensor, *, carries: bool = True, shuffles: bool = False) -> Run:
    """Two epochs over a stream (time, rows), by chunks."""
    watching, model = Watching(), Reader()
    optimizer = watching.optimizer(model.parameters())
    for _ in range(2):
        state, chunks = torch.zeros(1, ROWS, 8), list(stream.split(TIME))
        for place in torch.randperm(len(chunks)).tolist() if shuffles else range(len(chunks)):
            logits, after = watching.call(model, chunks[place], state)
            state = after.detach() if carries else state
            watching.step(optimizer, cross_entropy(logits.flatten(0, 1), chunks[place].flatten()))
    return watching.run


def test_carried_text_is_read_in_order() -> None:
    """Behavior: the same order each epoch is as it must be where state is carried, and yellow where it is not."""
    stream = text(2400).view(ROWS, -1).t().contiguous()
    run = read(stream)
    check_carried(run)
    with pytest.raises(NotApplicable, match="no state carried"):
        check_order(run)
    with pytest.raises(Unusual, match="same rows in the same order"):
        check_order(read(stream, carries=False))
    with pytest.raises(NotApplicable):
        check_carried(read(stream, carries=False))


def test_carried_text_that_does_not_go_on_is_red() -> None:
    """Behavior: shuffled chunks, and a stream that is laid out across the rows."""
    with pytest.raises(CheckFailed, match="followed by another batch"):
        check_carried(read(text(2400).view(ROWS, -1).t().contiguous(), shuffles=True))
    with pytest.raises(CheckFailed, match="across the rows"):
        check_carried(read(text(2400).view(-1, ROWS)))


@pytest.mark.parametrize("begins", [True, False])
def test_a_decoder_is_no_stream(begins: bool) -> None:
    """Behavior: not asked of tokens that are given one by one: with what begins all texts, or each batch once."""
    torch.manual_seed(0)
    watching, model = Watching(), Reader(layers=2)
    optimizer = watching.optimizer(model.parameters())
    for _ in range(12):
        state, loss = torch.randn(2, ROWS, 8), torch.zeros(())
        ids = torch.zeros(1, ROWS, dtype=torch.long) if begins else torch.randint(WORDS, (1, ROWS))
        for _ in range(8):
            logits, state = watching.call(model, ids, state)
            ids = torch.randint(WORDS, (1, 1)) + torch.arange(ROWS)[None] % 2  # alike across the rows
            loss = loss + cross_entropy(logits[0], ids[0] % WORDS)
            ids = ids % WORDS
        watching.step(optimizer, loss)
    with pytest.raises(NotApplicable):
        check_carried(watching.run)


def windows(stream: Tensor, count: int) -> Tensor:
    """Windows of a stream at random offsets."""
    places = torch.randint(len(stream) - SPAN, (count,)).tolist()
    return torch.stack([stream[place : place + SPAN] for place in places])


def evaluated(train: Tensor, held_out: Tensor, *also: Tensor) -> Run:
    """A run on windows of one stream, evaluated now and then on those of others, at one line."""
    watching, model = Watching(), Reader()
    optimizer = watching.optimizer(model.parameters())
    for step in range(40):
        logits, _ = watching.call(model, rows := windows(train, 8), torch.zeros(1, SPAN, 8))
        watching.step(optimizer, cross_entropy(logits.flatten(0, 1), rows.flatten()))
        with torch.no_grad():
            for stream in (held_out, *also) if step % 10 == 9 else ():
                for _ in range(2):
                    watching.call(model, windows(stream, 8), torch.zeros(1, SPAN, 8))
    return watching.run


def test_held_out_text_within_training_text_is_yellow() -> None:
    """Behavior: at any offset; not a stretch of its own, nor beside training text; not asked of text that repeats."""
    torch.manual_seed(0)
    stream = torch.randint(WORDS, (4000,))
    train, held_out = stream[:2000], stream[2000:]
    check_held_out_text(evaluated(train, held_out))
    check_held_out_text(evaluated(train, held_out, train))  # figures of both
    with pytest.raises(Unusual, match="word for word"):
        check_held_out_text(evaluated(train, train[500:]))
    with pytest.raises(NotApplicable):
        check_held_out_text(evaluated(torch.arange(2000) % 7, train))
    phrase = torch.randint(WORDS, (20,))
    one, other = (torch.cat([torch.cat([phrase, torch.randint(WORDS, (3,))]) for _ in range(100)]) for _ in range(2))
    with pytest.raises(NotApplicable, match="repeat itself"):
        check_held_out_text(evaluated(one, other))  # a phrase that is everywhere
