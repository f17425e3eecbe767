"""From text to tokens and back, and what of an instruction is trained."""

from collections.abc import Sequence

from andon.verify.access.calls import needed
from andon.verify.access.roles import IGNORE
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed
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
    shared = _common_beginning(documents)
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
        ids, labels = (list(map(int, each)) for each in encode_instruction(prompt, answer))
        if len(ids) != len(labels):
            raise CheckFailed(f"an instruction has {len(ids)} ids and {len(labels)} labels")
        targets = _own_places(ids, labels)
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


def _compare_answer(subject: Subject, prompt: str, answer: str, ids: list[int], trained: list[int]) -> None:
    other = list(map(int, needed(subject, "encode_instruction")(prompt, "Something else entirely")[0]))
    same = len(_common_beginning([ids, other]))
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


def _own_places(ids: Sequence[int], labels: Sequence[int]) -> list[int]:
    """Labels under their own tokens, whether they were given so or one ahead."""
    counted = [index for index, label in enumerate(labels) if label >= 0]
    under = sum(labels[index] == ids[index] for index in counted)
    ahead = sum(index + 1 < len(ids) and labels[index] == ids[index + 1] for index in counted)
    if under == len(counted):
        return [label if label >= 0 else IGNORE for label in labels]
    if ahead == len(counted):
        return [IGNORE, *(label if label >= 0 else IGNORE for label in labels[:-1])]
    raise CheckFailed(
        f"of {len(counted)} trained labels {under} are the token at their place and {ahead} the one that follows; "
        "all must be one or the other"
    )


def _common_beginning(sequences: Sequence[Sequence[int]]) -> list[int]:
    shared = []
    for ids in zip(*sequences, strict=False):
        if len(set(ids)) > 1:
            break
        shared.append(int(ids[0]))
    return shared


def _strip_end(ids: Sequence[int], end: int) -> list[int]:
    kept = list(ids)
    while kept and kept[-1] == end:
        kept.pop()
    return kept


CHECKS = (
    Check("text.round_trip", check_round_trip, ("encode", "decode")),
    Check("text.marks", check_marks, ("encode",)),
    Check("text.instruction", check_instruction, ("encode_instruction",)),
)
