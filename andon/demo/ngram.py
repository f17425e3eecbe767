"""Interpolated Kneser-Ney n-grams: a baseline from counts alone, which a trained model has to beat.

Kneser & Ney 1995, "Improved backing-off for m-gram language modeling"; interpolated, with one discount, as in Chen &
Goodman 1999, "An empirical study of smoothing techniques", section 2.7. Each level mixes discounted counts with the
level below; below the highest order a count is the number of distinct tokens that precede; below unigrams is 1/V.

Legend: N tokens, G distinct n-grams of one order, C distinct contexts of one order.
"""

from typing import NamedTuple

import numpy as np

DISCOUNT = 0.75


class Level(NamedTuple):
    """One order. An n-gram is a number: its tokens as digits to the base V + 1, so that sorted means sorted."""

    grams_G: np.ndarray
    counts_G: np.ndarray
    contexts_C: np.ndarray
    totals_C: np.ndarray  # counts of all n-grams in the context
    distinct_C: np.ndarray  # how many n-grams there are in the context


class NGram(NamedTuple):
    """A fitted model, unigrams first."""

    vocab_size: int
    levels: tuple[Level, ...]


def fit(tokens_N: np.ndarray, documents_N: np.ndarray, vocab_size: int, order: int = 2) -> NGram:
    """Count a corpus. `documents_N` is the document of each token: no context reaches across its changes.

    A document's first token is given and never predicted; a context that would begin before it begins with a mark.

    Raises:
        ValueError: an id outside the vocabulary, no token to predict, or a vocabulary too large for this order.
    """
    if (vocab_size + 1) ** order >= 1 << 63:
        raise ValueError(f"vocab_size={vocab_size}: {order}-grams do not fit into 64 bits; lower order={order}")
    grams_G, counts_G = np.unique(_grams(tokens_N, documents_N, vocab_size, order), return_counts=True)
    if not len(grams_G):
        raise ValueError("no document has two tokens, so there is nothing to count")
    levels = [_level(grams_G, counts_G, vocab_size)]
    for shorter in range(order - 1, 0, -1):
        grams_G, counts_G = np.unique(levels[0].grams_G % (vocab_size + 1) ** shorter, return_counts=True)
        levels.insert(0, _level(grams_G, counts_G, vocab_size))
    return NGram(vocab_size, tuple(levels))


def nats(model: NGram, tokens_N: np.ndarray, documents_N: np.ndarray) -> np.ndarray:
    """-ln p of every token that is predicted, in order: all but the first of each document (float64)."""
    order = len(model.levels)
    return -np.log(_probabilities(model, _grams(tokens_N, documents_N, model.vocab_size, order)))


def _grams(tokens_N: np.ndarray, documents_N: np.ndarray, vocab_size: int, order: int) -> np.ndarray:
    tokens_N = np.asarray(tokens_N, np.int64)
    if len(tokens_N) and not 0 <= tokens_N.min() <= tokens_N.max() < vocab_size:
        raise ValueError(f"ids from {tokens_N.min()} to {tokens_N.max()} are not all in 0 to {vocab_size - 1}")
    grams_N = tokens_N.copy()
    same_N = np.ones(len(tokens_N), bool)  # token and the one `distance` before it are in one document
    for distance in range(1, order):
        previous_N = np.full(len(tokens_N), vocab_size)
        same_N[:distance] = False
        same_N[distance:] &= documents_N[distance:] == documents_N[:-distance]
        previous_N[distance:] = np.where(same_N[distance:], tokens_N[:-distance], vocab_size)
        grams_N += previous_N * (vocab_size + 1) ** distance
    predicted_N = np.concatenate([[False], documents_N[1:] == documents_N[:-1]])[: len(tokens_N)]
    return grams_N[predicted_N]


def _level(grams_G: np.ndarray, counts_G: np.ndarray, vocab_size: int) -> Level:
    contexts_C, first_C, distinct_C = np.unique(grams_G // (vocab_size + 1), return_index=True, return_counts=True)
    return Level(grams_G, counts_G, contexts_C, np.add.reduceat(counts_G, first_C), distinct_C)


def _probabilities(model: NGram, grams_N: np.ndarray) -> np.ndarray:
    base = model.vocab_size + 1
    p_N = np.full(len(grams_N), 1 / model.vocab_size)
    for order, level in enumerate(model.levels, start=1):
        within_N = grams_N % base**order
        count_N = _look_up(level.grams_G, level.counts_G, within_N)
        context_N = within_N // base
        total_N = _look_up(level.contexts_C, level.totals_C, context_N)
        distinct_N = _look_up(level.contexts_C, level.distinct_C, context_N)
        mixed_N = (np.maximum(count_N - DISCOUNT, 0) + DISCOUNT * distinct_N * p_N) / np.maximum(total_N, 1)
        p_N = np.where(total_N > 0, mixed_N, p_N)
    return p_N


def _look_up(keys: np.ndarray, values: np.ndarray, wanted_N: np.ndarray) -> np.ndarray:
    at_N = np.minimum(np.searchsorted(keys, wanted_N), len(keys) - 1)
    return np.where(keys[at_N] == wanted_N, values[at_N], 0)
