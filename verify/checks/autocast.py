"""What half precision must not reach: the softmax of the loss, the backward pass, the update."""

import torch

from andon.verify.access.batches import evenly_spaced
from andon.verify.access.calls import loss_of, new_batch, new_model
from andon.verify.access.roles import IGNORE
from andon.verify.access.targets import targets_of, with_targets
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.observation.answers import answer, any_batch, require_cross_entropy
from andon.verify.observation.autocast_products import AutocastProducts
from andon.verify.observation.half_precision import HALVES
from andon.verify.observation.optimizers import innermost
from andon.verify.observation.parameters import trainable
from andon.verify.observation.runs import Make, each_run
from andon.verify.subject import Subject

TOKENS = 6  # a float32 lies on bfloat16's grid once in 65,536 times


def check_loss(subject: Subject) -> None:
    """The loss of a single token has float32's resolution: it is not always one of the few values of half precision.

    Silent because the loss is cast up at the end: it arrives as float32, and the mean over many tokens hides the
    coarse steps.

    Look for the cast of the logits to float32: it should come before the softmax, and what follows should stay in
    float32.

    Example:
        # wrong: the softmax runs in bfloat16, and only its result is cast up
        logits = model(input_ids)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten()).float()

        # right
        logits = model(input_ids).float()
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    Reference: PyTorch documentation, Automatic Mixed Precision package (torch.amp), ops that autocast to float32.
    """
    require_cross_entropy(subject)
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


def check_products(subject: Subject) -> None:
    """Where the loss turns autocast on, each product of matrices runs in its dtype; where not, autocast is off there.

    Seen in a pass: which products run while autocast is on, and what their operands are below it. It casts float32 and
    leaves float64 and operations that it does not know as they are.

    Yellow alone, as a product may be meant to be exact.

    Silent because the product is right, only slow: a GPU's fast units are left idle, and memory doubles.

    Look at tables and scales of float64 (from numpy, or `torch.tensor(..., dtype=torch.float64)`) that reach a
    product, at `torch.mv` and at products that are written out; `torch.autocast(..., enabled=False)` says that it is
    meant.

    Example:
        # wrong: numpy's float64 makes the states, and each product after it, float64
        scale = torch.from_numpy(np.linspace(0.5, 1.0, dim))
        return (x * scale) @ self.weight.double()

        # right
        scale = torch.from_numpy(np.linspace(0.5, 1.0, dim)).to(x.dtype)
        return (x * scale) @ self.weight

    Reference: PyTorch documentation, Automatic Mixed Precision package (torch.amp), Autocast Op Reference.
    """
    model, batch = new_model(subject).train(), any_batch(subject)
    with AutocastProducts(model) as products:
        answer(subject, model, batch)
    if not products.count:
        raise NotApplicable("a loss that turns autocast on")
    if products.wide:
        name, dtype = next(iter(products.wide.items()))
        raise Unusual(
            f"while autocast is on, {len(products.wide)} of {products.count} products of matrices run in {dtype} or "
            f"wider, the first in {name}: its own dtype is expected, unless autocast is turned off around them"
        )


@each_run
def check_scope(subject: Subject, make: Make) -> None:
    """The backward pass and the update run outside autocast, which is meant for the forward pass and the loss.

    Silent because the backward pass takes most dtypes from the forward pass; the rest, sums among them, is rounded.

    Look at what the `with torch.autocast(...)` encloses: `backward()` and `step()` belong after it.

    Example:
        # wrong: backward and update run under autocast, too
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()

        # right
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()

    Reference: PyTorch documentation, Automatic Mixed Precision package (torch.amp), Autocasting.
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
    Check("autocast.products", check_products),
    Check("autocast.scope", check_scope, tier=2),
)
