"""Experts of a mixture: each is reached by some batch."""

from torch import Tensor, nn

from andon.verify.access.batches import small_batch
from andon.verify.access.calls import gradients
from andon.verify.access.larger_weights import perturbed_model
from andon.verify.errors import CheckFailed
from andon.verify.subject import Subject

DRAWS, UNCHANGED = 32, 8  # models and batches that may reach an expert, and those in a row that reach no other one
FEWEST = 3  # experts


def require_experts(subject: Subject) -> None:
    """Fail where a part of a mixture gets no gradient, however model and batch are drawn, and parts like it do."""
    idle: set[str] = set()
    same = 0
    for seed in range(DRAWS):
        model = perturbed_model(subject, seed)
        now = _idle(model, gradients(subject, model, small_batch(subject, seed)))
        before, idle = idle, idle & now if seed else now
        same = same + 1 if idle == before else 0
        if not idle:
            return
        if same == UNCHANGED:
            raise CheckFailed(
                f"{len(idle)} of {len(_siblings(model))} experts get no gradient from {seed + 1} batches, each for a "
                f"model of its own: {', '.join(sorted(idle)[:3])}"
            )


def _idle(model: nn.Module, found: dict[str, Tensor]) -> set[str]:
    """Names of the experts that these gradients do not reach."""
    reached = [key for key, gradient in found.items() if gradient.any()]
    return {name for name in _siblings(model) if not any(key.startswith(f"{name}.") for key in reached)}


def _siblings(model: nn.Module) -> list[str]:
    """Names of the modules, with parameters that learn, that stand in lists of one type without lists in them."""
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    found = []
    for name, module in lists.items():
        learning = {key: each for key, each in module.named_children() if _learns(each)}
        alike = len(learning) >= FEWEST and len({type(each) for each in learning.values()}) == 1
        if alike and not any(other.startswith(f"{name}.") for other in lists):
            found += [f"{name}.{key}" for key in learning]
    return found


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
