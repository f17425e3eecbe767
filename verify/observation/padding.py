"""Rows of token ids without their padding, whose token and length nobody has to say."""

from collections import Counter

from andon.verify.subject import Subject

CANDIDATES = 4  # for the token that pads

Row = tuple[int, ...]  # of token ids
Epochs = tuple[Counter[Row], Counter[Row]]


def unpadded(subject: Subject, first: list[Row], second: list[Row]) -> Epochs:
    """Both epochs' rows without their padding.

    A row is padded to another length in another batch. Taken for padding is, at either end of a row, what
    `Subject.pad_id` says, or whichever token of those that most rows end or begin with leaves the fewest rows apart.
    """
    ends = Counter(row[end] for row in (*first, *second) if row for end in (0, -1))
    usual = [token for token, _ in ends.most_common(CANDIDATES)]
    ways = [_without(first, second, token) for token in (None, subject.pad_id, *usual)]
    return min(ways, key=lambda epochs: rows_apart(*epochs))


def rows_apart(one: Counter[Row], two: Counter[Row]) -> int:
    """How many rows are in one of them alone."""
    return (one - two).total() + (two - one).total()


def _without(first: list[Row], second: list[Row], padding: int | None) -> Epochs:
    return Counter(_bare(row, padding) for row in first), Counter(_bare(row, padding) for row in second)


def _bare(row: Row, padding: int | None) -> Row:
    """A row without this token at its ends; one that is nothing else keeps it once."""
    begin, end = 0, len(row)
    while end - begin > 1 and row[end - 1] == padding:
        end -= 1
    while end - begin > 1 and row[begin] == padding:
        begin += 1
    return row[begin:end]
