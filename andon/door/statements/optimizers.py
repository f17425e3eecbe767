"""What optimizers hold, and how they are set."""

from collections.abc import Mapping

from torch import Tensor, nn

from andon.door.holding import held
from andon.door.idle import learning, stayed
from andon.door.records import Optimizing, Run
from andon.door.statements.statement import Statement, at, stepping
from andon.verify.errors import CheckFailed, NotApplicable, Unusual, listed

HALF = 0.5
AGAIN = 2  # steps, of some that are looked at


def check_membership(run: Run) -> None:
    """Each parameter that gets a gradient is moved by some optimizer.

    Asked of the optimizer's model, and of modules in train mode that are called beside it, as a loss with weights is.

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
        inside = not dict(each.model.named_parameters()).keys().isdisjoint(left)  # or beside the model alone
        strangers, late = _strangers(run, each) if inside else 0, _late(run, each, left)
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
        decays = {id(p): _decay(group) for group in _groups(each) for p in group["params"]}
        spares = min(decays.values(), default=0) == 0
        if each.model is None or max(decays.values(), default=0) == 0 or not (spares or _sets_decay(each)):
            continue
        asked = True
        vectors = _vectors(each.model, decays)
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
        decays = any(_decay(group) > 0 for group in _groups(each))
        coupled = not any(group.get("decoupled_weight_decay") for group in _groups(each))
        if isinstance(each.optimizer, Adam) and not isinstance(each.optimizer, AdamW) and decays and coupled:
            raise Unusual(f"Adam{at(each.made)} with weight_decay adds it to the gradient, where AdamW shrinks weights")


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


def _groups(each: Optimizing) -> list[dict]:
    return each.optimizer.param_groups


def _decay(group: dict) -> float:
    return float(group.get("weight_decay") or 0)


def _sets_decay(each: Optimizing) -> bool:
    """Whether a group has another decay than the optimizer was given for all."""
    return any(group.get("weight_decay") != each.optimizer.defaults.get("weight_decay") for group in _groups(each))


def _vectors(model: nn.Module, decays: Mapping[int, float]) -> dict[str, float]:
    """Biases and weights of norms, by their names, with their decay."""
    return {
        f"{name}.{own}": decays[id(p)]
        for name, module in model.named_modules()
        for own, p in module.named_parameters(recurse=False)
        if id(p) in decays and (_is_norm(module) or own == "bias")
    }


def _is_norm(module: nn.Module) -> bool:
    """Whether all that it holds are vectors of one width, a weight that scales among them."""
    own = dict(module.named_parameters(recurse=False))
    return "weight" in own and all(p.dim() == 1 for p in own.values()) and next(module.children(), None) is None


def _left_out(run: Run, each: Optimizing) -> list[str]:
    moved = held(run, least=1)
    own = {id(p) for p in each.model.parameters()}
    return [
        name
        for name, p in learning(each.model, run.modules.values()).items()
        if id(p) not in moved and p.requires_grad
        if (id(p) in own and p.grad is not None and bool(p.grad.any())) or _got_gradients(each, name, p, own)
    ]


def _got_gradients(each: Optimizing, name: str, p: nn.Parameter, own: set[int]) -> bool:
    """Whether a parameter had a gradient in steps that were looked at; beside the model: and nobody has moved it."""
    return _seen(each, name) >= AGAIN and (id(p) in own or stayed(p, each.unheld[name][1]))


def _seen(each: Optimizing, name: str) -> int:
    """In how many of the steps that were looked at a parameter that nobody holds had a gradient."""
    return each.unheld[name][0] if name in each.unheld else 0


def _late(run: Run, each: Optimizing, left: list[str]) -> list[str]:
    """Of those left out what came after the optimizer was made, if one of its like is not constant."""
    parameters, known = dict(each.model.named_parameters()), held(run)
    late = [
        name
        for name in left
        if name in parameters
        and id(parameters[name]) not in known
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
    Statement("run.group_learns", check_group_learns),
)
