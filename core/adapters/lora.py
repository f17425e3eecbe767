"""Add, activate, merge and remove adapters.

Names and initialization are PEFT's, so that its adapters and ours are interchangeable.
Legend: I inputs, O outputs, R rank.
"""

import hashlib
import math
import re
from collections.abc import Iterator
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn

from andon.core.adapters.low_rank import Adapter, LoRALinear, Origin, Unmerged
from andon.core.adapters.targets import Factors, LinearShape, LoraError, plan
from andon.core.config import LoraConfig
from andon.core.model.finite import not_finite
from andon.core.model.ops import at_least_fp32

NAME_PATTERN = re.compile(r"[A-Za-z0-9_-]+")


def plan_lora(model: nn.Module, config: LoraConfig) -> dict[str, Factors]:
    """The factors of each module that `config` targets, by module name; changes nothing.

    Raises:
        LoraError: as `andon.core.adapters.targets.plan`.
    """
    inside = tuple(f"{name}." for name in _wrappers(model))
    modules = {name: module for name, module in model.named_modules() if name and not name.startswith(inside)}
    return plan({name: _linear_shape(module) for name, module in modules.items()}, config)


def add_lora(
    model: nn.Module,
    config: LoraConfig,
    generator: torch.Generator,
    name: str = "default",
    dtype: torch.dtype = torch.float32,
) -> list[str]:
    """Adapt the modules that `config` targets, freeze everything else, and return the modules' names.

    A is drawn uniformly within 1 / sqrt(inputs), as PEFT draws it (He et al. 2015, arXiv:1502.01852, with a negative
    slope of sqrt 5); B is zero. The new adapter is the active one.

    Raises:
        LoraError: as `plan_lora`; the name is taken or invalid, an adapter is merged, or a weight of the base is not
            finite. The model is then unchanged.
    """
    weights = {}
    for module, (rank, inputs, outputs, _) in plan_lora(model, config).items():
        drawn_RI = torch.empty(rank, inputs, device=generator.device)
        nn.init.kaiming_uniform_(drawn_RI, a=math.sqrt(5), generator=generator)
        weights[f"{module}.lora_A.weight"] = drawn_RI.to(dtype)
        weights[f"{module}.lora_B.weight"] = torch.zeros(outputs, rank, dtype=dtype)
    return attach_lora(model, config, weights, name, base_digest(model))


def attach_lora(model: nn.Module, config: LoraConfig, weights: dict[str, Tensor], name: str, digest: str) -> list[str]:
    """`add_lora` with given factors, by `lora_parameters`' names, and the base's digest."""
    _check_name(model, name)
    _check_finite(model)
    planned = plan_lora(model, config)
    model.requires_grad_(requires_grad=False)
    for module_name, factors in planned.items():
        module = model.get_submodule(module_name)
        device = next(chain(module.parameters(), module.buffers())).device
        pair = [weights[f"{module_name}.lora_{factor}.weight"].to(device) for factor in "AB"]
        if not isinstance(module, LoRALinear):
            module = LoRALinear(module)
            model.set_submodule(module_name, module)
        adapter = Adapter(*pair, factors.scale, Origin(config, digest))
        module.adapters[name] = adapter.train(module.training)
    set_adapter(model, name)
    return list(planned)


def set_adapter(model: nn.Module, name: str | None) -> None:
    """Make one adapter active and trainable; with None the base runs alone.

    Raises:
        LoraError: there is no such adapter, or one is merged.
    """
    wrappers = _wrappers(model)
    _check_unmerged(wrappers)
    if name is not None:
        _adapters_named(wrappers, name)
    for wrapper in wrappers.values():
        wrapper.active = name
        for other, adapter in wrapper.adapters.items():
            adapter.requires_grad_(other == name)


def active_adapter(model: nn.Module) -> str | None:
    """The active adapter's name, or None."""
    return next((wrapper.active for wrapper in _wrappers(model).values()), None)


def has_adapters(model: nn.Module) -> bool:
    """Whether any module is wrapped, whichever adapter is active."""
    return bool(_wrappers(model))


def lora_parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """An adapter's factors, as `model.layers.0.self_attn.q_proj.lora_A.weight`.

    Raises:
        LoraError: there is no such adapter.
    """
    found = {}
    for module, adapter in _adapters_named(_wrappers(model), name).items():
        found |= {f"{module}.lora_A.weight": adapter.lora_A, f"{module}.lora_B.weight": adapter.lora_B}
    return found


def lora_origin(model: nn.Module, name: str) -> Origin:
    """What an adapter was made from.

    Raises:
        LoraError: there is no such adapter.
    """
    return next(iter(_adapters_named(_wrappers(model), name).values())).origin


def merge_lora(model: nn.Module, name: str) -> list[str]:
    """Merge an adapter into the weights, which become plain matrices; no adapter is active afterwards.

    Returns the names of the modules whose weights were quantized and now are not. The previous modules are kept for
    `unmerge_lora`.

    Raises:
        LoraError: no such adapter, one is merged already, or a weight is shared with another module.
    """
    wrappers = _wrappers(model)
    _check_unmerged(wrappers)
    owners = _adapters_named(wrappers, name)
    for module in owners:
        _check_not_shared(model, f"{module}.base.weight")
    set_adapter(model, None)
    dequantized = []
    for module, adapter in owners.items():
        wrapper = wrappers[module]
        if hasattr(wrapper.base, "dequantize"):
            dequantized.append(module)
        merged = _merged_linear(wrapper.base, adapter)
        wrapper.unmerged = Unmerged(name, wrapper.base, merged.weight.dtype, merged.weight.device)
        wrapper.base = merged
    return dequantized


def unmerge_lora(model: nn.Module, name: str) -> None:
    """Restore, bit for bit, what `merge_lora` replaced; the adapter is active again.

    Raises:
        LoraError: it is not merged, or the model has been converted since.
    """
    merged = {w: w.unmerged for w in _wrappers(model).values() if w.unmerged and w.unmerged.adapter == name}
    if not merged:
        raise LoraError(f"adapter {name!r} is not merged; merge it first, or use the model as it is")
    for wrapper, unmerged in merged.items():
        now = wrapper.base.weight
        if (now.dtype, now.device) != (unmerged.dtype, unmerged.device):
            raise LoraError(
                f"adapter {name!r} was merged in {unmerged.dtype} on {unmerged.device} and the model is {now.dtype} on "
                f"{now.device} now, where the previous weights cannot be restored; load the base again"
            )
    for wrapper, unmerged in merged.items():
        wrapper.base, wrapper.unmerged = unmerged.base, None
    set_adapter(model, name)


def unwrap_lora(model: nn.Module) -> None:
    """Replace the wrappers by their base modules: a merged adapter stays in the weights, all others are removed."""
    for name, wrapper in _wrappers(model).items():
        model.set_submodule(name, wrapper.base)


def base_digest(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all tensors except the adapters'; the same with and without them.

    Empty for a model on the meta device.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_base_tensors(model), key=lambda named: named[0]):
        if tensor.is_meta:
            return ""
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _linear_shape(module: nn.Module) -> LinearShape | None:
    inputs, outputs = (getattr(module, side, None) for side in ("in_features", "out_features"))
    return None if inputs is None or outputs is None else (inputs, outputs)


def _weight(base: nn.Module) -> Tensor:
    dequantize = getattr(base, "dequantize", None)
    return dequantize() if dequantize else cast("Tensor", base.weight)


def _merged_linear(base: nn.Module, adapter: Adapter) -> nn.Linear:
    """A plain module of base plus adapter, summed in at least fp32 and rounded once."""
    weight_OI = _weight(base).detach()
    high, bias = at_least_fp32(weight_OI.dtype), getattr(base, "bias", None)
    a_RI, b_OR = adapter.lora_A.detach().to(high), adapter.lora_B.detach().to(high)
    total_OI = torch.addmm(weight_OI.to(high), b_OR, a_RI, alpha=adapter.scale).to(weight_OI.dtype)
    outputs, inputs = total_OI.shape
    plain = nn.Linear(inputs, outputs, device="meta")
    plain.weight = nn.Parameter(total_OI, requires_grad=False)
    plain.register_parameter("bias", bias)
    return plain.train(base.training)


def _wrappers(model: nn.Module) -> dict[str, LoRALinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def _adapters_named(wrappers: dict[str, LoRALinear], name: str) -> dict[str, Adapter]:
    """The adapter of that name in each module that has it."""
    found = {module: adapter for module, wrapper in wrappers.items() if (adapter := wrapper.adapter(name))}
    if not found:
        known = sorted({other for wrapper in wrappers.values() for other in wrapper.adapters})
        raise LoraError(f"there is no adapter {name!r}; there are: {', '.join(known) or 'none'}")
    return found


def _base_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All tensors except the adapters', by the names they have without adapters."""
    wrappers = _wrappers(model)
    for name, tensor in chain(model.named_parameters(), model.named_buffers(remove_duplicate=False)):
        owner, _, rest = name.rpartition(".base.")
        if name.rpartition(".adapters.")[0] not in wrappers:
            yield (f"{owner}.{rest}" if owner in wrappers else name), tensor


def _check_name(model: nn.Module, name: str) -> None:
    wrappers = _wrappers(model)
    _check_unmerged(wrappers)
    if not NAME_PATTERN.fullmatch(name) or hasattr(nn.ModuleDict(), name):
        raise LoraError(
            f"adapter name {name!r} cannot be a module's name; use letters, digits, - and _, "
            "and no attribute of torch.nn.ModuleDict"
        )
    if any(name in wrapper.adapters for wrapper in wrappers.values()):
        raise LoraError(f"there is an adapter {name!r} already; choose another name")


def _check_unmerged(wrappers: dict[str, LoRALinear]) -> None:
    merged = next((wrapper.unmerged for wrapper in wrappers.values() if wrapper.unmerged), None)
    if merged:
        raise LoraError(f"adapter {merged.adapter!r} is merged into the base; unmerge it first")


def _check_not_shared(model: nn.Module, name: str) -> None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for other, parameter in parameters.items():
        if name in parameters and parameter is parameters[name] and other != name:
            raise LoraError(f"{name} is also {other}, which merging would change too; give each a weight of its own")


def _check_finite(model: nn.Module) -> None:
    tensors = _base_tensors(model)
    named = not_finite((name, each) for name, each in tensors if each.is_floating_point() and not each.is_meta)
    if named:
        raise LoraError(f"{named} of the base holds NaN or inf, on which no adapter can train; load it again")
