"""What is asked of a captured micro-batch, beside the checks of a Subject: each a function `Captured -> None`."""

from andon.door.questions import (
    accumulation,
    alignments,
    attention,
    averaged,
    constant,
    groups,
    horizons,
    idle_terms,
    latents,
    likelihoods,
    packed,
    padding,
    shapes,
    straight_through,
    targets,
    twice,
    velocity,
    views,
)
from andon.door.questions.question import Question

__all__ = ["QUESTIONS", "Question"]

QUESTIONS = (
    *targets.QUESTIONS,
    *padding.QUESTIONS,
    *packed.QUESTIONS,
    *shapes.QUESTIONS,
    *likelihoods.QUESTIONS,
    *alignments.QUESTIONS,
    *latents.QUESTIONS,
    *accumulation.QUESTIONS,
    *constant.QUESTIONS,
    *averaged.QUESTIONS,
    *attention.QUESTIONS,
    *views.QUESTIONS,
    *horizons.QUESTIONS,
    *twice.QUESTIONS,
    *groups.QUESTIONS,
    *velocity.QUESTIONS,
    *straight_through.QUESTIONS,
    *idle_terms.QUESTIONS,
)
