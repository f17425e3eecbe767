"""All that is said of a script as it is, beside the checks of a Subject: of the run, and of what was captured of it."""

from andon.door.continuation import CONTINUATION
from andon.door.questions import QUESTIONS, Question
from andon.door.statements import STATEMENTS, Statement

LINES: tuple[Statement | Question, ...] = (*STATEMENTS, CONTINUATION, *QUESTIONS)
ASKED = "Asked of a script as it is: andon verify -- python train.py."
