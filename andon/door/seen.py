"""What was seen of a run, in a line: its owner trusts it, or corrects it."""

from collections.abc import Iterable

from torch import nn

from andon.door.records import Optimizing, Run

MILLION, THOUSAND = 1e6, 1e3


def described(run: Run) -> str:
    """Model, batch, micro-batches, optimizer, clipping, schedule, steps; and what was not seen."""
    stepping = [each for each in run.optimizing.values() if each.steps]
    parts = [_model(each.model) for each in stepping if each.model is not None]
    parts = list(dict.fromkeys(parts)) or [_model(each) for each in run.modules.values()]
    micro = {count for each in stepping for count in each.backwards if count}
    if micro and max(micro) > 1:
        parts.append(f"{max(micro)} micro-batches a step")
    parts += [_optimizer(each) for each in stepping]
    parts += list(dict.fromkeys(f"clip {each.clip.max_norm:g}" for each in stepping if each.clip))
    parts += list(dict.fromkeys(type(each.scheduler).__name__ for each in run.scheduling.values()))
    evaluated = sum(each.count for each in run.passes.values() if not each.trained and run.steps)
    parts.append(f"{run.steps} steps")
    parts += [f"{evaluated} passes without a backward pass"] if evaluated else []
    missing = [what for what, there in (("saving", run.saves), ("evaluation", evaluated)) if not there]
    return "; ".join([*parts, *([f"not seen: {', '.join(missing)}"] if missing else [])])


def _model(model: nn.Module) -> str:
    count = sum(p.numel() for p in model.parameters())
    return f"{type(model).__name__}, {_size(count)} parameters"


def _size(count: int) -> str:
    if count >= MILLION:
        return f"{count / MILLION:.1f} M"
    return f"{count / THOUSAND:.1f} k" if count >= THOUSAND else str(count)


def _optimizer(each: Optimizing) -> str:
    groups: Iterable[object] = each.optimizer.param_groups
    count = len(list(groups))
    return f"{type(each.optimizer).__name__}, {count} group{'s' if count > 1 else ''}"
