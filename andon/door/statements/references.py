"""What is said of networks that others learn from."""

from difflib import get_close_matches

from torch import nn

from andon.door.holding import learned
from andon.door.moments import RARE
from andon.door.records import Run
from andon.door.statements.statement import FEW, Statement, at
from andon.door.uses import Use
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.observation.optimizers import tensors_of

AGAIN = 2  # passes
ALIKE = 0.85  # of a name


def check_reference(run: Run) -> None:
    """A network that is used without gradients, for what another one learns from, drops nothing.

    Asked of a module that nothing moves, or no longer, and whose passes, all without gradients since then, come with at
    least half of the steps. To drop is to act as in training: dropout, or a norm by the batch's statistics.

    Silent because its figures are right on average: what is learned from them is noisier.

    Look for `.eval()` on the reference, the teacher or the frozen encoder: `requires_grad_(False)` is none.

    Yellow alone: whoever lets a teacher be noisy does so.
    """
    found = [use for use in run.uses.values() if use.dropouts and _is_a_reference(run, use)]
    if not found:
        raise NotApplicable("a module with dropout that is only used without gradients, in many steps")
    for use in found:
        if use.acting > use.alone / 2:
            raise Unusual(
                f"dropout or batch statistics acted in {use.acting} of {use.alone} passes of a "
                f"{type(use.module).__name__} that no optimizer trains, all of them without gradients{at(use.place)}, "
                f"in a run of {run.steps} steps"
            )


def _is_a_reference(run: Run, use: Use) -> bool:
    """Whether it makes passes beside the steps, and no gradient came, and nobody moved it, since its last for one."""
    steps = run.steps - use.learned
    late = [each for each in run.optimizing.values() if each.last_step > use.learned + FEW]
    moved = {id(p) for each in late for p in tensors_of(each.optimizer)}
    often = use.alone >= max(AGAIN, RARE * steps) and steps > 2 * FEW
    return often and not any(id(p) in moved for p in use.module.parameters())


def check_stands(run: Run) -> None:
    """What is evaluated again and again has changed since.

    Asked of a module of the same class as the one that learns, evaluated now and then after other steps: not where it
    makes a pass with most of the steps, from its first one on, as a teacher does.

    Silent because an average that stays what it was at first has figures, too.

    Look for the call that updates the average, and at which of two copies it is given.

    Yellow alone: whoever compares with a model that rests does so.
    """
    kinds = {type(each.model) for each in run.optimizing.values() if each.model is not None}
    asked = [use for use in run.uses.values() if type(use.module) in kinds and _comes_seldom(run, use)]
    if not asked:
        raise NotApplicable("a module of the class that learns, evaluated several times")
    for use in asked:
        if not use.moved:
            raise Unusual(
                f"a {type(use.module).__name__} was evaluated{at(use.place)} after {use.moments.count} different "
                f"numbers of steps, of {run.steps}, and its weights were the same each time"
            )


def _comes_seldom(run: Run, use: Use) -> bool:
    return FEW <= use.moments.count < RARE * run.steps and not use.moments.of_training


def check_frozen(run: Run) -> None:
    """What is set on a module or a parameter to freeze it is what torch reads: `requires_grad`, of parameters.

    Asked of what an optimizer holds and had a gradient for: what is kept from learning otherwise needs no such flag.

    Silent because Python takes any attribute: what was to be frozen learns on.

    Look at the spelling, and whether it is set on a module, which has none: `requires_grad_(False)` is meant there.
    """
    learns = learned(run)
    for use in run.uses.values():
        for name, module in use.module.named_modules():
            _refuse_flag(name, module, learns)
        for name, p in use.module.named_parameters():
            if id(p) in learns:
                _refuse_misspelled(name, p)


def _refuse_flag(name: str, module: nn.Module, learns: set[int]) -> None:
    own = [p for p in module.parameters() if p.requires_grad and id(p) in learns]
    if vars(module).get("requires_grad") is False and own:
        raise CheckFailed(
            f"{name or type(module).__name__}.requires_grad was set to False, on a {type(module).__name__}: "
            f"torch reads that of parameters, and {len(own)} of its own had gradients, and were moved"
        )


def _refuse_misspelled(name: str, p: nn.Parameter) -> None:
    odd = [key for key, value in vars(p).items() if value is False and _is_meant(key)]
    if odd and p.requires_grad:
        raise CheckFailed(
            f"{name}.{odd[0]} was set to False, which torch does not read; it had gradients, and was moved"
        )


def _is_meant(name: str) -> bool:
    return not name.startswith("_") and get_close_matches(name, ["requires_grad"], cutoff=ALIKE) != []


STATEMENTS = (
    Statement("run.reference", check_reference),
    Statement("run.stands", check_stands),
    Statement("run.frozen", check_frozen),
)
