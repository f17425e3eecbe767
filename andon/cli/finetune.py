"""`andon finetune`: train an adapter on a frozen model, whole (LoRA) or in 4 bits (QLoRA)."""

import json
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from andon.log import of_kind, read_log
from andon.runs.launch import divided, launch, run_options
from andon.runs.models import ADAPTER, JOB, Job, load_base, newest, read_adapter, read_job, write_job
from andon.runs.run import CACHE, Beginning, RunError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from andon.core.config import Config
    from andon.core.data.dataset import Dataset
    from andon.core.model.llama import Llama
    from andon.runs.run import Begin
    from andon.runs.screen import Say

# Where a fine-tune differs from training from scratch; a TOML file named with --config stands instead.
DEFAULTS: dict[str, dict[str, Any]] = {
    "training": {"epochs": 3, "batch_size": 8, "learning_rate": 2e-4, "weight_decay": 0.0},
    "schedule": {"warmup_steps": 10},
}
FLAGS = ("rank", "alpha", "dropout")


class FinetuneError(ValueError):
    """A fine-tune that cannot begin; the message names the file or key and the next step."""


@click.group()
def command() -> None:
    """Train an adapter on a frozen model: LoRA, or QLoRA with the model in 4 bits."""


HELP = """{summary}

--data takes text, or JSONL with `prompt` and `completion`, or with `messages`: then only answers are learned. What
comes out is an adapter in PEFT's layout, and a run like any other.

Exit codes: those of `andon train`, and 1 where the frozen model is not what it was.
"""


def verb(method: str, summary: str, *examples: str) -> click.Command:
    """`andon finetune lora` or `andon finetune qlora`."""

    @click.option("--model", type=click.Path(path_type=Path), help="Run, checkpoint, Hugging Face directory or GGUF.")
    @click.option("--rank", type=int, help="Of the adapter's matrices.")
    @click.option("--alpha", type=float, help="The adapter counts alpha / rank; by default alpha is twice the rank.")
    @click.option("--dropout", type=float, help="Share of an adapter's inputs that a step leaves out.")
    @click.option("--target", "targets", multiple=True, help="Module to adapt, or all-linear; may be repeated.")
    @click.option("--chat-template", type=click.Path(path_type=Path), help="Jinja file instead of the model's own.")
    @click.option("--config", type=click.Path(path_type=Path), help="TOML file; its [model] gives way to --model's.")
    @run_options
    def start(model: Path | None, chat_template: Path | None, config: Path | None, **given: Any) -> None:
        from andon.core.config import load_config

        options, changes = divided(given)
        changes = [*adapter_changes(method, given), *changes]
        if options.resume:
            job = resumed(options.resume, method)
            resolved = load_config(options.resume / "config.json", changes)
        elif model and (given["data"] or config):
            resolved = configure(whole(model), config, changes)
            job = new_job(method, model, resolved, chat_template)
        else:
            raise click.UsageError("name --model and --data, or a run with --resume")
        launch(resolved, f"{method}-{job.base.stem}", options, lambda folder: beginning(job, folder))

    lines = "\n".join(f"  andon finetune {method} {example}" for example in examples)
    return click.command(method, help=HELP.format(summary=summary), epilog=f"\b\nExamples:\n{lines}")(start)


for each in (
    verb(
        "lora",
        "Train a low-rank adapter (LoRA) on a frozen model.",
        "--model reports/runs/notes --data questions.jsonl --rank 16 --alpha 32 --out reports/runs/lora",
        "--model my-model --data chats.jsonl --chat-template chat.jinja --target all-linear",
        "--resume reports/runs/lora",
    ),
    verb(
        "qlora",
        "Train a low-rank adapter on a frozen model that is kept in 4 bits (QLoRA).",
        "--model reports/runs/notes --data questions.jsonl --rank 64 --alpha 128 --out reports/runs/qlora",
        "--model smollm2.gguf --data 'notes/**/*.txt' --rank 8 --set qlora.double_quantization=false",
    ),
):
    command.add_command(each)


def adapter_changes(method: str, given: dict[str, Any]) -> list[str]:
    """Changes to the method's table, in the form of `--set`."""
    changes = [f"{method}.{key}={given[key]}" for key in FLAGS if given[key] is not None]
    targets = list(given["targets"])
    if targets:
        changes.append(f"{method}.target_modules={json.dumps(targets if targets != ['all-linear'] else targets[0])}")
    return changes


def configure(base: Path, toml: Path | None, changes: list[str]) -> "Config":
    """The run's configuration: a file's or the defaults, the changes, and the shape of the base.

    Raises:
        ConfigError, InterchangeError: as the file and the base are read.
        FinetuneError: a change of the shape, which is the base's.
    """
    from andon.core import config
    from andon.core.formats.interchange import load_model_config

    shape = load_model_config(base).model_dump()
    tables = config.read_tables(toml) if toml else deepcopy(DEFAULTS)
    for change in changes:
        config.apply_override(tables, change)
        if change.partition(".")[0].strip() == "model":
            raise FinetuneError(f"--set {change}: the shape is that of {base}; leave it out")
    if not toml:
        length = min(shape["max_position_embeddings"], config.DataConfig().sequence_length)
        tables.setdefault("data", {}).setdefault("sequence_length", length)
    return config.parse_config(tables | {"model": shape}, str(toml or "andon finetune"))


def whole(model: Path) -> Path:
    """Where the model lies that is to be frozen.

    Raises:
        FinetuneError: it is an adapter itself.
    """
    base = newest(model)
    if read_adapter(base):
        raise FinetuneError(f"{model}: is an adapter; make a full model of it first: andon merge --model {model}")
    return base


def new_job(method: str, model: Path, config: "Config", chat_template: Path | None = None) -> Job:
    """What a new run fine-tunes, in the dtype that it computes in: frozen weights need no finer one.

    Raises:
        FinetuneError: as `whole`.
        ChatError: the chat template cannot be read.
    """
    from andon.core.formats.chat_template import load_template

    base = whole(model)
    template = load_template(chat_template or base)
    return Job(method, base, config.training.dtype, config.qlora.double_quantization, template)


def resumed(folder: Path, method: str) -> Job:
    """What the run in a folder fine-tunes.

    Raises:
        RunError: there is no such run, or one of another verb.
    """
    if not (folder / JOB).exists():
        raise RunError(f"{folder}: holds no fine-tune to resume; name the folder of one")
    job = read_job(folder / JOB)
    if job.method != method:
        raise RunError(f"{folder}: go on with: andon finetune {job.method} --resume {folder}")
    return job


def beginning(job: Job, folder: Path) -> "Begin":
    """What the run in `folder` trains: an adapter that changes nothing yet, on a base that no step may change."""

    def begin(config: "Config", device: str, say: "Say") -> Beginning:
        import torch

        from andon.core.adapters.lora import add_lora
        from andon.core.training.allocator import keep_freed_memory
        from andon.core.training.loop import initial_state_of

        keep_freed_memory()
        model, tokenizer = load_base(job)
        generator = torch.Generator().manual_seed(config.training.seed)
        names = add_lora(model, getattr(config, job.method), generator, ADAPTER)
        dataset = open_data(job, config, tokenizer, folder)
        say(dataset.note)
        state = initial_state_of(model.to(device), config)
        sizes = count(model, config)
        say(f"{job.method} on {job.base}: {len(names)} matrices adapted, {share(sizes)} are trained")
        write_job(job, folder / JOB)
        return Beginning(
            state,
            dataset,
            verb=f"finetune {job.method}",
            base=str(job.base),
            closing=lambda: closing(job, config, model, folder, sizes, say),
        )

    return begin


def open_data(job: Job, config: "Config", tokenizer: "Tokenizer | None", folder: Path) -> "Dataset":
    """Instructions where the files hold them, otherwise plain text, in the base's tokens.

    Raises as `andon.core.data.instructions` and `andon.core.data.dataset` do, and:
        FinetuneError: the base has no tokenizer.
    """
    from andon.core.data.corpus import find_sources
    from andon.core.data.dataset import open_dataset
    from andon.core.data.instruction_records import has_instructions
    from andon.core.files.manifest import TOKENIZER

    if tokenizer is None:
        raise FinetuneError(f"{job.base}: has no tokenizer; put its tokenizer.json there")
    from andon.core.data import instructions

    sources = find_sources(config.data.paths)
    if not has_instructions(sources):
        return open_dataset(config, CACHE, tokenizer)
    file = folder / TOKENIZER
    dataset = instructions.open_instructions(config, sources, tokenizer, file, job.template)
    tokenizer.save(str(file))
    return dataset


def count(model: "Llama", config: "Config") -> dict[str, int]:
    """Parameters of the adapter, and of everything: a base in 4 bits counts as what it stands for."""
    from andon.core.adapters.lora import lora_parameters
    from andon.core.memory import sizes as arithmetic

    trained = sum(factor.numel() for factor in lora_parameters(model, ADAPTER).values())
    return {"trained": trained, "all": arithmetic.count_parameters(arithmetic.shape_of(config)).total + trained}


def share(sizes: dict[str, int]) -> str:
    """`1,179,648 of 163,597,056 parameters (0.72%)`."""
    return f"{sizes['trained']:,} of {sizes['all']:,} parameters ({sizes['trained'] / sizes['all']:.2%})"


def closing(
    job: Job, config: "Config", model: "Llama", folder: Path, sizes: dict[str, int], say: "Say"
) -> dict[str, Any]:
    """What `result.json` holds of a fine-tune; the run is red where the base is not what it was, to the bit."""
    from andon.core.adapters import lora

    settings = getattr(config, job.method)
    unchanged = lora.base_digest(model) == lora.lora_origin(model, ADAPTER).base
    losses = {record["step"]: record["loss"] for record in of_kind(read_log(folder), "validation")}
    finetune = {
        "method": job.method,
        "base": str(job.base),
        "rank": settings.rank,
        "alpha": settings.resolved_alpha,
        "trained_parameters": sizes["trained"],
        "all_parameters": sizes["all"],
        "loss_before": losses.get(0),
        "loss_after": losses[max(losses)] if max(losses, default=0) else None,
        "base_unchanged": unchanged,
    }
    if unchanged:
        return {"parameters": sizes["all"], "finetune": finetune}
    say(f"{folder}: the frozen model is no longer what it was: this adapter belongs to no model; report this as a bug")
    return {"parameters": sizes["all"], "finetune": finetune, "exit": 1}
