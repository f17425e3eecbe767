"""Text that a run reads: whether what is held out was read, and whether it goes on where state is carried."""

import math

import numpy as np

from andon.door.carrying import Carrying
from andon.door.phrases import Phrases
from andon.door.records import Run
from andon.door.statements.statement import FEW, Statement, at, now_and_then
from andon.verify.errors import CheckFailed, NotApplicable, Unusual

LEAST = 64  # stretches of text that say something
REPEATS = 0.15  # of those that come again with something else around them: text that repeats itself
SHARED = 0.08
QUARTER = 0.25  # of an evaluation's batches: those that share least, as training text may be evaluated beside
BATCHES = 4
HALF = 0.5
# Of pairs of neighbors fewer differ than in a text in no order where one token follows another: by what share at
# least across the rows, and how many times that along them.
FOLLOWS, TIMES = 0.25, 3
PAIRS = 500


def check_held_out_text(run: Run) -> None:
    """Text that a model is evaluated on does not lie within the text that it trains on, at another offset.

    Told by hashes of stretches of 24 tokens, of 32 in rows of 64 and more. Not asked where the text repeats itself:
    where the middle of a stretch comes again with something else around it.

    Silent because the figures look better.

    Look at where the split of the token stream begins and ends, and whether it comes before windows are cut.

    Yellow alone: whoever also reports the training text's figures does so.
    """
    trained = [each.phrases for each in run.passes.values() if each.trained]
    known = {stretch: around for each in trained for stretch, around in each.around.items()}
    again, otherwise = sum(each.again for each in trained), sum(each.otherwise for each in trained)
    evaluated = [each for each in now_and_then(run) if len(each.phrases.around) >= LEAST]
    if len(known) < LEAST or not evaluated or otherwise > REPEATS * again:
        raise NotApplicable("passes without a backward pass on token ids, of text that does not repeat itself")
    for passes in evaluated:
        share = _least_share(passes.phrases, known)
        if share > SHARED:
            where = f" ({passes.chain[0]})" if passes.chain else ""
            raise Unusual(
                f"of the text that the model is evaluated on{where}, {share:.0%} lies within text that it was trained "
                "on in this run, word for word, in the batches that share least with it"
            )


def check_carried(run: Run) -> None:
    """Where a pass is given the state that the one before returned, its text goes on from there.

    Asked where state is seen to be carried, by batches that come once an epoch: a decoder that is given one token at a
    time has the same ones again before others. Two things contradict it: a batch whose state is carried to one batch
    now and to another later, and rows in which tokens follow each other across the rows and not along them.

    Silent because the state of another text is noise, and each chunk alone teaches something.

    Look at how the stream is laid out into rows (`view(rows, -1).t()`), and at what shuffles the chunks.
    """
    asked = False
    for passes in (each for each in run.passes.values() if each.trained):
        carrying, where = passes.carrying, at(passes.chain[0] if passes.chain else None)
        if carrying.carried <= HALF * carrying.passes or not carrying.by_epochs:
            continue
        along, across = _disorder(carrying.chunks, 0), _disorder(carrying.chunks, 1)
        asked = asked or carrying.again > 0 or not math.isnan(along)
        _hold_followers(carrying, where)
        _hold_layout(along, across, where)
    if not asked:
        raise NotApplicable("passes on token ids that are given the state that the pass before returned")


def _hold_followers(carrying: Carrying, where: str) -> None:
    """Raises where a batch's state is carried to one batch now and to another later."""
    if carrying.elsewhere >= FEW and carrying.elsewhere > HALF * carrying.again:
        raise CheckFailed(
            f"state is carried from pass to pass{where}, and of {carrying.again} batches that came again "
            f"{carrying.elsewhere} were followed by another batch than before"
        )


def _hold_layout(along: float, across: float, where: str) -> None:
    """Raises where tokens follow each other across the rows; chunks of one token show nothing along them."""
    if not math.isnan(along) and 1 - across > max(FOLLOWS, TIMES * (1 - along)):
        raise CheckFailed(
            f"state is carried from pass to pass{where}, but tokens follow each other across the rows of a batch "
            f"and not along them: of neighbors across {across:.0%} as many pairs differ as in a mixed text, and "
            f"along {along:.0%}"
        )


def _least_share(phrases: Phrases, known: dict[int, int]) -> float:
    """How much of an evaluation's text is known, in the batches of it that share least."""
    counts = sorted(
        (
            (sum(known.get(stretch) == around for stretch, around in batch.items()), len(batch))
            for batch in phrases.batches
            if batch
        ),
        key=lambda each: each[0] / each[1],
    )
    least = counts[: max(1, int(QUARTER * len(counts)))] if len(counts) >= BATCHES else counts[:1]
    return sum(shared for shared, _ in least) / sum(count for _, count in least) if least else 0.0


def _disorder(chunks: list[np.ndarray], axis: int) -> float:
    """How many pairs of neighbors along an axis differ, beside those of the same tokens in no order."""
    pairs = [
        np.stack((chunk[:-1].ravel(), chunk[1:].ravel()), 1) if axis == 0 else
        np.stack((chunk[:, :-1].ravel(), chunk[:, 1:].ravel()), 1)
        for chunk in chunks
    ]  # fmt: skip
    found = np.concatenate(pairs) if pairs else np.zeros((0, 2))
    if len(found) < PAIRS:
        return float("nan")
    mixed = np.stack((found[:, 0], np.random.default_rng(0).permutation(found[:, 1])), 1)
    return len(np.unique(found, axis=0)) / len(np.unique(mixed, axis=0))


STATEMENTS = (Statement("run.held_out_text", check_held_out_text), Statement("run.carried", check_carried))
