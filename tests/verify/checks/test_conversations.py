"""Conversations of several turns: each answer is trained, nothing else; told from faults in encoders of two kinds."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from andon.verify import check
from andon.verify.run.report import RED, YELLOW
from andon.verify.subject import Subject
from tests.reports import answers_of_all_turns
from tests.verify.checks.test_correct_training import ABSENT, GREEN, light
from tests.verify.small import small

pytestmark = pytest.mark.tier2
FINDERS = ("text.conversation", "text.answers")
END, FIRST = 1, 4
MARKS = {"user": 2, "assistant": 3}
Messages = Sequence[Mapping[str, str]]
Encoded = tuple[list[int], list[int]]


def letters(text: str) -> list[int]:
    """An id a letter."""
    return [FIRST + ord(letter) for letter in text]


def message_by_message(
    chosen: Callable[[Messages, int], bool], change: Callable[[list[int]], list[int]] = lambda labels: labels
) -> Callable[[Messages], Encoded]:
    """Each message behind its mark; of those that are chosen the text and the end are trained."""

    def encode(messages: Messages) -> Encoded:
        ids: list[int] = []
        labels: list[int] = []
        for place, message in enumerate(messages):
            own = [*letters(message["content"]), END]
            ids += [MARKS[message["role"]], *own]
            labels += [-100, *(change(own) if chosen(messages, place) else [-100] * len(own))]
        return ids, labels

    return encode


def by_search(first: str = "assistant: ", shift: int = 1) -> Callable[[Messages], Encoded]:
    """The whole text, in which answers are searched for; labels one ahead."""

    def encode(messages: Messages) -> Encoded:
        text = "".join(f"{each['role']}: {each['content']}\n" for each in messages)
        ids, learned = letters(text), set[int]()
        for found in re.finditer(f"{first}(.*\n)", text):
            learned.update(range(*found.span(1)))
        return ids[:-1], [ids[at] if at + 1 - shift in learned else -100 for at in range(1, len(ids))]

    return encode


def answers(messages: Messages, place: int) -> bool:
    """Of the assistant."""
    return messages[place]["role"] == "assistant"


ENCODERS: dict[str, tuple[Callable[[Messages], Encoded], str, str]] = {
    "each answer": (message_by_message(answers), GREEN, ""),
    "the last answer": (message_by_message(lambda all_of, at: at == len(all_of) - 1), YELLOW, "2 are not trained"),
    "the first answer": (message_by_message(lambda _, at: at == 1), RED, r"2 are not trained: \[2, 3\]"),
    "no answer's end": (message_by_message(answers, lambda own: [*own[:-1], -100]), RED, "behind 0 of them"),
    "half of an answer": (message_by_message(answers, lambda own: [-100, *own[1:]]), RED, "15 of 16 tokens"),
    "everything": (lambda messages: (by_search()(messages)[0], by_search()(messages)[0]), YELLOW, "all 176 tokens"),
    "a question, too": (
        message_by_message(lambda all_of, at: at == 2 or answers(all_of, at)),
        RED,
        "says in message 2",
    ),
    "searched for": (by_search(), GREEN, ""),
    "searched for, shifted once more": (
        by_search(shift=2),
        RED,
        "of answer 1 of 3 15 of 16",
    ),
    "searched for in all roles": (by_search(r"\w+: "), RED, "that the user says in message 1"),
    "labels of other tokens": (lambda messages: ([5] * 9, [6] * 9), RED, "must be one or the other"),
    "text that nobody reads": (lambda messages: ([5] * 9, [5] * 9), ABSENT, ""),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_each_answer_of_a_conversation_is_trained(name: str) -> None:
    """Behavior: answers are told by what changes with their text; whole ones pass, what else is trained is found."""
    encode, outcome, message = ENCODERS[name]
    subject = small(encode_conversation=encode, eos_id=END)
    assert light(subject, FINDERS[0]) == outcome
    found = check(subject, only=FINDERS[:1]).findings
    assert not message or re.search(message, found[0].message), found


def instructions(subject: Subject, encode: Callable[[str, str], Any]) -> Subject:
    """The subject with other instructions than its batches hold."""
    return replace(subject, encode_instruction=encode)


def test_the_answers_of_batches_are_compared_with_instructions() -> None:
    """Behavior: what stands behind an instruction's mark in batches is trained; that the last alone is, is unusual."""
    right, wrong = answers_of_all_turns.fixed(), answers_of_all_turns.faulty()
    assert [GREEN, YELLOW] == [light(subject, FINDERS[1]) for subject in (right, wrong)]
    plain = instructions(
        right, lambda prompt, answer: (letters(prompt + answer), [-100] * len(prompt) + letters(answer))
    )
    assert light(plain, FINDERS[1]) == ABSENT
