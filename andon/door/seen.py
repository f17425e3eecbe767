"""What was seen of a run, in a line: its owner trusts it, or corrects it."""

import math

from torch import nn

from andon.door.records import Optimizing, Run

MILLION, THOUSAND = 1e6, 1e3


def described(run: Run) -> str:
    """Model, batch, micro-batches, optimizer, clipping, schedule, steps; and what was not seen."""
    evaluated = sum(each.count for each in run.passes.values() if not each.trained and run.steps)
    schedules = dict.fromkeys(type(each.scheduler).__name__ for each in run.scheduling.values())
    passes = [f"{evaluated} passes without a backward pass"] if evaluated else []
    parts = [*_models(run), *_optimizers(run), *schedules, f"{run.steps} steps", *passes]
    missing = [what for what, there in (("saving", run.saves), ("evaluation", evaluated)) if not there]
    return "; ".join([*parts, *([f"not seen: {', '.join(missing)}"] if missing else [])])


def micro_batches(run: Run) -> int:
    """Backward passes of the step that has most."""
    return max((count for each in run.optimizing.values() if each.steps for count in each.backwards), default=0)


def settings(run: Run) -> dict[str, float]:
    """Hyperparameters of the first optimizer that stepped, by the names of `Subject.hyperparameters`."""
    first = next((each for each in run.optimizing.values() if each.steps), None)
    if first is None:
        return {}
    rates = [rate for step in first.rates for rate in step if math.isfinite(rate)]
    return ({"learning_rate": max(rates)} if rates else {}) | _bound(first)


def _bound(each: Optimizing) -> dict[str, float]:
    """On the norm of gradients, where each step's was clipped to it."""
    clip = each.clip
    if clip is None or not math.isfinite(clip.norm) or each.kinds["clipped"] < each.steps:
        return {}
    return {"grad_clip": clip.max_norm}


def _models(run: Run) -> list[str]:
    """Those that optimizers train, else all that were called with gradients."""
    trained = [each.model for each in run.optimizing.values() if each.steps and each.model is not None]
    return list(dict.fromkeys(map(_model, trained or run.modules.values())))


def _optimizers(run: Run) -> list[str]:
    """Micro-batches of a step, each optimizer that stepped, and the bounds of clipping."""
    stepping = [each for each in run.optimizing.values() if each.steps]
    most = micro_batches(run)
    bounds = dict.fromkeys(f"clip {each.clip.max_norm:g}" for each in stepping if each.clip)
    return [*([f"{most} micro-batches a step"] if most > 1 else []), *map(_optimizer, stepping), *bounds]


def _model(model: nn.Module) -> str:
    count = sum(p.numel() for p in model.parameters())
    return f"{type(model).__name__}, {_size(count)} parameters"


def _size(count: int) -> str:
    if count >= MILLION:
        return f"{count / MILLION:.1f} M"
    return f"{count / THOUSAND:.1f} k" if count >= THOUSAND else str(count)


def _optimizer(each: Optimizing) -> str:
    count = len(each.optimizer.param_groups)
    return f"{type(each.optimizer).__name__}, {count} group{'s' if count > 1 else ''}"
