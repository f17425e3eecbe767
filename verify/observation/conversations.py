"""What of a conversation is trained: where each message stands, told by what changes with its text.

Legend: B batch, T time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from andon.verify.access.calls import new_batch
from andon.verify.access.documents import documents_in
from andon.verify.access.roles import IGNORE
from andon.verify.access.targets import targets_of, tokens_of
from andon.verify.errors import CheckFailed, NotApplicable
from andon.verify.subject import Batch, Subject

BATCHES = 8
TALK = tuple(
    {"role": role, "content": content}
    for role, content in (
        ("user", "What is two and two?"),
        ("assistant", "Four, of course."),
        ("user", "How about three times three"),
        ("assistant", "That makes nine"),
        ("user", "Count to five."),
        ("assistant", "one, two, three, four, five!"),
    )
)
OTHER = "Zebras, 70"  # begins and ends with other letters than any message

Messages = Sequence[Mapping[str, str]]
Encode = Callable[[Messages], Any]


class Span(NamedTuple):
    """Places from `begin` up to `end`."""

    begin: int
    end: int

    @property
    def size(self) -> int:
        """How many."""
        return self.end - self.begin


class Encoded(NamedTuple):
    """Token ids, and for each what it is trained as, at its own place; IGNORE where it is not."""

    ids: list[int]
    targets: list[int]

    @classmethod
    def of(cls, pair: tuple[Sequence[int], Sequence[int]]) -> "Encoded":
        """Ids and labels, the labels at their tokens or one ahead.

        Raises:
            CheckFailed: they are not as many, or no labels of these ids.
        """
        ids, labels = (list(map(int, each)) for each in pair)
        if len(ids) != len(labels):
            raise CheckFailed(f"what is trained on has {len(ids)} ids and {len(labels)} labels")
        if _is_ahead(ids, labels):
            return cls([*ids, *labels[-1:]], [IGNORE, *map(_target, labels)])
        return cls(ids, [_target(label) for label in labels])

    def trained_in(self, span: Span) -> int:
        """How many tokens of these places are trained."""
        return sum(target != IGNORE for target in self.targets[span.begin : span.end])


class Answers(NamedTuple):
    """What batches hold."""

    rows: int
    count: int  # answers
    trained: int  # of these
    several: int  # documents with more than one


def _is_ahead(ids: Sequence[int], labels: Sequence[int]) -> bool:
    """Whether labels are the tokens that follow, or those at their places.

    Raises:
        CheckFailed: they are neither.
    """
    counted = [index for index, label in enumerate(labels) if label >= 0]
    under = sum(labels[index] == ids[index] for index in counted)
    ahead = sum(index + 1 == len(ids) or labels[index] == ids[index + 1] for index in counted)
    if len(counted) not in (under, ahead):
        raise CheckFailed(
            f"of {len(counted)} trained labels {under} are the token at their place and {ahead} the one that follows; "
            "all must be one or the other"
        )
    return under < len(counted)


def _target(label: int) -> int:
    return label if label >= 0 else IGNORE


def spans_of(encode: Encode, whole: Encoded, role: str) -> list[Span]:
    """Where the messages of a role stand: the tokens that are others where their text is another."""
    places = [place for place, message in enumerate(TALK) if message["role"] == role]
    return [_span(whole.ids, _ids_with_another(encode, place)) for place in places]


def _ids_with_another(encode: Encode, place: int) -> list[int]:
    changed = [message | {"content": OTHER} if index == place else message for index, message in enumerate(TALK)]
    return Encoded.of(encode(changed)).ids


def _span(ids: list[int], other: list[int]) -> Span:
    """What is different in the other.

    Raises:
        NotApplicable: nothing is.
    """
    begin = len(common_beginning([ids, other]))
    end = len(ids) - len(common_beginning([ids[::-1], other[::-1]]))
    if end <= begin:
        raise NotApplicable("an encode_conversation whose tokens change with the text of each message")
    return Span(begin, end)


def common_beginning(sequences: Sequence[Sequence[int]]) -> list[int]:
    """The items that all sequences begin with."""
    shared = []
    for ids in zip(*sequences, strict=False):
        if len(set(ids)) > 1:
            break
        shared.append(int(ids[0]))
    return shared


def answers_in_batches(subject: Subject, instructions: Sequence[Encoded]) -> Answers:
    """The answers of the subject's batches, which stand behind what opens the answer of each instruction.

    Raises:
        NotApplicable: nothing opens them alike, or other things are trained in batches than what stands behind it.
    """
    mark = _opening(instructions)
    documents = [document for batch in _batches(subject) for document in _documents(subject, batch)]
    found = [[document.targets[place] != IGNORE for place in _behind(document.ids, mark)] for document in documents]
    for document in documents:
        _require_behind(document, mark)
    several = sum(len(each) > 1 for each in found)
    return Answers(len(documents), sum(map(len, found)), sum(map(sum, found)), several)


def _opening(instructions: Sequence[Encoded]) -> list[int]:
    """The tokens before each answer, whatever was asked: once in each instruction."""
    starts = [next((at for at, target in enumerate(each.targets) if target != IGNORE), 0) for each in instructions]
    before = [each.ids[:start][::-1] for each, start in zip(instructions, starts, strict=True)]
    mark = common_beginning(before)[::-1]
    alone = all(_behind(each.ids, mark) == [start] for each, start in zip(instructions, starts, strict=True))
    if not mark or not alone:
        raise NotApplicable("instructions whose answers all stand behind the same tokens, which stand nowhere else")
    return mark


def _behind(ids: Sequence[int], mark: Sequence[int]) -> list[int]:
    """The places that follow a mark."""
    size = len(mark)
    return [at for at in range(size, len(ids)) if size and list(ids[at - size : at]) == list(mark)]


def _require_behind(document: Encoded, mark: Sequence[int]) -> None:
    """Refuse a document in which what is trained does not begin behind a mark, or goes on over one."""
    behind = set(_behind(document.ids, mark))
    for place in range(1, len(document.ids)):
        before, here = (document.targets[at] != IGNORE for at in (place - 1, place))
        begins = here and not before and place > 1  # a row may begin within an answer
        if (begins and place not in behind) or (here and before and place in behind):
            raise NotApplicable(
                "batches in which what is trained begins behind what opens the answer of an instruction"
            )


def _batches(subject: Subject) -> Iterator[Batch]:
    """Some of the subject's, and the first of its epoch."""
    yield from (new_batch(subject, seed) for seed in range(BATCHES // 2))
    if subject.epoch_batches is not None:
        for batch in islice(subject.epoch_batches(0), BATCHES // 2):
            yield from batch if isinstance(batch, list) else [batch]


def _documents(subject: Subject, batch: Batch) -> Iterator[Encoded]:
    """The documents of each row, with their targets at their own places."""
    tokens_BT, targets_BT, numbers_BT = (
        tokens_of(subject, batch),
        targets_of(subject, batch),
        documents_in(subject, batch),
    )
    for tokens_T, targets_T, numbers_T in zip(tokens_BT.tolist(), targets_BT.tolist(), numbers_BT, strict=True):
        own_T = [IGNORE, *targets_T[:-1]]
        for number in numbers_T.unique():
            places = (numbers_T == number).nonzero().flatten().tolist()
            yield Encoded([tokens_T[at] for at in places], [own_T[at] for at in places])
