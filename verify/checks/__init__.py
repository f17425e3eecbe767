"""All checks, in the order in which they run: a table in three parts, by what they ask of a subject.

A check is a function `Subject -> None` that raises `CheckFailed` with the numbers in it, or `NotApplicable`; what a
pass rests on (a dtype that fell back) it may return as a sentence. Its docstring's first line is what is true of any
correct implementation; the paragraphs after it are what `--explain` shows: why the fault stays silent in training, and
what to look at (that paragraph begins with "Look").
"""

from andon.verify.checks.of_models import OF_MODELS
from andon.verify.checks.of_parts import OF_PARTS
from andon.verify.checks.of_training import OF_TRAINING
from andon.verify.checks.table import Check

__all__ = ["CHECKS", "Check"]

CHECKS = (*OF_MODELS, *OF_PARTS, *OF_TRAINING)
