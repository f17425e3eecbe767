"""From text to tokens and back, and what of an instruction is trained."""

from collections.abc import Sequence

from andon.verify.access.calls import needed
from andon.verify.access.roles import IGNORE
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.observation.conversations import (
    TALK,
    Encoded,
    Span,
    answers_in_batches,
    common_beginning,
    spans_of,
)
from andon.verify.subject import Subject

TEXTS = (
    "The quick brown fox.",
    "def f(x):\n    return x  # two  spaces\n",
    "a",
)
LONG = "".join(f"Line {n} of a document that is longer than most: {n * n}.\n" for n in range(60))
PAIRS = (("What is two and two?", "Four, of course."), ("Hi", "Hello there!"), ("Count to three.", "1, 2, 3"))


def check_round_trip(subject: Subject) -> None:
    """Text that is encoded and decoded is the same text, the whole of it, however long.

    Silent because a missing space or character is only a rare token less, and nobody misses the end of a long document.

    Look at normalization, at spaces that are stripped or added, at bytes that no token holds, and at where long
    documents are cut: what is left after the first cut, or the second, may be lost.

    Example:
        # wrong: everything after the first 512 tokens is lost
        ids = tokenizer(text, truncation=True, max_length=512)["input_ids"]

        # right: the whole document, in pieces of 512 tokens
        ids = tokenizer(text)["input_ids"]
        pieces = [ids[start : start + 512] for start in range(0, len(ids), 512)]
    """
    encode, decode = needed(subject, "encode"), needed(subject, "decode")
    for sample in (*TEXTS, LONG):
        back = decode(list(encode(sample)))
        if back != sample:
            at = next((i for i, (a, b) in enumerate(zip(sample, back, strict=False)) if a != b), len(back))
            raise CheckFailed(
                f"{sample[:40]!r} ({len(sample)} characters) comes back with {len(back)}, and from character {at} on "
                f"as {back[at : at + 40]!r}"
            )


def check_marks(subject: Subject) -> None:
    """A document has no second begin token, and ends with exactly one end token.

    Silent because a second begin token is a token like any other; without an end token the model never learns to stop.

    Look at a tokenizer that adds these tokens and a template that adds them too.

    Example:
        # wrong: the tokenizer adds another BOS token in front of this one
        text = tokenizer.bos_token + document + tokenizer.eos_token
        ids = tokenizer(text)["input_ids"]

        # right
        text = tokenizer.bos_token + document + tokenizer.eos_token
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]

    Reference: unslothai/unsloth-zoo#959.
    """
    encode = needed(subject, "encode")
    documents = [list(encode(sample)) for sample in TEXTS]
    for ids in documents:
        if subject.eos_id is not None and (not ids or ids[-1] != subject.eos_id):
            raise CheckFailed(
                f"a document ends with id {ids[-1] if ids else None}, and the end mark is {subject.eos_id}"
            )
    shared = common_beginning(documents)
    if len(shared) > 1 and len(set(shared)) < len(shared):
        raise CheckFailed(f"every document begins with ids {shared}: a begin mark stands {len(shared)} times")
    if subject.eos_id is not None:
        for ids in documents:
            last = len(ids) - len(_strip_end(ids, subject.eos_id))
            if last > 1:
                raise CheckFailed(f"a document closes with {last} end marks (id {subject.eos_id}), and one is enough")


def check_instruction(subject: Subject) -> None:
    """An instruction's trained tokens are the answer, from its first token through its end token, and nothing else.

    Silent because one token more or less is a small share; without the end token the model never learns to stop.

    Look at the shift between tokens and labels at the answer's first token, at the end token, and at the template.

    Example:
        # wrong: the pad token is the EOS token, so the answer's end is masked like padding
        tokenizer.pad_token = tokenizer.eos_token
        labels = [-100] * len(prompt_ids) + answer_ids + [tokenizer.eos_token_id]
        labels = [-100 if label == tokenizer.pad_token_id else label for label in labels]

        # right: labels are padded by length, not masked by token
        labels = [-100] * len(prompt_ids) + answer_ids + [tokenizer.eos_token_id]
        labels = labels + [-100] * (max_length - len(labels))

    Reference: huggingface/transformers#23530.
    """
    encode_instruction = needed(subject, "encode_instruction")
    for prompt, answer in PAIRS:
        ids, targets = Encoded.of(encode_instruction(prompt, answer))
        trained = [index for index, label in enumerate(targets) if label != IGNORE]
        if not trained:
            raise CheckFailed(f"none of an instruction's {len(ids)} tokens is trained")
        if trained != list(range(trained[0], trained[-1] + 1)):
            raise CheckFailed(f"the trained tokens of an instruction are not in one piece: positions {trained}")
        _compare_answer(subject, prompt, answer, ids, trained)
    first, second = encode_instruction(*PAIRS[0])[1], encode_instruction("Another question?", PAIRS[0][1])[1]
    counts = [sum(int(label) >= 0 for label in labels) for labels in (first, second)]
    if counts[0] != counts[1]:
        raise CheckFailed(f"one answer to two prompts has {counts[0]} and {counts[1]} trained tokens")


def check_conversation(subject: Subject) -> None:
    """Of a conversation each answer is trained, from its first token to its last, and no other message.

    An answer is told by what changes when its text does. Wrong are answers of which a part is trained, messages of the
    user's of which a part is, and a first answer that is trained where a later one is not.

    Silent because a model that learns the last answer alone, or half of each, still learns to answer.

    Look at what finds the answers (a mark that is searched for once, a length that is counted in another tokenization),
    and at which messages the mask is made of.

    Yellow where the last answer alone is trained, or its closing mark alone, or all that there is: each can be meant.

    Example:
        # wrong: finds the first mark alone, and takes all that follows for the answer
        start = ids.index(ASSISTANT) + 1
        labels = [-100] * start + ids[start:]

        # right
        labels = [-100] * len(ids)
        for start in (index + 1 for index, token in enumerate(ids) if token == ASSISTANT):
            end = ids.index(END_OF_TURN, start) + 1
            labels[start:end] = ids[start:end]
    """
    encode = needed(subject, "encode_conversation")
    whole = Encoded.of(encode(list(TALK)))
    answers, questions = spans_of(encode, whole, "assistant"), spans_of(encode, whole, "user")
    _require_whole_answers(whole, answers)
    _require_untrained(whole, questions)
    _require_closed(subject, whole, answers)


def _require_whole_answers(whole: Encoded, answers: list[Span]) -> None:
    """Fail where a part of an answer is trained, or some answers are and others not."""
    counts = [whole.trained_in(answer) for answer in answers]
    for number, (answer, count) in enumerate(zip(answers, counts, strict=True), start=1):
        if 0 < count < answer.size:
            raise CheckFailed(f"of answer {number} of {len(answers)} {count} of {answer.size} tokens are trained")
    missing = [number for number, count in enumerate(counts, start=1) if not count]
    if missing:
        last_only = missing == list(range(1, len(answers)))
        light, reason = (
            (Unusual, "; right where the last one alone is to be learned") if last_only else (CheckFailed, "")
        )
        raise light(f"of {len(answers)} answers of a conversation {len(missing)} are not trained: {missing}{reason}")


def _require_untrained(whole: Encoded, questions: list[Span]) -> None:
    """Fail where what the user says is trained; yellow where everything is."""
    counts = [whole.trained_in(question) for question in questions]
    if all(whole.targets[index] >= 0 for index in range(1, len(whole.ids))):
        raise Unusual(
            f"all {len(whole.ids)} tokens of a conversation are trained, {sum(counts)} of them the user's; right where "
            "questions are to be learned, too"
        )
    for number, (question, count) in enumerate(zip(questions, counts, strict=True), start=1):
        if count:
            raise CheckFailed(f"{count} of {question.size} tokens that the user says in message {number} are trained")


def _require_closed(subject: Subject, whole: Encoded, answers: list[Span]) -> None:
    """Fail where one mark closes all answers, and is trained behind some of them, or is the end mark, and is not."""
    closing = [whole.ids[answer.end : answer.end + 1] for answer in answers]
    if [] in closing or any(each != closing[0] for each in closing):
        return
    trained, mark = [whole.targets[answer.end] >= 0 for answer in answers], closing[0][0]
    if not any(trained) and mark == subject.eos_id:
        raise CheckFailed(f"the end mark (id {mark}) behind {len(answers)} answers is trained behind 0 of them")
    if any(trained):
        _require_all_closed(mark, trained)


def _require_all_closed(mark: int, trained: list[bool]) -> None:
    """Fail where the mark behind some answers is trained, and that behind others is not."""
    said = f"id {mark}, behind each of {len(trained)} answers, is trained behind {sum(trained)}"
    if trained == [False] * (len(trained) - 1) + [True]:
        raise Unusual(f"{said}; right where only the end of the last is")
    if not all(trained):
        raise CheckFailed(said)


def check_answers(subject: Subject) -> None:
    """In batches of conversations every answer is trained, not the last one alone.

    Answers are told by the tokens that stand before the answer of every single instruction. They have to stand before
    all that batches train, and nowhere within it.

    Silent because the answers that are trained are right, and there are fewer of them than one thinks.

    Look at masks that take all that comes before the last answer for its prompt.

    Yellow alone, as earlier answers may be others' (a worse model's, examples), and not to be learned.

    Example:
        # wrong: all but the last message is a prompt
        *history, answer = messages
        labels = [-100] * len(encode(history)) + encode([answer])

        # right
        labels = []
        for message in messages:
            ids = encode([message])
            labels += ids if message["role"] == "assistant" else [-100] * len(ids)
    """
    encoded = [Encoded.of(needed(subject, "encode_instruction")(*pair)) for pair in PAIRS]
    found = answers_in_batches(subject, encoded)
    if found.several == 0:
        raise NotApplicable("batches with several answers in a row, each behind the mark that opens every answer")
    if found.trained < found.count:
        raise Unusual(
            f"of {found.count} answers in {found.rows} rows {found.trained} are trained; right where the others are "
            "not to be learned"
        )


def _compare_answer(subject: Subject, prompt: str, answer: str, ids: list[int], trained: list[int]) -> None:
    other = list(map(int, needed(subject, "encode_instruction")(prompt, "Something else entirely")[0]))
    same = len(common_beginning([ids, other]))
    if trained[0] > same:
        raise CheckFailed(
            f"the answer begins at position {same} at the latest, and the first trained token is at {trained[0]}: "
            f"{trained[0] - same} of its tokens are not trained"
        )
    if subject.eos_id is not None and subject.eos_id in ids[trained[0] :] and ids[trained[-1]] != subject.eos_id:
        at = trained[0] + ids[trained[0] :].index(subject.eos_id)
        if at > trained[-1]:
            raise CheckFailed(
                f"the end mark (id {subject.eos_id}) at position {at} is not trained; the last is {trained[-1]}"
            )
    if subject.decode is not None:
        read = subject.decode([ids[index] for index in trained])
        if read.strip() != answer.strip() and answer.strip() not in read:
            raise CheckFailed(f"the {len(trained)} trained tokens read {read!r}, and the answer is {answer!r}")
        if prompt in read or len(read.strip()) > len(answer.strip()) + 24:
            raise CheckFailed(f"the {len(trained)} trained tokens read {read!r}: more than the answer {answer!r}")


def _strip_end(ids: Sequence[int], end: int) -> list[int]:
    kept = list(ids)
    while kept and kept[-1] == end:
        kept.pop()
    return kept


CHECKS = (
    Check("text.round_trip", check_round_trip, ("encode", "decode")),
    Check("text.marks", check_marks, ("encode",)),
    Check("text.instruction", check_instruction, ("encode_instruction",)),
    Check("text.conversation", check_conversation, ("encode_conversation",), tier=2),
    Check("text.answers", check_answers, ("encode_instruction",)),
)
