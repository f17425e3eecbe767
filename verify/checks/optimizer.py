"""The optimizer itself: what it holds, what it decays, and whether its arithmetic is what it claims to be."""

from typing import Any

import torch
from torch import Tensor, nn

from ..access import new_batch
from ..failure import CheckFailed, NotApplicable
from ..observe import State, claims_adam, held, parameters, trainable
from ..runs import Held, Make, each_optimizer, each_run_or_plain
from ..subject import Subject
from .updates import listed

HALVES = (torch.bfloat16, torch.float16)
RATE = 0.1  # at which decay is measured: far above rounding
ADDED = 24  # updates, each too small for half precision, that together are not
LARGEST_EPS = 1e-3
QUIET = 8  # steps without a gradient, in which moments fade
LOSABLE = "half-precision weights that an optimizer of Adam's kind updates, at rates below their rounding"
MAGNITUDES = (-9.0, 2.0)  # powers of ten of the gradients that parity is measured on: both sides of eps
FACTORS = (1.0, -0.3, 2.0, 0.5)  # of those gradients, step by step
PARITY = {torch.float64: 1e-6, torch.float32: 2e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}


@each_optimizer
def check_membership(_: Subject, held_by: Held) -> None:
    """The optimizer holds each of the model's trainable parameters exactly once.

    Silent because what it lacks keeps its first values, what it holds twice takes double steps, and tensors that the
    model has since replaced are updated for nobody.

    Look at what happens between building the optimizer and the first step: wrapping, moving, tying, adding adapters; at
    filters by name or type; and at generators that something else has used up.
    """
    name, model, optimizer = held_by
    tensors, learning = held(optimizer), trainable(model)
    ids = {id(tensor) for tensor in tensors}
    if len(tensors) != len(ids):
        raise CheckFailed(f"{name} lists {len(tensors)} tensors, of which only {len(ids)} are different ones")
    lacking = sorted(key for key, parameter in learning.items() if id(parameter) not in ids)
    own = {id(parameter) for parameter in model.parameters()}
    strangers = [tensor for tensor in tensors if id(tensor) not in own]
    masters = {tensor.numel() for tensor in strangers if tensor.dtype == torch.float32}
    if all(learning[key].dtype in HALVES and learning[key].numel() in masters for key in lacking):
        return  # nothing is lacking, or full-precision copies stand for half-precision weights
    raise CheckFailed(
        f"{name} holds {len(learning) - len(lacking)} of the model's {len(learning)} trainable parameters and "
        f"{len(strangers)} tensors that are not the model's; it lacks {listed(lacking)}"
    )


@each_optimizer
def check_groups(_: Subject, held_by: Held) -> None:
    """No group of the optimizer that sets a rate, or anything but the decay, of its own is empty.

    Silent because a setting made for nobody raises no error: the parameters meant are trained like the others.

    Look at how the group's parameters are picked: by name, by module type, by identity after a wrap.
    """
    name, groups = held_by.name, held_by.optimizer.param_groups
    for number, group in enumerate(groups):
        others = [other for other in groups if other is not group]
        own = [
            key for key, value in group.items()
            if isinstance(value, int | float) and all(value != other.get(key) for other in others)
        ]  # fmt: skip
        if not group["params"] and others and set(own) - {"weight_decay"}:
            raise CheckFailed(
                f"{name}: group {number} of {len(groups)} sets {own[0]} = {group[own[0]]} and holds 0 parameters"
            )


@each_optimizer
def check_settings(subject: Subject, held_by: Held) -> None:
    """Rates are numbers from 0 to the peak, beta1 is not above beta2, decay lies between 0 and 1, and eps is small.

    Silent because settings in each other's place, or read as text, are settings.

    Look at the order of arguments, at `1e-4` in YAML (text, there), and at defaults that stand in for a setting.
    """
    name, _, optimizer = held_by
    peak = subject.settings.get("learning_rate", float("inf"))
    if len({str(group.get("lr")) for group in optimizer.param_groups}) > 1:
        peak = float("inf")  # rates of each group's own, whose peaks nobody names
    for group in optimizer.param_groups:
        rate, decay, eps = group.get("lr"), group.get("weight_decay") or 0.0, group.get("eps") or 0.0
        if rate is not None and (isinstance(rate, str) or not 0 <= float(rate) <= peak * (1 + 1e-6)):
            raise CheckFailed(f"{name}: a group's rate is {rate!r}; the peak is {peak:g}")
        if isinstance(decay, str) or not 0 <= float(decay) < 1:
            raise CheckFailed(f"{name}: a group's weight_decay is {decay!r}, not in 0 to 1")
        if isinstance(eps, float) and not 0 <= eps <= LARGEST_EPS:
            raise CheckFailed(f"{name}: a group's eps is {eps!r}, above {LARGEST_EPS}: updates shrink with it")
        betas = group.get("betas") or (0.0, 1.0)  # or of one average alone, which some keep under this name
        alone = "rmsprop" in type(optimizer).__name__.lower() or (float(betas[-1]) == 0 and not claims_adam(optimizer))
        if len(betas) == 2 and not alone and not 0 <= float(betas[0]) <= float(betas[1]) <= 1:
            raise CheckFailed(f"{name}: a group's betas are {betas}; the second, of squares, is never the faster one")


@each_optimizer
def check_decay(subject: Subject, held_by: Held) -> None:
    """With gradients of 0, matrices shrink by rate x decay in a step, all by the same; norms and biases do not.

    Asked where the settings name the decay of matrices, or where groups of different decay show that it is meant.

    Silent because a gain that decays is learned anew in every step, at a cost that no curve shows alone.

    Look at the filter that picks what decays: names or types that miss RMSNorm; and at decay added to the gradient.
    """
    name, model, optimizer = held_by
    groups = optimizer.param_groups
    named = subject.settings.get("weight_decay")
    decays = {float(group.get("weight_decay") or 0.0) for group in groups}
    halved = any(parameter.dtype in HALVES for parameter in trainable(model).values())
    if halved or any(group.get("lr") is None for group in groups) or (named is None and len(decays) < 2):
        raise NotApplicable("settings['weight_decay'], or groups of different decay")
    due = max(decays) if named is None else named
    shrunk = _shrunk(model, optimizer)
    vectors = {key: value for key, value in shrunk.items() if model.get_parameter(key).dim() < 2}
    matrices = {key: value for key, value in shrunk.items() if model.get_parameter(key).dim() >= 2}
    fading = sorted(key for key, value in vectors.items() if abs(value) > 1e-3 * due)
    if fading:
        raise CheckFailed(
            f"{name}: {len(fading)} of {len(vectors)} vectors decay: {listed(fading)}, by rate x "
            f"{vectors[fading[0]]:.3g} a step; norms and biases must not"
        )
    wrong = sorted(key for key, value in matrices.items() if abs(value - due) > 2e-2 * due)
    tables = {tuple(m.weight.shape) for m in model.modules() if isinstance(m, nn.Embedding)}
    spared = all(tuple(model.get_parameter(key).shape) in tables and abs(matrices[key]) < 1e-3 * due for key in wrong)
    if wrong and not (spared and len(wrong) < len(matrices)):
        raise CheckFailed(
            f"{name}: {wrong[0]} shrinks by rate x {matrices[wrong[0]]:.4g} a step without a gradient, "
            f"and {due:.4g} is due"
        )


@each_optimizer
def check_parity(_: Subject, held_by: Held) -> None:
    """An optimizer that calls itself Adam or AdamW moves weights as the paper says, for gradients of all magnitudes.

    Compared with Adam in float64 (Kingma & Ba 2015, algorithm 1) over four steps, for gradients from 1e-9 to 100.

    Silent because any step downhill learns something: a missing bias correction, or eps in the wrong place, is a
    learning rate that is wrong for some weights at some times.

    Look at the step count, at 1 - beta ** t, and at eps: outside the root, after the correction.
    """
    name, model, optimizer = held_by
    if not claims_adam(optimizer):
        raise NotApplicable("an optimizer that is Adam or AdamW")
    error, key, step, found, due = _worst_parity(model, optimizer)
    allowed = max(PARITY[parameter.dtype] for parameter in trainable(model).values())
    if not error <= allowed:
        raise CheckFailed(
            f"{name}: after step {step} on given gradients an entry of {key} stands at {found:.6g} from 0, and Adam "
            f"at {due:.6g}; that is {error:.2g} of it, and rounding explains {allowed:.0e}"
        )


@each_optimizer
def check_moments(_: Subject, held_by: Held) -> None:
    """Adam's running mean of squares forgets at the rate that beta2 says.

    Silent because a mean that cannot shrink, being rounded back to itself, only makes steps smaller and smaller.

    Look at the dtype of the moments: with bfloat16 and beta2 = 0.999 each update of the mean is rounded away.
    """
    name, model, optimizer = held_by
    group = next((group for group in optimizer.param_groups if group["params"] and "betas" in group), {})
    sizes = []
    for gradient in (1.0, *[0.0] * QUIET):
        _give(model, dict.fromkeys(trainable(model), gradient))
        optimizer.step()
        square = optimizer.state[group["params"][0]].get("exp_avg_sq") if group and not group.get("amsgrad") else None
        if not isinstance(square, Tensor) or not square.is_floating_point():
            raise NotApplicable("an optimizer of Adam's kind, with a floating mean of squares")
        sizes.append(float(square.double().mean()))
    kept, due = sizes[-1] / max(sizes[0], 1e-300), float(group["betas"][1]) ** QUIET
    if not abs(kept - due) <= 0.2 * (1 - due):
        raise CheckFailed(
            f"{name}: after {QUIET} steps without a gradient {kept:.6g} of the mean of squares is left, and beta2 = "
            f"{group['betas'][1]} leaves {due:.6g}; it is kept in {square.dtype}"
        )


@each_run_or_plain
def check_survival(subject: Subject, make: Make) -> None:
    """Updates too small for a half-precision weight add up all the same: in a master copy, or by stochastic rounding.

    Silent because large updates still pass: training stalls as the rate falls, weight by weight.

    Look for weights in bfloat16 or float16 that the optimizer updates in place; keep them in float32 under autocast.
    """
    run = make()
    ids = {id(tensor) for tensor in held(run.optimizer)}
    halves = [key for key, p in trainable(run.model).items() if p.dtype in HALVES and id(p) in ids]
    if not halves or not all("betas" in group for group in run.optimizer.param_groups):
        raise NotApplicable(LOSABLE)
    begun = parameters(run.model)
    updates = [update for _ in range(ADDED) for update in run.step([new_batch(subject)]).updates]
    rates = [max(update.rates) for update in updates]
    ended, due, still = parameters(run.model), 0, 0
    for key in halves if rates else []:
        tensor = begun[key].double()
        half_spacing = tensor.abs() * torch.finfo(begun[key].dtype).eps / 2  # at most
        gradient = updates[0].gradients.get(key, torch.zeros_like(tensor))
        small = (half_spacing > 8 * max(rates)) & (half_spacing < sum(rates)) & (gradient != 0)
        due += int(small.sum())
        still += int((small & (ended[key] == begun[key])).sum())
    if due < 8:
        raise NotApplicable(LOSABLE)
    if still > 0.8 * due:
        raise CheckFailed(
            f"{run.name}: of {due} half-precision weights to which {len(rates)} updates of {max(rates):.2g} should "
            f"have added up, {still} did not change: each update was rounded away"
        )


def _shrunk(model: nn.Module, optimizer: Any) -> dict[str, float]:
    """By parameter: the share that one step without gradients takes away, over the rate."""
    _give(model, dict.fromkeys(trainable(model), 0.0))
    for group in optimizer.param_groups:
        group["lr"] = RATE
    ids = {id(tensor) for tensor in held(optimizer)}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)  # whatever rounding does, it does alike
    optimizer.step()
    return {
        key: float((1.0 - parameter.detach().double()).mean()) / RATE
        for key, parameter in trainable(model).items()
        if id(parameter) in ids
    }


def _worst_parity(model: nn.Module, optimizer: Any) -> tuple[float, str, int, float, float]:
    """Largest relative error over four steps from weights of 0; its parameter and step, and both values."""
    groups = {id(tensor): group for group in optimizer.param_groups for tensor in group["params"]}
    chosen = {key: parameter for key, parameter in trainable(model).items() if id(parameter) in groups}
    generator = torch.Generator().manual_seed(0)
    first, means, squares, weights = {}, {}, {}, {}
    with torch.no_grad():
        for key, parameter in chosen.items():
            parameter.zero_()
            powers = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
            signs = torch.randint(2, parameter.shape, generator=generator) * 2 - 1
            size = 10 ** (MAGNITUDES[0] + (MAGNITUDES[1] - MAGNITUDES[0]) * powers)
            first[key] = (size * signs).to(parameter.device, parameter.dtype)
            means[key] = squares[key] = weights[key] = torch.zeros_like(parameter, dtype=torch.float64)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
        group["lr"] = float(group["lr"]) or RATE  # a warm-up may begin at 0
    worst = (0.0, "", 0, 0.0, 0.0)
    for step, factor in enumerate(FACTORS, start=1):
        gradients = {key: tensor * factor for key, tensor in first.items()}
        _give(model, gradients)
        optimizer.step()
        for key, parameter in chosen.items():
            group = groups[id(parameter)]
            beta1, beta2 = (float(beta) for beta in group["betas"])
            gradient = gradients[key].double()
            means[key] = beta1 * means[key] + (1 - beta1) * gradient
            squares[key] = beta2 * squares[key] + (1 - beta2) * gradient.square()
            mean, square = means[key] / (1 - beta1**step), squares[key] / (1 - beta2**step)
            weights[key] = weights[key] - float(group["lr"]) * mean / (square.sqrt() + group["eps"])
            errors = (parameter.detach().double() - weights[key]).abs() / (
                weights[key].abs() + 1e-2 * float(group["lr"])
            )
            largest = int(errors.argmax())
            if not float(errors.flatten()[largest]) <= worst[0]:
                values = float(parameter.detach().flatten()[largest]), float(weights[key].flatten()[largest])
                worst = (float(errors.flatten()[largest]), key, step, *values)
    return worst


def _give(model: nn.Module, gradients: State | dict[str, float]) -> None:
    for key, parameter in trainable(model).items():
        value = gradients.get(key, 0.0)
        parameter.grad = value.clone() if isinstance(value, Tensor) else torch.full_like(parameter, value)
