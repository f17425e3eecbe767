"""What half precision must not reach: the softmax of the loss, the backward pass, the update."""

import torch

from andon.verify.access.batches import evenly_spaced
from andon.verify.access.calls import loss_of, new_batch, new_model
from andon.verify.access.roles import IGNORE
from andon.verify.access.targets import targets_of, with_targets
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable
from andon.verify.observation.optimizers import innermost
from andon.verify.observation.parameters import trainable
from andon.verify.observation.runs import Make, each_run
from andon.verify.subject import Subject

HALVES = (torch.bfloat16, torch.float16)
TOKENS = 6  # a float32 lies on bfloat16's grid once in 65,536 times


def check_loss(subject: Subject) -> None:
    """The loss of a single token is a number of at least float32, not one of the few that half precision has.

    Silent because the loss is cast up at the end: it comes as float32, and the mean over many tokens hides the grid.

    Look for the cast of the logits to float32: it stands before the softmax, and what follows stays there.
    """
    model, batch = new_model(subject).eval(), new_batch(subject)
    targets_BT = targets_of(subject, batch)
    places = (targets_BT != IGNORE).nonzero().tolist()
    losses = []
    for row, position in (places[index] for index in evenly_spaced(len(places), TOKENS)):
        one_BT = torch.full_like(targets_BT, IGNORE)
        one_BT[row, position] = targets_BT[row, position]
        with torch.no_grad():
            losses.append(loss_of(subject, model, with_targets(subject, batch, one_BT)))
    if len({float(loss) for loss in losses}) < TOKENS // 2:
        raise NotApplicable("labels one by one, with different losses")
    for dtype in HALVES:
        if all(bool(loss == loss.to(dtype)) for loss in losses):
            said = ", ".join(f"{float(loss):.6g}" for loss in losses)
            raise CheckFailed(f"the losses of {len(losses)} single tokens are all exact in {dtype}: {said}")


@each_run
def check_scope(subject: Subject, make: Make) -> None:
    """The backward pass and the update run outside autocast, which is meant for the forward pass and the loss.

    Silent because the backward pass takes most dtypes from the forward one; what does not is rounded, and sums with it.

    Look at what the `with torch.autocast(...)` encloses: `backward()` and `step()` belong after it.
    """
    run = make()
    watched, seen = next(iter(trainable(run.model).values())), {"the backward pass": False, "the update": False}
    device = watched.device.type

    def note(what: str) -> None:
        seen[what] = seen[what] or torch.is_autocast_enabled(device)

    hooks = [watched.register_hook(lambda gradient: note("the backward pass"))]
    optimizer = innermost(run.optimizer)
    if hasattr(optimizer, "register_step_pre_hook"):
        hooks.append(optimizer.register_step_pre_hook(lambda *_: note("the update")))
    try:
        run.act([new_batch(subject)])
    finally:
        for hook in hooks:
            hook.remove()
    inside = [what for what, within in seen.items() if within]
    if inside:
        raise CheckFailed(
            f"{run.name}: {' and '.join(inside)} ran under autocast to {torch.get_autocast_dtype(device)}"
        )


CHECKS = (
    Check("autocast.loss", check_loss),
    Check("autocast.scope", check_scope, tier=2),
)
