"""Kneser-Ney against a dictionary, and against the laws of probability."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from andon.demo import ngram

pytestmark = pytest.mark.tier2
V = 8


def corpus(seed: int, tokens: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that follow each other by habit, in documents of uneven length, some of one token."""
    rng = np.random.default_rng(seed)
    ids = (rng.zipf(1.5, tokens) + np.arange(tokens) % 4) % V
    return ids, np.cumsum(rng.random(tokens) < 0.15)


def by_hand(tokens: list[int], documents: list[int], order: int, history: tuple[int, ...], word: int) -> float:
    """p(word | history) with dictionaries, as the papers define it: the slow and plain way."""
    grams = contexts(tokens, documents, order)
    counts: Counter[tuple[int, ...]] = Counter(grams)
    p = 1 / V
    tables = [counts]
    for _ in range(order - 1):
        lower: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        for gram in tables[0]:
            lower[gram[1:]].add(gram[0])
        tables.insert(0, Counter({gram: len(before) for gram, before in lower.items()}))
    for length, table in enumerate(tables):
        context = history[len(history) - length :]
        inside = {gram: count for gram, count in table.items() if gram[:-1] == context}
        if inside:
            total = sum(inside.values())
            p = (max(inside.get((*context, word), 0) - 0.75, 0) + 0.75 * len(inside) * p) / total
    return p


def contexts(tokens: list[int], documents: list[int], order: int) -> list[tuple[int, ...]]:
    """Each token but a document's first, with the order - 1 before it; a mark (V) stands before a document."""
    grams = []
    for place in range(1, len(tokens)):
        if documents[place] == documents[place - 1]:
            before = [
                tokens[at] if at >= 0 and documents[at] == documents[place] else V
                for at in range(place - order + 1, place)
            ]
            grams.append((*before, tokens[place]))
    return grams


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_equal_those_of_a_dictionary(order: int) -> None:
    """Reference: the definition written with dictionaries and sets, on text that was and was not counted."""
    tokens, documents = corpus(0)
    others, parts = corpus(1, 40)
    model = ngram.fit(tokens, documents, V, order)
    slow = [
        -math.log(by_hand(tokens.tolist(), documents.tolist(), order, gram[:-1], gram[-1]))
        for gram in contexts(others.tolist(), parts.tolist(), order)
    ]
    np.testing.assert_allclose(slow, ngram.nats(model, others, parts), rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_of_all_tokens_add_up_to_one(order: int) -> None:
    """Behavior: in every context that occurs, in ones that never did, and at a document's beginning."""
    tokens, documents = corpus(2)
    model = ngram.fit(tokens, documents, V, order)
    histories = {gram[:-1] for gram in contexts(tokens.tolist(), documents.tolist(), order)}
    unseen = {(a, b)[: order - 1] for a in range(V) for b in range(V)}
    for history in histories | unseen:
        known = [token for token in history if token < V]
        if len(known) < min(1, order - 1):
            continue
        lead = known or [0]
        texts = np.array([[*lead, word] for word in range(V)])
        rows = np.repeat(np.arange(V), len(lead) + 1)
        scores = ngram.nats(model, texts.ravel(), rows).reshape(V, -1)[:, -1]
        assert math.isclose(1.0, float(np.exp(-scores).sum()), rel_tol=1e-12)


def test_a_bigram_by_hand() -> None:
    """Reference: p(b|a) = (2 - 0.75)/3 + 0.75 x 2/3 x p(b) in a b a b a c, with p(b) from distinct pairs."""
    a, b, c = 0, 1, 2
    model = ngram.fit(np.array([a, b, a, b, a, c]), np.zeros(6, int), 3)
    # The distinct pairs are ab, ba and ac: each token has one predecessor, of three pairs and three kinds.
    lower = 0.25 / 3 + 0.75 * 3 / 3 * (1 / 3)
    expected = (2 - 0.75) / 3 + 0.75 * 2 / 3 * lower
    assert pytest.approx([-math.log(expected)], rel=1e-12) == ngram.nats(model, np.array([a, b]), np.zeros(2, int))


def test_no_context_reaches_into_another_document() -> None:
    """Behavior: the order of documents changes no probability, and the first token of each is not predicted."""
    first, second = [1, 2, 3, 0], [4, 2, 3, 0]
    owners = np.array([0] * 4 + [1] * 4)
    one, other = (ngram.fit(np.array(text), owners, V, 3) for text in (first + second, second + first))
    scored = ngram.nats(one, np.array(first + second), owners)
    assert 6 == len(scored)
    assert scored.tolist() == ngram.nats(other, np.array(first + second), owners).tolist()
    alone = ngram.nats(one, np.array(second), np.zeros(4, int))
    assert scored[3:].tolist() == alone.tolist()


def test_a_document_number_may_come_back() -> None:
    """Behavior: only its changes count, so numbers 0 1 0 are three documents as 0 1 2 are."""
    tokens, owners = np.array([1, 2, 3, 3, 1, 2, 4]), np.array([0, 0, 1, 0, 0, 0, 0])
    one, other = (ngram.fit(tokens, labels, V, 4) for labels in (owners, np.array([0, 0, 1, 2, 2, 2, 2])))
    assert ngram.nats(one, tokens, owners).tolist() == ngram.nats(other, tokens, owners).tolist()


def test_more_context_predicts_a_habit_better() -> None:
    """Behavior: text in which two tokens decide the third is learned by the trigram and not by the bigram."""
    pattern = np.array([0, 0, 1, 1] * 200)
    owners = np.zeros(800, int)
    means = [ngram.nats(ngram.fit(pattern, owners, 2, order), pattern, owners).mean() for order in (1, 2, 3)]
    assert math.isclose(math.log(2), means[1], rel_tol=0.05)
    assert 0.02 > means[2]


@pytest.mark.parametrize(
    ("tokens", "vocab_size", "order", "message"),
    [
        ([0, 12], 12, 2, r"ids from 0 to 12 are not all in 0 to 11"),
        ([-1, 2], 12, 2, r"ids from -1 to 2 are not all in 0 to 11"),
        ([1], 12, 2, "no document has two tokens"),
        ([], 12, 2, "no document has two tokens"),
        ([1, 2], 1 << 22, 3, "3-grams do not fit into 64 bits"),
    ],
)
def test_what_cannot_be_counted_is_refused(tokens: list[int], vocab_size: int, order: int, message: str) -> None:
    """Behavior: one error with the numbers in it."""
    with pytest.raises(ValueError, match=message):
        ngram.fit(np.array(tokens, int), np.zeros(len(tokens), int), vocab_size, order)
