"""What a fine-tune has come to: numbers of parameters, losses, and whether its base is as it was."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon.log import of_kind, read_log
from andon.runs.models import ADAPTER_NAME, FinetuneJob

if TYPE_CHECKING:
    from andon.core.config import Config
    from andon.core.model.llama import Llama
    from andon.runs.screen import Say


def count_parameters(model: "Llama", config: "Config") -> dict[str, int]:
    """Numbers of parameters: of the adapter (`trained`), and of all, where a base in 4 bits counts unquantized."""
    from andon.core.adapters.lora import lora_parameters
    from andon.core.memory import sizes

    trained = sum(factor.numel() for factor in lora_parameters(model, ADAPTER_NAME).values())
    return {"trained": trained, "all": sizes.count_parameters(sizes.shape_of(config)).total + trained}


def trained_share(counts: dict[str, int]) -> str:
    """`1,179,648 of 163,597,056 parameters (0.72%)`."""
    return f"{counts['trained']:,} of {counts['all']:,} parameters ({counts['trained'] / counts['all']:.2%})"


def finetune_result(
    job: FinetuneJob, config: "Config", model: "Llama", folder: Path, counts: dict[str, int], say: "Say"
) -> dict[str, Any]:
    """A fine-tune's fields of `result.json`; the exit code is 1 if any bit of the frozen model has changed."""
    from andon.core.adapters.lora import base_digest, lora_origin

    settings = getattr(config, job.method)
    unchanged = base_digest(model) == lora_origin(model, ADAPTER_NAME).base
    losses = {record["step"]: record["loss"] for record in of_kind(read_log(folder), "validation")}
    finetune = {
        "method": job.method,
        "base": str(job.base),
        "rank": settings.rank,
        "alpha": settings.resolved_alpha,
        "trained_parameters": counts["trained"],
        "all_parameters": counts["all"],
        "loss_before": losses.get(0),
        "loss_after": losses[max(losses)] if max(losses, default=0) else None,
        "base_unchanged": unchanged,
    }
    if unchanged:
        return {"parameters": counts["all"], "finetune": finetune}
    say(f"{folder}: the frozen model has changed, so this adapter belongs to no model; report this as a bug")
    return {"parameters": counts["all"], "finetune": finetune, "exit": 1}
