"""What is not yet right of these kinds: marked so that its mend is noticed. Empty this table, then delete it."""

import pytest

NOT_YET = {
    "kinks_of_torch_s_own_layers": "rows of a table beyond the batch's length; layers that begin alike",
    "kinks_of_squares_and_maxima": "an embedding and a head of one shape are taken for one role",
    "a_token_that_moves_to_another_expert": "an embedding and a head of one shape are taken for one role",
    "a_balancing_loss_that_is_injected_is_no": "the injected gradient is no slope of the loss",
    "state_that_moves_in_train_mode": "running statistics move between the two sides of a difference",
    "held_on_purpose_is_no_wrong": "what is detached is compared with the whole slope",
    "ordinary_torch_does_not_stop_the_checks[closure]": "a history that L-BFGS keeps is taken for a leak",
    "ordinary_torch_does_not_stop_the_checks[sparse]": "an embedding and a head of one shape are taken for one role",
    "other_objectives_are_not_taken": "a loss is taken for plain cross-entropy",
    "names_and_widths[a wide layer]": "a hidden layer is taken for logits",
    "one_cause_is_one_finding": "what follows from the cause is named beside it",
    "without_the_cause_there_is_none": "an embedding and a head of one shape are taken for one role",
    "rounding_of_half_precision": "an embedding and a head of one shape are taken for one role",
    "names_masks_and_tables_of_one_s_own": "labels that the collator has shifted; positions as torch draws them",
    "a_design_is_no_fault": "labels that the collator has shifted",
    "our_change_makes_another": "ReZero's gain of zero lets no position reach another",
    "a_usual_beginning_is_no_fault": "tables of zeros, N(0, 1) and bigrams are taken for faults",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect these to fail, strictly."""
    for item in items:
        for part, reason in NOT_YET.items():
            if part in item.name and "kinds" in item.path.parts:
                item.add_marker(pytest.mark.xfail(strict=True, reason=reason))
