"""The optimizer itself: what it holds, what it decays, and whether its arithmetic is what it claims to be."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.access.calls import new_batch
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual, listed
from andon.verify.observation.adam import worst_parity
from andon.verify.observation.half_precision import HALVES, has_halves
from andon.verify.observation.optimizers import (
    FADED,
    adams,
    claims_adam,
    fading_rates,
    give_gradients,
    has_momentum,
    kept_of,
    mean_key,
    remaining_shares,
    square_key,
    stepped,
    tensors_of,
)
from andon.verify.observation.parameters import fitted, mismatch, parameters, trainable
from andon.verify.observation.reference_steps import slopes
from andon.verify.observation.runs import RATE as DEFAULT_RATE
from andon.verify.observation.runs import Make, NamedOptimizer, each_optimizer, each_run_or_plain
from andon.verify.observation.stand_in import StandIn, first_shifts, outcome, remade
from andon.verify.subject import Subject

RATE = 0.1  # at which decay is measured: far above rounding
ADDED = 24  # updates, each too small for half precision, that together are not
LARGEST_EPS = 1e-3
PARITY = {torch.float64: 1e-6, torch.float32: 2e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}
ADAMS = {"lr", "betas", "eps", "weight_decay"}  # what can be set of Adam
OTHERWISE = {"lr": 0.01, "betas": 0.5, "eps": 1e-3, "momentum": 0.05, "weight_decay": 0.5}  # added, or put in place
APART = 1e-3  # of a step: more than rounding
QUIET = 8  # steps without a gradient, in which moments fade
SQUARED = "an optimizer of Adam's kind, with a floating mean of squares"
LOSABLE = "half-precision weights that an optimizer of Adam's kind updates, at rates below their rounding"


@each_optimizer
def check_membership(subject: Subject, named: NamedOptimizer) -> None:
    """The optimizer holds each of the model's trainable parameters exactly once.

    Of those that the loss gives a gradient. Wrong is an optimizer that holds others' tensors in their place, or one
    twice; one that leaves some out is unusual.

    Yellow where it leaves some parameters out and holds no others: they may be meant to stay.

    Silent because a parameter the optimizer lacks keeps its first values, one it holds twice takes double steps, and a
    tensor that the model has since replaced is updated in vain.

    Look at what happens between building the optimizer and the first step: wrapping, moving, tying, adding adapters; at
    filters by name or type; and at generators that something else has used up.

    Example:
        # wrong: the adapters are added after the optimizer has taken its parameters
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        model = get_peft_model(model, lora_config)

        # right
        model = get_peft_model(model, lora_config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    Reference: PyTorch documentation, torch.optim, "Constructing it".
    """
    name, model, optimizer = named
    tensors, learning = tensors_of(optimizer), trainable(model)
    ids = {id(tensor) for tensor in tensors}
    if len(tensors) != len(ids):
        raise CheckFailed(f"{name} lists {len(tensors)} tensors, of which only {len(ids)} are different ones")
    lacking = _lacking(subject, model, ids)
    foreign = _foreign_tensors(model, tensors)
    if _are_copied([learning[key] for key in lacking], foreign):
        return
    light = CheckFailed if foreign or len(lacking) == len(learning) else Unusual
    raise light(
        f"{name} holds {len(learning) - len(lacking)} of the model's {len(learning)} trainable parameters and "
        f"{len(foreign)} tensors that are not the model's; it lacks {listed(lacking)}"
    )


@each_optimizer
def check_groups(_: Subject, named: NamedOptimizer) -> None:
    """No optimizer group that sets a learning rate of its own, or another option but weight decay, is empty.

    Yellow alone, as this model may have none of the kind.

    Silent because an option set for no parameter raises no error: the parameters meant are trained like the others.

    Look at how the group's parameters are picked: by name, by module type, by identity after a wrap.

    Example:
        # wrong: a head tied to the embedding is listed under the embedding's name only
        head = [p for name, p in model.named_parameters() if "lm_head" in name]
        rest = [p for name, p in model.named_parameters() if "lm_head" not in name]
        optimizer = torch.optim.AdamW([{"params": rest}, {"params": head, "lr": 1e-5}], lr=1e-4)

        # right
        head = [model.lm_head.weight]
        rest = [p for p in model.parameters() if p is not model.lm_head.weight]
        optimizer = torch.optim.AdamW([{"params": rest}, {"params": head, "lr": 1e-5}], lr=1e-4)

    Reference: huggingface/peft#3503.
    """
    name, groups = named.name, named.optimizer.param_groups
    for number, group in enumerate(groups):
        others = [other for other in groups if other is not group]
        own = _own_settings(group, others)
        if not group["params"] and others and set(own) - {"weight_decay"}:
            raise Unusual(
                f"{name}: group {number} of {len(groups)} sets {own[0]} = {group[own[0]]} and holds 0 parameters; "
                "right where this model has none of the kind"
            )


@each_optimizer
def check_settings(subject: Subject, named: NamedOptimizer) -> None:
    """Learning rates are numbers from 0 to the peak, beta1 is at most beta2, weight decay is below 1 and eps is small.

    Wrong is what no optimizer can be given: text, a rate or a decay below 0, a rate above the peak that is said.

    Silent because settings in each other's place are accepted as readily as the right ones.

    Look at the order of arguments, at `1e-4` in YAML (text, there), and at defaults that stand in for a setting.

    Example:
        # wrong: the fourth argument is eps, not weight_decay
        optimizer = torch.optim.AdamW(model.parameters(), 3e-4, (0.9, 0.95), 0.1)

        # right
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)

    Reference: PyTorch documentation, torch.optim.AdamW.
    """
    name, _, optimizer = named
    peak = subject.hyperparameters.get("learning_rate", float("inf"))
    if subject.lr_scheduler is not None or len({str(group.get("lr")) for group in optimizer.param_groups}) > 1:
        peak = float("inf")  # rates of each group's own, whose peaks nobody names, or what a schedule multiplies
    for group in optimizer.param_groups:
        _require_rate(name, group.get("lr"), peak)
        _require_decay(name, group.get("weight_decay") or 0.0)
        _require_eps(name, group.get("eps") or 0.0)
        _require_betas(name, optimizer, group.get("betas") or (0.0, 1.0))


@each_optimizer
def check_decay(subject: Subject, named: NamedOptimizer) -> None:
    """A step with zero gradients shrinks every matrix by learning rate x weight decay, and no norm or bias.

    Checked where `hyperparameters` names `weight_decay`, or groups with different weight decay show that it is meant.
    Embeddings may be left out. Wrong is a decay that is said and not done, or is done otherwise; a norm or a bias that
    decays, or a matrix that does not as the others do, is unusual.

    Silent because a gain that decays is learned again in every step, at a cost that no curve shows by itself.

    Look at the filter that picks what decays: names or types that miss RMSNorm; and at decay added to the gradient.

    Yellow where a norm or a bias decays, or some matrices do not: each has been meant by somebody.

    Example:
        # wrong: Llama's norms are called "input_layernorm" and "norm", so they decay
        decay = [p for name, p in model.named_parameters() if "LayerNorm" not in name]
        other = [p for name, p in model.named_parameters() if "LayerNorm" in name]
        optimizer = torch.optim.AdamW([{"params": decay}, {"params": other, "weight_decay": 0.0}], weight_decay=0.1)

        # right
        decay = [p for p in model.parameters() if p.dim() >= 2]
        other = [p for p in model.parameters() if p.dim() < 2]
        optimizer = torch.optim.AdamW([{"params": decay}, {"params": other, "weight_decay": 0.0}], weight_decay=0.1)

    Reference: huggingface/transformers#35927.
    """
    name, model, optimizer = named
    due = _decay_due(subject, model, optimizer)
    shrunk = _shrunk(model, optimizer)
    layers = _layers(model)
    vectors = {key: value for key, value in shrunk.items() if model.get_parameter(key).dim() < 2}
    matrices = {key: value for key, value in shrunk.items() if key in layers}
    _require_shrunk(name, model, matrices, due, said="weight_decay" in subject.hyperparameters)
    _require_kept(name, vectors, due)


@each_optimizer
def check_parity(_: Subject, named: NamedOptimizer) -> None:
    """An optimizer that is Adam or AdamW moves weights as the paper says, for gradients of all magnitudes.

    It is one by its name, or, where its name says nothing, by its settings and states: those of Adam, no other, and the
    two running means after a first step. By its states alone another step is unusual, not wrong.

    Compared with Adam in float64 over four steps, for gradients from 1e-9 to 100, with weight decay set to 0.

    Yellow where an optimizer is told by its states, as it may be meant to be another.

    Silent because any step downhill learns something: a missing bias correction, or eps in the wrong place, is a
    learning rate that is wrong for some weights at some times.

    Look at the step count, at 1 - beta ** t, and at eps: outside the root, after the correction.

    Example:
        # wrong: averages that start at 0 are used without bias correction
        exp_avg.lerp_(p.grad, 1 - beta1)
        exp_avg_sq.lerp_(p.grad.square(), 1 - beta2)
        p.addcdiv_(exp_avg, exp_avg_sq.sqrt() + eps, value=-lr)

        # right
        exp_avg.lerp_(p.grad, 1 - beta1)
        exp_avg_sq.lerp_(p.grad.square(), 1 - beta2)
        denominator = (exp_avg_sq / (1 - beta2**step)).sqrt() + eps
        p.addcdiv_(exp_avg, denominator, value=-lr / (1 - beta1**step))

    Reference: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1.
    """
    name, model, optimizer = named
    light: type[CheckFailed] = CheckFailed
    if not adams(optimizer):
        model, optimizer, light = *_by_states(optimizer), Unusual
    error, key, step, found, due = worst_parity(model, optimizer)
    allowed = max(PARITY.get(parameter.dtype, 0.0) for parameter in trainable(model).values())
    if not error <= allowed:
        raise light(
            f"{name}: after step {step} on given gradients an entry of {key} stands at {found:.6g} from 0, and Adam "
            f"at {due:.6g}; that is {error:.2g} of it, and rounding explains {allowed:.0e}"
        )


@each_optimizer
def check_effects(_: Subject, named: NamedOptimizer) -> None:
    """Each setting of an optimizer changes a step or what it keeps.

    Asked of a class that can be made again from its defaults: on a few small tensors, with one setting changed at a
    time, over eight steps on gradients of all magnitudes.

    Silent because an optimizer at its defaults trains as well as one that listens.

    Look for constants in the place of `group[...]`, and for settings that are taken and never read.

    Yellow alone, as one setting may switch another off.

    Example:
        # wrong: takes a weight decay, and never reads it
        for p in group["params"]:
            p.add_(update(p.grad, state), alpha=-group["lr"])

        # right
        for p in group["params"]:
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(update(p.grad, state), alpha=-group["lr"])
    """
    name, optimizer = named.name, named.optimizer
    usual = outcome(optimizer)
    altered = _altered(optimizer.param_groups[0])
    idle = [_written(key, value) for key, value in altered if _is_same(usual, outcome(optimizer, **{key: value}))]
    if idle:
        raise Unusual(
            f"{name}: with {listed(idle)} in place of the default, 8 steps on the same gradients are bit by bit the "
            "same, and so is what it keeps; right where another setting switches that one off"
        )


@each_optimizer
def check_separate(_: Subject, named: NamedOptimizer) -> None:
    """The step of one tensor is made of its own gradient: that of another changes at most the length of all steps.

    Asked of a class that can be made again from its defaults, on two small matrices of one shape.

    Silent because layers that share a momentum still go downhill together.

    Look at the key under which states are kept (a shape, a name, nothing at all), and at variables that a loop over
    parameters leaves to the next one.

    Example:
        # wrong: layers of one shape share one momentum
        buffer = self.state[p.shape].setdefault("buffer", torch.zeros_like(p))

        # right
        buffer = self.state[p].setdefault("buffer", torch.zeros_like(p))
    """
    name, optimizer = named.name, named.optimizer
    usual = first_shifts(optimizer)
    for changed in ("one", "other"):
        shifts = first_shifts(optimizer, changed)
        for key in usual.keys() - {changed}:
            own = {key: usual[key]}
            error = mismatch({key: shifts[key]}, own, fitted({key: shifts[key]}, own))[0]
            if not error <= APART and bool(usual[key].any()):
                raise CheckFailed(
                    f"{name}: another gradient of one matrix turns the first step of another by {error:.2g} of itself: "
                    "they share what each should keep for itself"
                )


@each_optimizer
def check_memory(_: Subject, named: NamedOptimizer) -> None:
    """The momentum buffer decays at a rate its group names, and moves the weights even in a step with zero gradients.

    Silent because steps along each gradient alone, or along a mean that forgets at once, go downhill as well.

    Look at the weights of old and new in the running mean (`lerp_`), and at whether the update is made from the buffer
    or from the gradient.

    Example:
        # wrong: old and new have changed places, so a momentum of 0.95 keeps 5 % of the past
        buffer.lerp_(p.grad, group["momentum"])
        p.add_(buffer, alpha=-group["lr"])

        # right
        buffer.lerp_(p.grad, 1 - group["momentum"])
        p.add_(buffer, alpha=-group["lr"])

    Reference: Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning", section 2.
    """
    name, model, optimizer = named
    groups = _groups_with_momentum(model, optimizer)
    kept = {key: model.get_parameter(key) for key in groups}
    _without_decay(optimizer)
    _step_of_size(model, optimizer, 1.0)
    before, weights = {key: kept_of(optimizer, p) for key, p in kept.items()}, parameters(model)
    _step_of_size(model, optimizer, 0.0)
    for key, parameter in kept.items():
        shares = remaining_shares(before[key], kept_of(optimizer, parameter))
        _require_memory(name, key, shares, groups[key])
        if shares and torch.equal(weights[key], parameter):
            raise CheckFailed(
                f"{name}: {key} has a running {next(iter(shares))} of past gradients, and a step without a gradient "
                "moves it by 0"
            )


@each_optimizer
def check_moments(_: Subject, named: NamedOptimizer) -> None:
    """Adam's running mean of squared gradients decays at the rate beta2.

    Asked of an optimizer whose state, after a first step, is (1 - beta2) times the gradient's square, and which is Adam
    by its name or keeps that state in half precision.

    Yellow where the mean is kept in half precision, which may be accepted for the memory it saves.

    Silent because a mean that cannot shrink, since each product rounds back to what it was, only makes steps ever
    smaller.

    Look at the dtype of the moments: in bfloat16 with beta2 = 0.999 each decay of the mean is rounded away.

    Example:
        # wrong: moments take the dtype of the weights, and in bfloat16 0.999 * v rounds back to v
        model = model.to(torch.bfloat16)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.999))

        # right: weights and moments in float32, matrix products in bfloat16
        optimizer = torch.optim.AdamW(model.float().parameters(), lr=1e-4, betas=(0.9, 0.999))
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(**batch).loss

    Reference: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1.
    """
    name, model, optimizer = named
    group, key = _group_with_squares(optimizer), _keys_of_means(model, optimizer)[1]
    square = optimizer.state[group["params"][0]].get(key)
    if square is None or (square.dtype not in HALVES and not claims_adam(optimizer)):
        raise NotApplicable(
            SQUARED
        )  # others, such as Yogi, let it shrink in their own way; rounding is the same for all
    first = float(square.double().mean())
    give_gradients(model, dict.fromkeys(trainable(model), 0.0))
    for _step in range(QUIET):
        stepped(optimizer)
    square = optimizer.state[group["params"][0]][key]
    kept, due = float(square.double().mean()) / max(first, 1e-300), float(group["betas"][1]) ** QUIET
    if not abs(kept - due) <= 0.2 * (1 - due):
        light = Unusual if square.dtype in HALVES else CheckFailed
        raise light(
            f"{name}: after {QUIET} steps without a gradient {kept:.6g} of the mean of squares is left, and beta2 = "
            f"{group['betas'][1]} leaves {due:.6g}; it is kept in {square.dtype}"
        )


@each_run_or_plain
def check_survival(subject: Subject, make: Make) -> None:
    """Updates too small for a half-precision weight add up all the same: in a master copy, or by stochastic rounding.

    Yellow alone, as it may be accepted for the memory it saves.

    Silent because large updates still take effect: as the learning rate falls, training stalls weight by weight.

    Look for weights in bfloat16 or float16 that the optimizer updates in place; keep them in float32 under autocast.

    Example:
        # wrong: an update of 1e-5 to a bfloat16 weight of 0.02 is rounded away
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.bfloat16)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

        # right: weights in float32, matrix products in bfloat16
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(**batch).loss

    Reference: Micikevicius et al. 2018, arXiv:1710.03740, section 3.1.
    """
    run = make()
    halves = _losable(run.model, run.optimizer)
    begun = parameters(run.model)
    updates = [update for _ in range(ADDED) for update in run.step([new_batch(subject)]).updates]
    if not updates:
        raise NotApplicable(LOSABLE)
    rates = [max(update.rates) for update in updates]
    ended, due, still = parameters(run.model), 0, 0
    for key in halves:
        half_spacing = begun[key].double().abs() * torch.finfo(begun[key].dtype).eps / 2  # at most
        gradient = updates[0].gradients.get(key, torch.zeros_like(half_spacing))
        small = (half_spacing > 8 * max(rates)) & (half_spacing < sum(rates)) & (gradient != 0)
        due += int(small.sum())
        still += int((small & (ended[key] == begun[key])).sum())
    if due < 8:
        raise NotApplicable(LOSABLE)
    if still > 0.8 * due:
        raise Unusual(
            f"{run.name}: of {due} half-precision weights to which {len(rates)} updates of {max(rates):.2g} should "
            f"have added up, {still} did not change: each update was rounded away; right where that is accepted for "
            "the memory it saves"
        )


def _by_states(optimizer: Any) -> tuple[nn.Module, Any]:
    """A stand-in and an optimizer of this class for it, where what it keeps and what can be set is Adam's.

    Raises:
        NotApplicable: it is not.
    """
    lack = NotApplicable("an optimizer, or a group of one, that is Adam or AdamW")
    kind, group = type(optimizer), optimizer.param_groups[0]
    numbers = {key for key, value in group.items() if type(value) in (float, tuple)}
    named_otherwise = "adam" in kind.__name__.lower() or kind.__module__.startswith("torch.")
    if named_otherwise or not {"lr", "betas", "eps"} <= numbers <= ADAMS:
        raise lack
    model = StandIn()
    if not all(_keys_of_means(model, remade(optimizer, model))):
        raise lack
    model = StandIn()
    return model, remade(optimizer, model)


def _group_with_squares(optimizer: Any) -> Mapping[str, Any]:
    """The first group that has betas.

    Raises:
        NotApplicable: none has, or it keeps the largest mean of squares (AMSGrad), which does not fade.
    """
    for group in optimizer.param_groups:
        if group["params"] and "betas" in group and not group.get("amsgrad"):
            return group
    raise NotApplicable(SQUARED)


def _keys_of_means(model: nn.Module, optimizer: Any) -> tuple[str, str]:
    """What the means of gradients and of squares go by after a first step, on ones; empty where there are none."""
    ones = {name: torch.ones_like(p) for name, p in trainable(model).items()}
    give_gradients(model, ones)
    stepped(optimizer)
    return mean_key(optimizer, model, ones), square_key(optimizer, model, ones)


def _altered(group: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings of a group with one number changed each."""
    for key, other in OTHERWISE.items():
        value = group.get(key)
        if key == "betas" and isinstance(value, tuple):
            yield from ((key, betas) for betas in _one_replaced(value, other))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield key, other + float(value)


def _one_replaced(values: tuple[Any, ...], other: float) -> Iterator[tuple[float, ...]]:
    """These numbers with one in the place of each in turn, or half of it where it is that one already."""
    if all(isinstance(value, float) for value in values):
        for place, value in enumerate(values):
            yield (*values[:place], other / 2 if value == other else other, *values[place + 1 :])


def _written(key: str, value: Any) -> str:
    return f"{key} = {value if isinstance(value, tuple) else f'{value:g}'}"


def _is_same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _lacking(subject: Subject, model: nn.Module, held: set[int]) -> list[str]:
    """What learns and is not held; of a model that is held in part, only what a gradient reaches needs to be."""
    learning = trainable(model)
    lacking = sorted(key for key, parameter in learning.items() if id(parameter) not in held)
    if not 0 < len(lacking) < len(learning):
        return lacking
    reached = slopes(subject, model, new_batch(subject))
    return [key for key in lacking if key in reached]


def _foreign_tensors(model: nn.Module, tensors: list[Tensor]) -> list[Tensor]:
    """The tensors that are none of the model's parameters."""
    own = {id(parameter) for parameter in model.parameters()}
    return [tensor for tensor in tensors if id(tensor) not in own]


def _are_copied(weights: list[nn.Parameter], foreign: list[Tensor]) -> bool:
    """Whether full-precision copies stand for all of these half-precision weights."""
    masters = {tensor.numel() for tensor in foreign if tensor.dtype == torch.float32}
    return all(weight.dtype in HALVES and weight.numel() in masters for weight in weights)


def _own_settings(group: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """The numbers that a group sets as no other does."""
    numbers = {key: value for key, value in group.items() if isinstance(value, int | float)}
    return [key for key, value in numbers.items() if all(value != other.get(key) for other in others)]


def _require_rate(name: str, rate: Any, peak: float) -> None:
    if rate is not None and not isinstance(rate, str) and float(rate) < 0:
        raise CheckFailed(f"{name}: a group's rate is {rate!r}, below 0: each step climbs")
    if rate is not None and (isinstance(rate, str) or not 0 <= float(rate) <= peak * (1 + 1e-6)):
        raise CheckFailed(f"{name}: a group's rate is {rate!r}; the peak is {peak:g}")


def _require_decay(name: str, decay: Any) -> None:
    if isinstance(decay, str) or float(decay) < 0:
        raise CheckFailed(f"{name}: a group's weight_decay is {decay!r}, not a number from 0 on")
    if float(decay) >= 1:
        raise Unusual(f"{name}: a group's weight_decay is {decay!r}, not below 1")


def _require_eps(name: str, eps: Any) -> None:
    if isinstance(eps, float) and eps < 0:
        raise CheckFailed(f"{name}: a group's eps is {eps!r}, below 0")
    if isinstance(eps, float) and eps > LARGEST_EPS:
        raise Unusual(f"{name}: a group's eps is {eps!r}, above {LARGEST_EPS}: updates shrink with it")


def _require_betas(name: str, optimizer: Any, betas: Any) -> None:
    """Say where the second average is the faster one; some keep their only average under this name."""
    alone = "rmsprop" in type(optimizer).__name__.lower() or (float(betas[-1]) == 0 and not claims_adam(optimizer))
    if any(not 0 <= float(beta) <= 1 for beta in betas):
        raise CheckFailed(f"{name}: a group's betas are {betas}, not numbers from 0 to 1")
    if len(betas) == 2 and not alone and float(betas[0]) > float(betas[1]):
        raise Unusual(f"{name}: a group's betas are {betas}; the second, of squares, is hardly ever the faster one")


def _decay_due(subject: Subject, model: nn.Module, optimizer: Any) -> float:
    """The decay that matrices should have.

    Raises:
        NotApplicable: nothing says it, or it could not be measured.
    """
    groups = optimizer.param_groups
    decays = {float(group.get("weight_decay") or 0.0) for group in groups}
    widest = max(decays) if len(decays) > 1 else None
    named = subject.hyperparameters.get("weight_decay", widest)
    if named is None or has_halves(model) or any(group.get("lr") is None for group in groups):
        raise NotApplicable("hyperparameters['weight_decay'], or groups of different decay")
    return named


def _require_shrunk(name: str, model: nn.Module, matrices: dict[str, float], due: float, *, said: bool) -> None:
    """Fail where a matrix does not shrink as the decay says; embeddings may all be left out."""
    wrong, kept, unspared = _not_as_due(model, matrices, due)
    all_wrong = bool(wrong) and len(wrong) == len(matrices)
    if not unspared and not all_wrong:
        return
    first = (unspared or wrong)[0]
    message = f"{name}: {first} shrinks by rate x {matrices[first]:.4g} a step without a gradient, and {due:.4g} is due"
    if said and (all_wrong or len(kept) < len(wrong)):
        raise CheckFailed(message)
    if set(unspared) <= kept:
        raise Unusual(f"{message}; right where that matrix is meant to keep its size")
    raise NotApplicable("an optimizer whose decay is a part of the step by itself, or hyperparameters['weight_decay']")


def _not_as_due(model: nn.Module, matrices: Mapping[str, float], due: float) -> tuple[list[str], set[str], list[str]]:
    """The matrices that shrink otherwise than is due; which of them keep their size; and all that are not spared."""
    wrong = sorted(key for key, value in matrices.items() if abs(value - due) > 2e-2 * due)
    kept = {key for key in wrong if abs(matrices[key]) < 1e-3 * due}
    return wrong, kept, [key for key in wrong if key not in kept or not _is_table(model, key)]


def _require_kept(name: str, vectors: Mapping[str, float], due: float) -> None:
    """Say where a vector shrinks without a gradient."""
    fading = sorted(key for key, value in vectors.items() if abs(value) > 1e-3 * due)
    if fading:
        raise Unusual(
            f"{name}: {len(fading)} of {len(vectors)} vectors decay: {listed(fading)}, by rate x "
            f"{vectors[fading[0]]:.3g} a step; norms and biases are usually left out"
        )


def _is_table(model: nn.Module, key: str) -> bool:
    """Whether a parameter is an embedding, which may be spared, or a head of the shape of one."""
    tables = [module.weight.shape for module in model.modules() if isinstance(module, nn.Embedding)]
    return model.get_parameter(key).shape in tables


def _layers(model: nn.Module) -> set[str]:
    """Matrices that are a layer's only one, with at most a vector beside it: no tables of positions, no states."""
    found = set()
    for prefix, module in model.named_modules():
        own = dict(module.named_parameters(prefix, recurse=False))
        matrices = [name for name, parameter in own.items() if parameter.dim() > 1]
        if len(matrices) == 1 and len(own) <= 2 and not any(True for _ in module.children()):
            found.update(matrices)
    return found


def _losable(model: nn.Module, optimizer: Any) -> list[str]:
    """The half-precision weights that an optimizer of Adam's kind updates in place.

    Raises:
        NotApplicable: there are none.
    """
    ids = {id(tensor) for tensor in tensors_of(optimizer)}
    halves = [key for key, p in trainable(model).items() if p.dtype in HALVES and id(p) in ids]
    if not halves or not all("betas" in group for group in optimizer.param_groups):
        raise NotApplicable(LOSABLE)
    return halves


def _shrunk(model: nn.Module, optimizer: Any) -> dict[str, float]:
    """By parameter: the share that one step without gradients takes away, over the rate."""
    give_gradients(model, dict.fromkeys(trainable(model), 0.0))
    for group in optimizer.param_groups:
        group["lr"] = RATE
    ids = {id(tensor) for tensor in tensors_of(optimizer)}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)  # whatever rounding does, it does alike
    stepped(optimizer)
    return {
        key: float((1.0 - parameter.detach().double()).mean()) / RATE
        for key, parameter in trainable(model).items()
        if id(parameter) in ids
    }


def _groups_with_momentum(model: nn.Module, optimizer: Any) -> dict[str, Mapping[str, Any]]:
    """The group of each parameter that learns and has a momentum.

    Raises:
        NotApplicable: none has.
    """
    groups = {id(p): group for group in optimizer.param_groups if has_momentum(group) for p in group["params"]}
    found = {key: groups[id(p)] for key, p in trainable(model).items() if id(p) in groups}
    if not found:
        raise NotApplicable("a group of the optimizer with a momentum")
    return found


def _without_decay(optimizer: Any) -> None:
    """Groups whose steps come from gradients alone, at a rate that is not 0."""
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
        group["lr"] = float(group["lr"]) or DEFAULT_RATE


def _step_of_size(model: nn.Module, optimizer: Any, size: float) -> None:
    """One step with gradients of this size."""
    generator = torch.Generator().manual_seed(0)
    for parameter in trainable(model).values():
        parameter.grad = size * torch.randn(parameter.shape, generator=generator).to(parameter)
    stepped(optimizer)


def _require_memory(name: str, key: str, shares: Mapping[str, float], group: Mapping[str, Any]) -> None:
    """Fail where a running mean fades at a rate that its group does not name."""
    for kind, share in shares.items():
        if min(abs(share - rate) for rate in fading_rates(group)) > FADED:
            raise CheckFailed(
                f"{name}: of the running {kind} of {key} a step without a gradient leaves {share:.4g}; the group's "
                f"momentum is {group['momentum']}"
            )


CHECKS = (
    Check("optimizer.membership", check_membership, tier=2),
    Check("optimizer.groups", check_groups, tier=2),
    Check("optimizer.settings", check_settings, tier=2),
    Check("optimizer.decay", check_decay, tier=2),
    Check("optimizer.parity", check_parity, tier=2),
    Check("optimizer.effects", check_effects, tier=2),
    Check("optimizer.separate", check_separate, tier=2),
    Check("optimizer.memory", check_memory, tier=2),
    Check("optimizer.moments", check_moments, tier=2),
    Check("optimizer.survival", check_survival, tier=2),
)
