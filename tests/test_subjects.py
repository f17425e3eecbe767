"""Our core as subjects: they are what they say, and the reference that they are compared with is right."""

import pytest
import torch

from andon.verify.access.calls import loss_of, new_batch, new_model
from tests import subjects
from tests.tolerances import TOLERANCE, distance

pytestmark = pytest.mark.tier2


@pytest.mark.parametrize("name", subjects.SUBJECTS)
def test_every_subject_answers(name: str) -> None:
    """Behavior: one seed gives one model and one batch, and their loss is finite and the same again."""
    subject = subjects.SUBJECTS[name]()
    losses = [loss_of(subject, new_model(subject).eval(), new_batch(subject)) for _ in range(2)]
    assert losses[0] == losses[1]
    assert losses[0].isfinite()


@pytest.mark.parametrize("name", ["llama", "packed", "tied"])
def test_logits_are_those_of_the_plain_equations(name: str) -> None:
    """Reference: the equations by themselves, in float64, on weights scaled up."""
    subject = subjects.SUBJECTS[name]()
    model, batch = new_model(subject).double().eval(), new_batch(subject)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)
        assert subject.logits
        assert subject.reference_logits
        found = distance(subject.logits(model, batch), subject.reference_logits(model, batch))
    assert found < TOLERANCE[torch.float64]


def test_a_run_has_the_epochs_that_the_settings_say() -> None:
    """Behavior: an epoch's micro-batches are those of EPOCH_STEPS steps, and a run ends after STEPS."""
    config = subjects.config_of()
    batches = list(subjects.epoch_batches(0))
    assert subjects.EPOCH_STEPS * config.training.accumulation_steps == len(batches)
    assert subjects.STEPS == subjects.dataset_of(config).steps(config)


def test_text_comes_back_from_its_tokens() -> None:
    """Behavior: a text longer than any document, and a short one, are read back whole."""
    for text in ("Short.", "A longer text of many words, and\n\n some lines. " * 40):
        assert text == subjects.decode(subjects.encode(text))
