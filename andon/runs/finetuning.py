"""A fine-tuning run: an adapter on a frozen model, which is in full precision (LoRA) or in 4 bits (QLoRA)."""

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon.runs.finetune_data import open_data
from andon.runs.finetune_result import count_parameters, finetune_result, trained_share
from andon.runs.folder import RunError, nothing_to_resume
from andon.runs.models import (
    ADAPTER_NAME,
    JOB_FILE,
    FinetuneError,
    FinetuneJob,
    adapter_job,
    load_base,
    read_job,
    resolve_checkpoint,
    write_job,
)
from andon.runs.setup import Prepare, RunSetup

if TYPE_CHECKING:
    from andon.core.config import Config
    from andon.runs.screen import Say

# Where a fine-tune differs from training from scratch; a TOML file named with --config replaces them.
DEFAULTS: dict[str, dict[str, Any]] = {
    "training": {"epochs": 3, "batch_size": 8, "learning_rate": 2e-4, "weight_decay": 0.0},
    "schedule": {"warmup_steps": 10},
}


def configure(base: Path, toml: Path | None, changes: list[str]) -> "Config":
    """The run's configuration: a file's or the defaults, the changes, and the base's `[model]`.

    Raises:
        ConfigError, InterchangeError: as the file and the base are read.
        FinetuneError: a change of `[model]`, which is the base's.
    """
    from andon.core import config
    from andon.core.formats.interchange import load_model_config

    model = load_model_config(base).model_dump()
    tables = config.read_tables(toml) if toml else deepcopy(DEFAULTS)
    for change in changes:
        config.apply_override(tables, change)
        if change.partition(".")[0].strip() == "model":
            raise FinetuneError(f"--set {change}: [model] is that of {base}; remove the override")
    if not toml:
        length = min(model["max_position_embeddings"], config.DataConfig().sequence_length)
        tables.setdefault("data", {}).setdefault("sequence_length", length)
    return config.parse_config(tables | {"model": model}, str(toml or "andon finetune"))


def require_full_model(model: Path) -> Path:
    """The path of the model to freeze.

    Raises:
        FinetuneError: it is an adapter itself.
    """
    base = resolve_checkpoint(model)
    if adapter_job(base):
        raise FinetuneError(f"{model}: is an adapter; merge it into a full model first: andon merge --model {model}")
    return base


def new_job(method: str, model: Path, config: "Config", chat_template: Path | None = None) -> FinetuneJob:
    """A new run's job, with the base in `training.dtype`: frozen weights need no higher precision.

    Raises:
        FinetuneError: as `require_full_model`.
        ChatError: the chat template cannot be read.
    """
    from andon.core.formats.chat_template import load_template, special_names

    base = require_full_model(model)
    template = load_template(chat_template or base)
    if chat_template and template:
        template = template._replace(tokens=special_names(base))
    return FinetuneJob(method, base, config.training.dtype, config.qlora.double_quantization, template)


def job_to_resume(folder: Path, method: str) -> FinetuneJob:
    """The job of the run in a folder.

    Raises:
        RunError: there is no such run, or one of another verb.
    """
    if not (folder / JOB_FILE).exists():
        other = f"{folder}: holds no fine-tune to resume; name the folder of one"
        raise RunError(other if (folder / "config.json").exists() else nothing_to_resume(folder))
    job = read_job(folder / JOB_FILE)
    if job.method != method:
        raise RunError(f"{folder}: continue with: andon finetune {job.method} --resume {folder}")
    return job


def prepare_finetune(job: FinetuneJob, folder: Path) -> Prepare:
    """The setup of the run in `folder`: a new adapter, which changes no output yet, on a frozen base."""

    def prepare(config: "Config", device: str, say: "Say") -> RunSetup:
        import torch

        from andon.core.adapters.lora import add_lora
        from andon.core.training.allocator import keep_freed_memory
        from andon.core.training.loop import initial_state_of

        keep_freed_memory()
        model, tokenizer = load_base(job)
        generator = torch.Generator().manual_seed(config.training.seed)
        names = add_lora(model, getattr(config, job.method), generator, ADAPTER_NAME)
        dataset = open_data(job, config, tokenizer, folder)
        say(dataset.note)
        state = initial_state_of(model.to(device), config)
        counts = count_parameters(model, config)
        say(f"{job.method} on {job.base}: {len(names)} matrices adapted, {trained_share(counts)} are trained")
        write_job(job, folder / JOB_FILE)
        return RunSetup(
            state,
            dataset,
            verb=f"finetune {job.method}",
            base=str(job.base),
            on_finish=lambda: finetune_result(job, config, model, folder, counts, say),
        )

    return prepare
