"""What optimizers hold, and how they are set."""

from itertools import pairwise

from torch import Tensor, nn

from andon.door.idle import stayed
from andon.door.records import Optimizing, Run, held
from andon.door.statements.statement import Statement, at, stepping
from andon.verify.errors import CheckFailed, NotApplicable, Unusual, listed

HALF = 0.5
AGAIN = 2  # steps, of some that are looked at
LONG, RISING = 20, 0.9  # steps, and the share of them in which a rate rises that does not come to its peak
NOTHING = 1e-4  # of its peak, to which a rate has fallen


def check_membership(run: Run) -> None:
    """Each parameter that gets a gradient is moved by some optimizer.

    Silent because the others learn around what stays as it was drawn.

    Look at what was added to the model, or replaced in it, after the optimizer was made.

    Yellow where parts may have been left out on purpose. Red where the optimizer holds what the model lacks, and where
    what is left out was drawn at random, came into the model after the optimizer was made, and was moved by nobody.
    """
    for each in sorted(stepping(run), key=lambda each: -each.last_step):
        if each.model is None or each.last_step < HALF * run.steps:
            continue
        left = _left_out(run, each)
        if not left:
            continue
        strangers, late = _strangers(run, each), _late(run, each, left)
        said = f"the one made{at(each.made)} holds none of them"
        if strangers:
            said += f", and {strangers} tensors that are in no model of this run and never had a gradient"
        if late:
            said = f"the one made{at(each.made)} was made before {listed(sorted(late))} came into the model"
        message = f"no optimizer that steps holds {listed(sorted(left))}, though gradients reach there; {said}"
        raise (CheckFailed if strangers or late else Unusual)(message)


def check_norms_decay(run: Run) -> None:
    """Where groups have a weight decay of their own, some spare the weights of norms and all biases.

    Silent because norms that are pulled to zero only train a little worse.

    Look at the rule, often a list of names, that sorts parameters into groups.

    Yellow alone: whoever decays some of them on purpose does so.
    """
    asked = False
    for each in stepping(run, 1):
        decays = {id(p): float(group.get("weight_decay") or 0) for group in _groups(each) for p in group["params"]}
        sets = any(group.get("weight_decay") != each.optimizer.defaults.get("weight_decay") for group in _groups(each))
        spares = min(decays.values(), default=0) == 0
        if each.model is None or max(decays.values(), default=0) == 0 or not (sets or spares):
            continue
        asked = True
        vectors = {
            name: decays[id(p)]
            for module_name, module in each.model.named_modules()
            for own, p in module.named_parameters(recurse=False)
            if id(p) in decays and (_is_norm(module) or own == "bias")
            for name in [f"{module_name}.{own}"]
        }
        decayed = sorted(name for name, decay in vectors.items() if decay)
        if decayed and (len(decayed) < len(vectors) or not spares):
            others = "the others" if spares else "nothing, though they have a decay of their own"
            raise Unusual(
                f"{len(decayed)} of {len(vectors)} biases and weights of norms are decayed: {listed(decayed)}; the "
                f"groups{at(each.made)} spare {others}"
            )
    if not asked:
        raise NotApplicable("an optimizer whose groups have a weight decay of their own")


def check_coupled_decay(run: Run) -> None:
    """Weight decay under Adam is decoupled: AdamW's.

    Silent because the decay that is added to gradients is divided by their size, and nearly vanishes.

    Look at the optimizer's class.

    Yellow alone: whoever repeats older work does so.
    """
    from torch.optim import Adam, AdamW

    for each in stepping(run, 1):
        decays = any(float(group.get("weight_decay") or 0) > 0 for group in _groups(each))
        coupled = not any(group.get("decoupled_weight_decay") for group in _groups(each))
        if isinstance(each.optimizer, Adam) and not isinstance(each.optimizer, AdamW) and decays and coupled:
            raise Unusual(f"Adam{at(each.made)} with weight_decay adds it to the gradient, where AdamW shrinks weights")


def check_rates(run: Run) -> None:
    """Learning rates are above zero for most of a run, and never below.

    Silent because a rate of zero stops learning without an error, and one below zero climbs slowly.

    Look at the schedule's length, in which steps it counts, and at what the rate is at its ends.

    Yellow where it is zero for more than a third of the steps: whoever warms up or cools down for so long does so.
    """
    for each in stepping(run, 8):
        negative = sum(1 for rates in each.rates if min(rates, default=0) < 0)
        if negative:
            raise CheckFailed(f"in {negative} of {each.steps} steps{at(each.stepped)} a learning rate was below zero")
        still = sum(1 for rates in each.rates if max(rates, default=1) == 0)
        if still > each.steps / 3:
            raise Unusual(
                f"in {still} of {each.steps} steps{at(each.stepped)} the learning rate of all groups was zero"
            )


def check_rate_left(run: Run) -> None:
    """A learning rate that falls does so over the run: it is not next to nothing for more than half of it.

    Next to nothing is a ten-thousandth of its peak. Steps before the peak do not count.

    Silent because the loss stays where it is, as if the model had learned all that it can.

    Look at what the schedule counts, steps or epochs, and at where `scheduler.step()` stands.

    Yellow alone.
    """
    for each in stepping(run, 8):
        rates = [max(rates, default=0.0) for rates in each.rates]
        peak = rates.index(max(rates))
        fallen = sum(1 for rate in rates[peak:] if 0 < rate < NOTHING * rates[peak])
        if fallen > HALF * len(rates):
            last = len(rates) - fallen
            raise Unusual(
                f"in {fallen} of {len(rates)} steps{at(each.stepped)} the learning rate was below {NOTHING:g} of its "
                f"peak of {rates[peak]:.3g}: from step {last + 1} on, and {rates[-1]:.2g} at last{_movers(run, each)}"
            )


def check_rate_peak(run: Run) -> None:
    """A learning rate that rises comes to its peak before the run ends.

    Silent because a rate that is far below what was meant trains, too, only slower.

    Look at what a warm-up's length, or the schedule's, counts: steps, micro-batches or epochs.

    Yellow alone: whoever stops a run early, or looks for a rate, does so.
    """
    asked = False
    for each in stepping(run, LONG):
        rates = [max(rates, default=0.0) for rates in each.rates]
        if not run.ended or max(rates) <= rates[0]:
            continue
        asked = True
        rising = sum(1 for one, other in pairwise(rates) if other > one)
        if rates[-1] == max(rates) and rising > RISING * len(rates):
            raise Unusual(
                f"the learning rate{at(each.made)} rose in {rising} of {len(rates)} steps{at(each.stepped)}, from "
                f"{rates[0]:.3g} to {rates[-1]:.3g}, and the run ends there{_movers(run, each)}"
            )
    if not asked:
        raise NotApplicable(f"a learning rate that rises, in a run of {LONG} steps that comes to its end")


def check_group_learns(run: Run) -> None:
    """Each of an optimizer's groups holds something that is to be learned.

    Asked where it has several, some of whose tensors are to be learned, at the run's end.

    Silent because the other groups learn.

    Look for what was frozen, by `requires_grad`, and was to be thawed before this optimizer's steps.

    Yellow alone: whoever freezes a group for a while does so.
    """
    asked = False
    for each in stepping(run, 8):
        learns = [any(p.requires_grad for p in group["params"]) for group in _groups(each) if group["params"]]
        if len(learns) < AGAIN or not any(learns):
            continue
        asked = True
        if not all(learns):
            place = learns.index(False)
            raise Unusual(
                f"none of the {len(_groups(each)[place]['params'])} tensors in group {place} of the optimizer"
                f"{at(each.made)}, whose rate is {_groups(each)[place].get('lr'):.3g}, requires a gradient"
            )
    if not asked:
        raise NotApplicable("an optimizer of several groups, some of which learn")


def _movers(run: Run, each: Optimizing) -> str:
    said = [
        f"{type(one.scheduler).__name__} was stepped {one.calls} times{at(one.stepped or one.made)}"
        for one in run.scheduling.values()
        if one.optimizer == id(each.optimizer) and one.calls
    ]
    return f"; {' and '.join(said)}" if said else ""


def check_group_rates(run: Run) -> None:
    """Where the rate of one of an optimizer's groups is moved, no other one stays as it is.

    Silent because the group that stays learns too, only at another rate than its neighbors.

    Look at the loop over `param_groups` that sets the rate, and at how many groups it reaches.

    Yellow alone: whoever holds one group's rate does so.
    """
    asked = False
    for each in stepping(run, 8):
        moved = [
            len(set(rates)) > 1 for rates in zip(*each.rates, strict=False) if any(rates)
        ]  # 0 times any factor is 0
        asked = asked or (len(moved) > 1 and any(moved))
        if any(moved) and not all(moved):
            raise Unusual(
                f"the learning rate of {moved.count(True)} of {len(moved)} groups{at(each.made)} was moved within "
                f"{each.steps} steps, that of the others never"
            )
    if not asked:
        raise NotApplicable("an optimizer of several groups, whose rate is moved")


def _groups(each: Optimizing) -> list[dict]:
    return each.optimizer.param_groups


def _is_norm(module: nn.Module) -> bool:
    """Whether all that it holds are vectors of one width, a weight that scales among them."""
    own = dict(module.named_parameters(recurse=False))
    return "weight" in own and all(p.dim() == 1 for p in own.values()) and next(module.children(), None) is None


def _left_out(run: Run, each: Optimizing) -> list[str]:
    moved = held(run, least=1)
    return [
        name
        for name, p in each.model.named_parameters()
        if id(p) not in moved and p.requires_grad
        if (p.grad is not None and bool(p.grad.any())) or _seen(each, name) >= AGAIN
    ]


def _seen(each: Optimizing, name: str) -> int:
    """In how many of the steps that were looked at a parameter that nobody holds had a gradient."""
    return each.unheld[name][0] if name in each.unheld else 0


def _late(run: Run, each: Optimizing, left: list[str]) -> list[str]:
    """Of those left out what came after the optimizer was made, if one of its like is not constant."""
    parameters, known = dict(each.model.named_parameters()), held(run)
    late = [
        name
        for name in left
        if id(parameters[name]) not in known
        and (run.births.number(parameters[name]) or 0) > each.births
        and _seen(each, name) >= AGAIN
        and stayed(parameters[name], each.unheld[name][1])
    ]
    return late if any(_is_drawn(run, each, p) for p in parameters.values()) else []


def _is_drawn(run: Run, each: Optimizing, parameter: Tensor) -> bool:
    """Whether a parameter came after the optimizer was made, is to be learned, and is not constant, as a gate is."""
    late = (run.births.number(parameter) or 0) > each.births
    return late and parameter.requires_grad and parameter.detach().unique().numel() > 1


def _strangers(run: Run, each: Optimizing) -> int:
    """How many tensors an optimizer holds that are in no model that was called, and never had a gradient."""
    known = {id(p) for module in run.modules.values() for p in module.parameters()}
    return len((each.idle or {}).keys() - known)


STATEMENTS = (
    Statement("run.membership", check_membership),
    Statement("run.norms_decay", check_norms_decay),
    Statement("run.coupled_decay", check_coupled_decay),
    Statement("run.rates", check_rates),
    Statement("run.rate_left", check_rate_left),
    Statement("run.rate_peak", check_rate_peak),
    Statement("run.group_rates", check_group_rates),
    Statement("run.group_learns", check_group_learns),
)
