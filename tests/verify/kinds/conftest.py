"""What is not yet right of these kinds: marked so that its mend is noticed. Empty this table, then delete it."""

import pytest

NOT_YET = {
    "another_expert_is_no_wrong_gradient[5]": "an expert that no token reaches stops the checks",
    "another_expert_is_no_wrong_gradient[9]": "an expert that no token reaches stops the checks",
    "a_router_without_a_gradient_is_found": "an expert that no token reaches stops the checks",
    "injected_and_dropped_is_found": "an expert that no token reaches stops the checks",
    "a_balancing_loss_that_is_injected_is_no": "the injected gradient does not follow the loss's scale",
    "ordinary_torch_does_not_stop_the_checks[closure]": "a history that L-BFGS keeps is taken for a leak",
    "plain_cross_entropy[smoothed]": "smoothed labels are taken for plain ones",
    "names_and_widths[a wide layer]": "a hidden layer is taken for logits",
    "one_cause_is_one_finding": "what follows from the cause is named beside it",
    "rounding_of_half_precision_is_no_fault[adapted]": "a step of ours in bfloat16 is rounded away",
    "names_masks_and_tables_of_one_s_own": "labels that the collator has shifted; positions as torch draws them",
    "a_design_is_no_fault": "labels that the collator has shifted",
    "a_block_without_its_residual_is_found": "a block that does not add is left out, though its neighbors add",
    "a_usual_beginning_is_no_fault[one token]": "a bigram model mixes no positions",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect these to fail, strictly."""
    for item in items:
        for part, reason in NOT_YET.items():
            if part in item.name and "kinds" in item.path.parts:
                item.add_marker(pytest.mark.xfail(strict=True, reason=reason))
