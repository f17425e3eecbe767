"""Settings act: each one changes something that can be seen.

Legend: B batch, T time, V vocab.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.access.calls import loss_of, needed, new_batch, precise, seeded
from andon.verify.access.larger_weights import rescale
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.observation.norm_layers import norms_of
from andon.verify.observation.perturb import logits_eval
from andon.verify.observation.settings import setting, settings_of
from andon.verify.observation.tolerances import distance
from andon.verify.subject import Batch, Subject

TINY = 1e-2  # of the weights: small states make epsilons matter
FAINT = 1e-3  # of the weights: logits far below any bound
MOVED = 1e-3  # of weights that were scaled
HUGE, BOUNDLESS, SMALL = 1e3, 100.0, 0.03  # times weights, times a bound, and of a bound: what it leaves alone
EDGE = 0.9  # of a uniform distribution's bound


def check_sensitivity(subject: Subject) -> None:
    """Every setting has an effect: on parameter shapes, first values, what learns, logits, or the training loss.

    Each is asked alone and beside each other one of `config_alternatives`; a value that the model's own settings hold
    already is not asked.

    Silent because a setting that is accepted and not used leaves the default in its place.

    Look at what the constructor passes on, and at constants where the setting should stand.

    Yellow alone, as a setting may act only beside one that `config_alternatives` does not have.

    Example:
        # wrong: rope_theta is accepted and never used; the default is
        def __init__(self, config):
            super().__init__()
            self.rope = RotaryEmbedding(config.head_dim)

        # right
        def __init__(self, config):
            super().__init__()
            self.rope = RotaryEmbedding(config.head_dim, base=config.rope_theta)

    Reference: Lightning-AI/litgpt#2218.
    """
    configure, alternatives = needed(subject, "configure"), needed(subject, "config_alternatives")
    batch = new_batch(subject)
    acting = {key: value for key, value in alternatives.items() if not _is_there(_made(configure), key, value)}
    idle = [key for key, value in acting.items() if not _acts(subject, key, value, batch)]
    if idle:
        value = alternatives[idle[0]]
        raise Unusual(
            f"{len(idle)} of {len(alternatives)} settings change nothing: {', '.join(idle)}; with {idle[0]}={value!r} "
            "shapes, first weights, logits of equal weights and dropout are as without, beside other settings, too; "
            "unless it acts only under one that `config_alternatives` does not have"
        )


def check_norms(subject: Subject) -> None:
    """A setting that changes one norm changes all norms of its kind and width.

    Silent because an epsilon that one norm does not get costs a fraction of a percent.

    Look at each place where a norm is made, and at the epsilon that it is given.

    Example:
        # wrong: the second norm keeps PyTorch's epsilon
        self.norm_1 = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.norm_2 = nn.RMSNorm(config.dim)

        # right
        self.norm_1 = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.norm_2 = nn.RMSNorm(config.dim, eps=config.norm_eps)

    Reference: meta-llama/llama#771.
    """
    configure, alternatives = needed(subject, "configure"), needed(subject, "config_alternatives")
    base = _made(configure)
    for key, value in alternatives.items():
        changed = _of_same_shapes(configure, base, key, value) if isinstance(value, float) else None
        for kind, found in _changed_norms(subject, base, changed) if changed is not None else ():
            deaf = [name for name, differs in found.items() if not differs]
            if 0 < len(deaf) < len(found):
                raise CheckFailed(
                    f"{key}={value!r} changes {len(found) - len(deaf)} of {len(found)} {kind.__name__} modules, and "
                    f"not {', '.join(deaf[:3])}"
                )


def check_caps(subject: Subject) -> None:
    """A setting that bounds the logits leaves small logits as they are.

    Silent because logits of another scale are learned just as well: training starts from another temperature.

    Look at `cap * tanh(logits / cap)`: it needs both the product and the quotient.

    Example:
        # wrong: without the division, small logits grow by the factor cap
        logits = self.lm_head(x)
        logits = cap * torch.tanh(logits)

        # right
        logits = self.lm_head(x)
        logits = cap * torch.tanh(logits / cap)

    Reference: Gemma Team 2024, "Gemma 2", arXiv:2408.00118, section 2 (logit soft-capping).
    """
    caps = {key: value for key, value in needed(subject, "config_alternatives").items() if _is_cap(subject, key, value)}
    if not caps:
        raise NotApplicable("a setting that bounds the logits in `config_alternatives`")
    for key, value in caps.items():
        small, due = (_logits_with(subject, key, bound, FAINT) for bound in (value, BOUNDLESS * value))
        apart = distance(small, due)
        if apart > SMALL:
            raise CheckFailed(
                f"{key}={value!r} bounds the logits by {value:g}, and logits of {float(small.abs().max()):.2g} at most "
                f"are {apart:.2g} of their rms from those with {key}={BOUNDLESS * value:g}"
            )


def check_spread(subject: Subject) -> None:
    """A setting that scales first weights reaches every linear layer: none keeps the values PyTorch draws by default.

    Silent because such layers train as well, from a scale that differs by layer and that nobody chose.

    Look at whether the initialization runs, at the types and names that it picks, and at layers made after it.

    Example:
        # wrong: the head is made after the initialization and keeps PyTorch's default
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.apply(self._init_weights)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)

        # right
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.apply(self._init_weights)

    Reference: Lightning-AI/litgpt#1162.
    """
    configure, alternatives = needed(subject, "configure"), needed(subject, "config_alternatives")
    base, compared = _made(configure), False
    for key, value in alternatives.items():
        changed = _of_same_shapes(configure, base, key, value)
        pairs = {} if changed is None else _pairs(base, changed)
        if not any(_is_scaled(first, second) for first, second in pairs.values()):
            continue
        compared = True
        linear = [f"{name}.weight" for name, module in base.named_modules() if isinstance(module, nn.Linear)]
        kept = [name for name in linear if name in pairs and _is_kept(*pairs[name])]
        if kept:
            raise CheckFailed(
                f"{key}={value!r} scales first weights, but not those of {len(kept)} of {len(linear)} linear layers: "
                f"{', '.join(kept[:3])} begin as torch draws them, uniform below 1/sqrt({pairs[kept[0]][0].shape[1]})"
            )
    if not compared:
        raise NotApplicable("a setting that scales first weights in `config_alternatives`")


def _of_same_shapes(configure: Any, base: nn.Module, key: str, value: Any) -> nn.Module | None:
    """A model with this setting; None where it is refused, or changes a shape."""
    changed = _taken(configure, **{key: value})
    return changed if changed is not None and _shapes(base) == _shapes(changed) else None


def _pairs(base: nn.Module, changed: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """The matrices of two models, by name."""
    return {name: (p, changed.get_parameter(name)) for name, p in base.named_parameters() if p.dim() == 2}


def _changed_norms(subject: Subject, base: nn.Module, changed: nn.Module) -> Iterator[tuple[type, dict[str, bool]]]:
    """By type and width, whether each norm of the base returns something else in the other model, by name."""
    found: dict[tuple[type, int], dict[str, bool]] = {}
    others = dict(changed.named_modules())
    for name, module, width in norms_of(subject, base):
        if name not in others:
            continue
        rows = TINY * torch.randn(8, width, generator=torch.Generator().manual_seed(0))
        rows = rows.to(next(module.parameters(), rows))
        with torch.no_grad():
            differs = not torch.equal(module(rows), others[name](rows))
        found.setdefault((type(module), width), {})[name] = differs
    return ((kind, norms) for (kind, _), norms in found.items())


def _is_there(model: nn.Module, key: str, value: Any) -> bool:
    """Whether the settings that a model keeps hold this value already."""
    return any(setting(holder, key) == value for holder in settings_of(model))


def _acts(subject: Subject, key: str, value: Any, batch: Batch) -> bool:
    """Whether a setting changes something, alone or beside another one: some act only where another lets them."""
    configure, alternatives = needed(subject, "configure"), needed(subject, "config_alternatives")
    for other in ({}, *({name: each} for name, each in alternatives.items() if name != key)):
        base = _taken(configure, **other)
        changed = _taken(configure, **other, **{key: value})
        if base is not None and (changed is None or _differs(subject, base, changed, batch)):
            return True
    return False


def _is_cap(subject: Subject, key: str, value: Any) -> bool:
    """Whether with this setting no logits are beyond its value, large ones just there, and faint ones far below."""
    configure = needed(subject, "configure")
    changed = _taken(configure, **{key: value}) if isinstance(value, float) and value > 0 else None
    if changed is None or _shapes(changed) != _shapes(_made(configure)):
        return False
    bound, free, faint = (
        float(logits.abs().max())
        for logits in (
            _logits_of(subject, changed, HUGE),
            _logits_of(subject, _made(configure), HUGE),
            _logits_with(subject, key, value, FAINT),
        )
    )
    return EDGE * value < bound <= value * (1 + MOVED) < free and 0 < faint < SMALL * value


def _logits_with(subject: Subject, key: str, value: Any, scale: float) -> Tensor:
    return _logits_of(subject, _made(needed(subject, "configure"), **{key: value}), scale)


def _logits_of(subject: Subject, model: nn.Module, scale: float) -> Tensor:
    """Logits of the model with weights of usual size, times `scale`."""
    rescale(precise(subject, model))
    _scale(model, scale)
    return logits_eval(subject, model, new_batch(subject))


def _is_scaled(first: Tensor, second: Tensor) -> bool:
    """Whether the second holds the first's numbers times one factor, and another one than 1; zeros do not count."""
    if not first.any():
        return False
    factor = float((first.double() * second.double()).sum() / first.double().square().sum().clamp_min(1e-300))
    return abs(factor - 1) > MOVED and distance(second, factor * first) < MOVED


def _is_kept(first: Tensor, second: Tensor) -> bool:
    """Whether a weight has the same numbers in both models, and these are torch's own draw."""
    return torch.equal(first, second) and _is_torchs(first)


def _is_torchs(weight: Tensor) -> bool:
    """Whether the numbers look like those of torch.nn.Linear: uniform between plus and minus 1/sqrt(inputs)."""
    bound = weight.shape[1] ** -0.5
    largest, std = float(weight.abs().max()), float(weight.double().std())
    return EDGE * bound < largest <= bound and abs(std * math.sqrt(3) / bound - 1) < 1 - EDGE


def _made(configure: Any, **changes: Any) -> nn.Module:
    with seeded():
        return configure(**changes)


def _taken(configure: Any, **changes: Any) -> nn.Module | None:
    """A model with these settings; None where a value is refused, which is not silent."""
    try:
        return _made(configure, **changes)
    except Exception as error:
        if not isinstance(error.__cause__ or error, ValueError):
            raise
        return None


def _differs(subject: Subject, base: nn.Module, other: nn.Module, batch: Batch) -> bool:
    """Whether two models differ as they are made, in the logits of equal weights, or in the training loss."""
    if _differ_as_made(base, other):
        return True
    for model in (base, other):
        precise(subject, model)
    if _differ_in_logits(subject, base, other, batch):
        return True
    losses = [_train_loss(subject, model, batch) for model in (base, other)]
    return distance(losses[1], losses[0]) > 0


def _differ_as_made(base: nn.Module, other: nn.Module) -> bool:
    """Whether shapes, what is shared, what learns, or first weights differ."""
    first, second = list(base.parameters()), list(other.parameters())
    if _shapes(base) != _shapes(other) or len(first) != len(second):
        return True
    return any(
        one.requires_grad != two.requires_grad or not torch.equal(one, two)
        for one, two in zip(first, second, strict=True)
    )


def _differ_in_logits(subject: Subject, base: nn.Module, other: nn.Module, batch: Batch) -> bool:
    """Whether logits differ, with small weights or with usual ones: the models are left with those.

    Where there are no logits the losses alone tell.
    """
    try:
        for scale in (TINY, 1.0):
            for model in (base, other):
                rescale(model)
                _scale(model, scale)
            if not torch.equal(logits_eval(subject, base, batch), logits_eval(subject, other, batch)):
                return True
    except NotApplicable:
        return False
    return False


def _train_loss(subject: Subject, model: nn.Module, batch: Batch) -> Tensor:
    with seeded(5), torch.no_grad():
        return loss_of(subject, model.train(), batch)


@torch.no_grad()
def _scale(model: nn.Module, scale: float) -> None:
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.dim() >= 2:
            parameter.mul_(scale)


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in model.named_parameters(remove_duplicate=False)}


CHECKS = (
    Check("configuration.sensitivity", check_sensitivity, ("configure", "config_alternatives")),
    Check("configuration.norms", check_norms, ("configure", "config_alternatives")),
    Check("configuration.caps", check_caps, ("configure", "config_alternatives")),
    Check("configuration.spread", check_spread, ("configure", "config_alternatives")),
)
