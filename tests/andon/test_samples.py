"""Samples of Python are judged by the standard library's tokenizer, and copies are found to the token."""

import inspect
import json
from itertools import product

import numpy as np
import pytest

from andon.demo.samples import longest_copied_run, tokenizes

pytestmark = pytest.mark.tier2
START = "a = 1\nb = 2\n"


@pytest.mark.parametrize(
    "end",
    [
        "c = 3\n",
        "c = 3",
        "f(x,\n  y",
        "f(x, {1: [",
        "x = '''abc\n d",
        "x = f'''abc\n {d",
        "x = 'abc d",
        "f(x, 'abc",
        'x = f"abc {d} $',
        "x = 1 + \\\n",
        "x = 1 + \\",
        "x = 'abc\\\n de",
        "x = '\\d'\n",
        "if x:\n    y\n    if",
        "    c = 3\n",
    ],
)
def test_an_unfinished_end_is_excused(end: str) -> None:
    """Behavior: open brackets, triple quotes, continuations, and a string open on the last line are not errors."""
    assert tokenizes(START + end)


@pytest.mark.parametrize(
    "middle",
    [
        "x = 'abc\n",
        "x = f'abc\n",
        "f(x, 'abc\n d)\n",
        "x = 'abc\\\n de\n",
        "if x:\n    a = 1\n  b = 2\n",
        "x = 2)\n",
        "x = $2\n",
        "x = 2?\n",
        "x = €\n",
        "x = \\ 2\n",
    ],
)
def test_an_error_before_the_end_is_an_error(middle: str) -> None:
    """Behavior: strings left open on their line, dedents to nowhere, stray closers and characters, at the end too."""
    assert tokenizes(START + middle + "c = 3\n") is False
    assert tokenizes(START + middle) is False


def test_an_error_in_the_last_line_is_an_error_unless_an_open_string() -> None:
    """Behavior: being last excuses nothing but what goes on."""
    assert tokenizes(START + "x = $2") is False
    assert tokenizes(START + "if x:\n    a\n  b") is False


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("", False), ("a\nb\n", False), ("a\n\n   \nb", False), ("a\n\nb\n\nc", True), ("# a\n#\n#", True)],
)
def test_three_lines_must_not_be_blank(text: str, verdict: bool) -> None:
    """Behavior: too little text is not a sample."""
    assert verdict == tokenizes(text)


def test_every_beginning_of_real_python_tokenizes() -> None:
    """Behavior: a cut at any character of correct code is only an unfinished end."""
    text = inspect.getsource(json.JSONEncoder.iterencode)
    assert all(tokenizes(text[:length]) for length in range(200, len(text), 29))


def test_a_run_is_found_wherever_it_stands() -> None:
    """Behavior: at the corpus's start, end and middle; a sample that is nowhere has a run of 0."""
    corpus = np.array([5, 6, 7, 1, 2, 3, 4, 9, 1, 2, 8])
    cases = {(5, 6, 0): 2, (1, 2, 8): 3, (0, 1, 2, 3, 4, 0): 4, (0, 0): 0, (2, 2): 1, (2, 8, 5): 2, (4, 3, 2): 1, (): 0}
    assert list(cases.values()) == [longest_copied_run(np.array(sample), corpus) for sample in cases]
    assert 11 == longest_copied_run(corpus, corpus)
    assert 0 == longest_copied_run(corpus, np.array([], int))


def test_runs_equal_those_of_a_search() -> None:
    """Reference: the definition, by trying every length at every place, on small alphabets full of repetitions."""
    rng = np.random.default_rng(0)
    for kinds, length in product((2, 3, 5), (1, 6, 15)):
        for _ in range(20):
            corpus, sample = rng.integers(0, kinds, 40), rng.integers(0, kinds + 1, length)
            assert searched(sample.tolist(), corpus.tolist()) == longest_copied_run(sample, corpus)


def test_more_kinds_of_token_than_a_small_integer_has() -> None:
    """Behavior: a sample of 300 different tokens is numbered without wrapping around at 256."""
    corpus = np.arange(300)
    assert 200 == longest_copied_run(np.roll(corpus, 200), corpus)


def searched(sample: list[int], corpus: list[int]) -> int:
    """The longest run the slow way."""
    runs = [sample[a:b] for a in range(len(sample)) for b in range(a + 1, len(sample) + 1)]
    places = range(len(corpus))
    return max((len(run) for run in runs if any(run == corpus[at : at + len(run)] for at in places)), default=0)
