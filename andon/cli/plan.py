"""`andon plan`: parameters and bytes of a configuration, by arithmetic alone. Imports no torch."""

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from andon.core.config import Config

GB, GIB = 10**9, 2**30
UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": GB, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": GIB, "TiB": 2**40}
PARTS = ("weights", "gradients", "optimizer", "activations", "head", "other")
METHODS = {
    "full": "full fine-tuning",
    "lora": "LoRA of rank {rank}",
    "qlora": "QLoRA of rank {rank} on an NF4 base",
}
EXAMPLES = """\b
Examples:
  andon plan configs/124m.toml
  andon plan configs/7b.toml --memory 141GB
  andon plan configs/1b.toml --memory 80GiB --set data.sequence_length=1024 --json
  andon plan configs/124m.toml --method lora --set lora.rank=32
  andon plan configs/7b.toml --method qlora --set data.sequence_length=512 --memory 8GB
"""


def plan(config: "Config", method: str, memory: int | None) -> dict[str, Any]:
    """Everything that is printed, as plain data; all sizes in bytes.

    `bytes` is the maximum of each part; `peak` is the snapshot with the largest total.

    Raises:
        LoraError: the adapter that the configuration describes does not fit the model.
    """
    from andon.core.memory import adapter_sizes as adapters
    from andon.core.memory import sizes

    shape, step = sizes.shape_of(config), sizes.step_of(config)
    snapshots_at = adapters.snapshots_for(config, method)
    snapshots = snapshots_at(step)
    parameters = sizes.count_parameters(shape)._asdict()
    tuning = None if method == "full" else adapters.adapter_shape_of(config, method)
    return {
        "method": method,
        "rank": None if method == "full" else getattr(config, method).rank,
        "rows": step.rows,
        "sequence_length": step.length,
        "dtype": config.training.dtype,
        "activation_checkpointing": step.checkpointing,
        "accumulation_steps": config.training.accumulation_steps,
        "parameters": parameters,
        "trainable": adapters.trainable_parameters(shape, tuning) if tuning else parameters["total"],
        "bytes": {part: max(getattr(snapshot, part) for snapshot in snapshots) for part in PARTS},
        "peak": max(snapshots, key=lambda snapshot: snapshot.total)._asdict(),
        "snapshots": [snapshot._asdict() for snapshot in snapshots],
        "memory": memory,
        "largest_rows": None if memory is None else sizes.largest_micro_batch(snapshots_at, step, memory),
    }


def render(path: Path, found: dict[str, Any]) -> str:
    """The plan as text of at most 100 columns."""
    peak, parameters = found["peak"], found["parameters"]
    checkpointing = ", activation checkpointing" if found["activation_checkpointing"] else ""
    method = METHODS[found["method"]].format(rank=found["rank"])
    lines = [
        f"{path}: {method}, {found['dtype']}{checkpointing}",
        f"micro-batch of {found['rows']} x {found['sequence_length']} tokens, {found['accumulation_steps']} per step",
        "",
        f"{'parameters':<12}{'number':>18}",
        *(f"  {part:<10}{number:>18,}" for part, number in parameters.items()),
        f"  {'trainable':<10}{found['trainable']:>18,}{found['trainable'] / parameters['total']:>10.2%}",
        "",
        f"{'memory':<14}{'bytes, at most':>20}{'GB':>12}{'GiB':>12}{'at the peak, GB':>20}",
        *(f"  {part:<12}{_sizes(found['bytes'][part])}{peak[part] / GB:>20.3f}" for part in PARTS),
        f"  {'peak':<12}{_sizes(peak['total'])}{peak['total'] / GB:>20.3f}",
        f"The peak is at: {peak['when']}.",
    ]
    if found["memory"] is not None:
        lines.append(_verdict(found))
    return "\n".join(lines)


def _sizes(size: int) -> str:
    return f"{size:>20,}{size / GB:>12.3f}{size / GIB:>12.3f}"


def _verdict(found: dict[str, Any]) -> str:
    rows, size = found["largest_rows"], f"{found['memory'] / GB:.3f} GB ({found['memory'] / GIB:.3f} GiB)"
    if rows:
        return f"{size}: micro-batches of up to {rows} x {found['sequence_length']} tokens fit."
    remedy = "a smaller model or a smaller data.sequence_length"
    if not found["activation_checkpointing"]:
        remedy = f"--set training.activation_checkpointing=true,\n{remedy}"
    return f"{size}: not even one row of {found['sequence_length']} tokens fits. Try {remedy}."


def parse_memory(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """Bytes of "24GB", "80GiB" or "1.5 TB"; None for None.

    Raises:
        click.BadParameter: no positive number followed by a unit.
    """
    del context, parameter
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", text.strip(), re.ASCII)
    if not match or match[2] not in UNITS or not Fraction(match[1]):
        raise click.BadParameter(
            f"{text!r} is not a size: write a positive number and one of {', '.join(UNITS)}, for example 24GB"
        )
    return int(Fraction(match[1]) * UNITS[match[2]])


@click.command(epilog=EXAMPLES)
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--method", type=click.Choice(tuple(METHODS)), default="full", help="What is trained; full by default.")
@click.option("--memory", callback=parse_memory, metavar="SIZE", help="Say how many rows fit: 24GB, 80GiB, 512MB.")
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Override a key of CONFIG.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, all sizes in bytes.")
def command(config: Path, method: str, memory: int | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Count the parameters of CONFIG and the bytes of one step, before paying for them.

    LoRA and QLoRA are those of CONFIG's [lora] and [qlora], on a frozen base in training.dtype.

    Parameters, weights, gradients and optimizer are exact; the peak is that of live tensors, from the second step on,
    for packed rows and without torch.compile. Leave room for kernels, the allocator and the process itself.
    """
    from andon.core.config import load_config

    loaded = load_config(config, list(overrides))
    found = plan(loaded, method, memory)
    click.echo(json.dumps(found, indent=2) if as_json else render(config, found))
