"""`andon finetune`: train an adapter on a frozen model, in full precision (LoRA) or in 4 bits (QLoRA)."""

import json
from pathlib import Path
from typing import Any

import click

from andon.runs.finetuning import configure, job_to_resume, new_job, prepare_finetune, require_full_model
from andon.runs.launch import run_and_exit, run_options, split_options

FLAGS = ("rank", "alpha", "dropout")


@click.group()
def command() -> None:
    """Train an adapter on a frozen model: LoRA, or QLoRA with the model in 4 bits."""


HELP = """{summary}

--data takes text, or JSONL with `prompt` and `completion`, or with `messages`: then only answers are learned. The
result is an adapter in PEFT's layout, and a run like any other.

Exit codes: those of `andon train`, and 1 if the frozen model has changed.
"""


def verb(method: str, summary: str, *examples: str) -> click.Command:
    """`andon finetune lora` or `andon finetune qlora`."""

    @click.option("--model", type=click.Path(path_type=Path), help="Run, checkpoint, Hugging Face directory or GGUF.")
    @click.option("--rank", type=int, help="Rank of the adapter's matrices.")
    @click.option("--alpha", type=float, help="The adapter is scaled by alpha / rank; by default twice the rank.")
    @click.option("--dropout", type=float, help="Fraction of an adapter's inputs that a step drops.")
    @click.option("--target", "targets", multiple=True, help="Module to adapt, or all-linear; may be repeated.")
    @click.option("--chat-template", type=click.Path(path_type=Path), help="Jinja file instead of the model's own.")
    @click.option("--config", type=click.Path(path_type=Path), help="TOML file; its [model] is replaced by --model's.")
    @run_options
    def start(model: Path | None, chat_template: Path | None, config: Path | None, **given: Any) -> None:
        from andon.core.config import load_config

        options, changes = split_options(given)
        changes = [*adapter_changes(method, given), *changes]
        if options.resume:
            job = job_to_resume(options.resume, method)
            resolved = load_config(options.resume / "config.json", changes)
        elif model and (given["data"] or config):
            resolved = configure(require_full_model(model), config, changes)
            job = new_job(method, model, resolved, chat_template)
        else:
            raise click.UsageError("name --model and --data, or a run with --resume")
        run_and_exit(resolved, f"{method}-{job.base.stem}", options, lambda folder: prepare_finetune(job, folder))

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
    """The adapter's options as overrides of the method's table, in the form of `--set`."""
    changes = [f"{method}.{key}={given[key]}" for key in FLAGS if given[key] is not None]
    targets = list(given["targets"])
    if targets:
        changes.append(f"{method}.target_modules={json.dumps(targets if targets != ['all-linear'] else targets[0])}")
    return changes
