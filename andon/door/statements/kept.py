"""Weights that something else than the optimizer moves, or that nothing can move."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from andon.door.moments import RARE
from andon.door.records import Optimizing, Run, held
from andon.door.statements.statement import FEW, Statement, at, stepping
from andon.verify.errors import CheckFailed, NotApplicable, Unusual, listed
from andon.verify.observation.optimizers import tensors_of

AGAIN = 2  # evaluations
HALF, HARDLY = 0.5, 0.1
FACTORS = 6  # parameters of a module that is a product: of two factors, and what they are added to
SEEN = 8  # steps in which a gradient was looked at


def check_kept(run: Run) -> None:
    """Evaluation leaves the weights as it found them: training goes on from what the last step left.

    Asked where weights stay as they are between steps without an evaluation: what clips or normalizes weights after
    each step is no evaluation's doing.

    Silent because an average of the weights, or an older copy, trains on as well; it only forgets the steps since.

    Look at what puts other weights in for the evaluation, and whether it puts the script's own back.

    Yellow alone: whoever goes on from an average on purpose does so.
    """
    asked = [each for each in stepping(run) if _stays_alone(each)]
    if not asked:
        raise NotApplicable("a model that is evaluated now and then, and whose weights stay between other steps")
    for each in asked:
        windows = each.between.windows
        moved = windows["evaluated moved"]
        if moved >= AGAIN and moved > HALF * windows["evaluated"]:
            also = f"; {windows['stayed']} of them were evaluated with just these weights" if windows["stayed"] else ""
            raise Unusual(
                f"after {moved} of {windows['evaluated']} evaluations training went on with other weights than the "
                f"optimizer's step{at(each.stepped)} had left{also}; between {windows['alone']} steps without an "
                f"evaluation they changed {windows['alone moved']} times"
            )


def _stays_alone(each: Optimizing) -> bool:
    """Whether a model is evaluated now and then, and its weights hardly move between steps without an evaluation."""
    windows = each.between.windows
    seldom = AGAIN <= windows["evaluated"] < RARE * each.steps and windows["alone"] >= FEW
    return seldom and windows["alone moved"] <= HARDLY * windows["alone"]


def check_gradient(run: Run) -> None:
    """What an optimizer holds gets a gradient that is not exactly zero.

    Silent because the optimizer moves the others, and the loss falls by them.

    Look at what the tensor is multiplied by: a factor that is zero and frozen, a mask, a clamp that is always at its
    bound, a branch that no input takes.

    Yellow where nothing is seen that keeps it so: experts may be idle, and a loss of weight 0 is a way to spare one.
    """
    asked = False
    for each in stepping(run, SEEN):
        if each.empty >= SEEN:
            count = len(tensors_of(each.optimizer))
            raise Unusual(
                f"in {each.empty} of {each.steps} steps{at(each.stepped)} none of the {count} tensors that the "
                f"optimizer{at(each.made)} holds had a gradient, after backward passes{at(run.loss_place)}: these "
                "steps moved nothing"
            )
        if each.idle is None or each.gradients_seen < SEEN:
            continue
        asked = True
        idle = {id(p): p for p, count in each.idle.values() if count >= SEEN}
        names = _names(each, set(idle))
        if not names:
            continue
        zero = _zero_factors(run, each, idle)
        message = (
            f"{len(idle)} tensors that the optimizer{at(each.made)} holds had a gradient of exactly zero in each of "
            f"{each.gradients_seen} steps: {listed(names)}"
        )
        if zero:
            raise CheckFailed(f"{message}; beside them lies {listed(zero)}, all zero, which no optimizer moves")
        raise Unusual(message)
    if not asked:
        raise NotApplicable(f"an optimizer whose gradients are there in {SEEN} steps")


def _names(each: Optimizing, keys: set[int]) -> list[str]:
    model = each.model
    return [name for name, p in model.named_parameters() if id(p) in keys] if model is not None else []


def _zero_factors(run: Run, each: Optimizing, idle: Mapping[int, object]) -> list[str]:
    """Matrices that are zero and that nobody moves, each beside an idle one of which it can be the other factor."""
    moved, found = held(run), list[str]()
    for name, module in each.model.named_modules():
        matrices = {key: p for key, p in module.named_parameters() if p.dim() > 1}
        if len(list(module.parameters())) <= FACTORS:
            still = {key: p for key, p in matrices.items() if id(p) not in moved and not bool(p.any())}
            factors = [p for p in matrices.values() if id(p) in idle]
            found += [f"{name}.{key}".lstrip(".") for key, p in still.items() if _is_factor(p, factors)]
    return list(dict.fromkeys(found))


def _is_factor(one: Tensor, others: Iterable[Tensor]) -> bool:
    """Whether a product of matrices can have one of them and another as its factors, in either order."""
    return any(one.shape[-1] == each.shape[-2] or one.shape[-2] == each.shape[-1] for each in others)


STATEMENTS = (Statement("run.weights_kept", check_kept), Statement("run.gradient", check_gradient))
