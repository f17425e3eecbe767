"""All checks, in the order in which they run: a table in three parts, by what they ask of a subject.

A check is a function `Subject -> None` that raises `CheckFailed` with the numbers in it, or `NotApplicable`; what a
pass rests on (a dtype that fell back) it may return as a sentence.

Its docstring is what `--explain` shows. The first line is what is true of any correct implementation. Of the paragraphs
after it, one begins with "Silent" and says why training does not show a fault, and one begins with "Look" and says
where to look for it; any other is more about the first line. A section "Example:" then holds code with a fault that the
check finds, from a line "# wrong: " on, and the same code mended, from a line "# right" on. A last paragraph
"Reference:" may name the source.
"""

from andon.verify.checks.of_models import OF_MODELS
from andon.verify.checks.of_parts import OF_PARTS
from andon.verify.checks.of_training import OF_TRAINING
from andon.verify.checks.table import Check

__all__ = ["CHECKS", "Check"]

CHECKS = (*OF_MODELS, *OF_PARTS, *OF_TRAINING)
