"""`andon demo`: train on real text, sample, judge against counting, and write the report."""

import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from andon import run
from andon.rooms import room

if TYPE_CHECKING:
    import numpy as np

    from core.config import Config
    from core.data import Dataset, Split
    from core.model import Llama

SAMPLES, SAMPLE_TOKENS, TEMPERATURE, SAMPLE_SEED = 20, 128, 0.6, 0
SHOWN = 3
ORDERS = {"bigram": 2, "trigram": 3}
EVIDENCE = {"bigram": "demo", "trigram": "learn"}  # also the name of the tier that judges it


@click.command(
    epilog="""\b
Examples:
  andon demo
  andon demo configs/tiny.toml --set training.max_steps=100
  andon demo configs/small.toml --against trigram
"""
)
@click.argument("config", type=click.Path(path_type=Path), default=Path("configs/tiny.toml"))
@click.option("--against", type=click.Choice(list(ORDERS)), default="bigram", show_default=True, help="What to beat.")
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder, by default reports/runs/<id>.")
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Change a key; may be repeated.")
@click.option("-q", "--quiet", is_flag=True, help="Print the verdict, no more.")
def command(config: Path, against: str, out: Path | None, overrides: tuple[str, ...], *, quiet: bool) -> None:
    """Train a small LLaMA on the standard library's sources, traced; sample from it; judge it; write a report.

    Exit codes: 0 it has learned, 1 it has not, 3 not measured.
    """
    begun = time.monotonic()
    gates, name = room("gates"), EVIDENCE[against]
    say = (lambda text: None) if quiet else click.echo
    resolved = room("core.config").load_config(config, list(overrides))
    rules = gates.load_gates(Path("configs/gates.toml"))
    folder = out or run.RUNS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    result = run.run(resolved, folder, quiet=quiet, say=say)
    if result["exit"]:
        sys.exit(result["exit"])
    judged, samples = _measure(resolved, folder, against)
    for text in samples[:SHOWN]:
        say(f"\n--- sample {'-' * 60}\n{text}")
    say("")
    baseline = judged[f"{against}_loss"]
    run.write_result(folder, result | {"baselines": {f"Kneser-Ney {against}": baseline}, "samples": samples})
    sources = ["core", "verify", "andon", "configs", str(config)]
    digests = room("gates.evidence").digests(sources)
    metrics = {key: gates.Metric(value, UNITS.get(key, "")) for key, value in judged.items()}
    evidence = room("gates.evidence").Evidence(
        name, f"andon {name}" if name == "demo" else f"andon demo --against {against}",
        time.monotonic() - begun, digests, metrics,
    )
    gates.write_evidence(evidence)
    verdict = gates.judge(name, rules)
    report = room_report(folder, verdict)
    click.echo(gates.render_text(verdict, quiet=quiet), nl=False)
    click.echo(f"{time.monotonic() - begun:.0f} s in all. The report: {report}")
    click.echo(f"See it in Jaeger: andon trace replay {folder} --otlp http://localhost:4318")
    sys.exit(verdict.exit_code)


UNITS = {"validation_loss": "nats a token", "bits_per_byte": "bits", "longest_copied_run_tokens": "tokens"}


def room_report(folder: Path, verdict: Any) -> Path:
    import json

    from andon.report import render_report

    return render_report(folder, json.loads(room("gates").render_json(verdict)))


def _measure(config: "Config", folder: Path, against: str) -> tuple[dict[str, float | None], list[str]]:
    """The judged figures, and the samples' text."""
    import numpy as np

    data, ngram, samples = room("core.data"), room("verify.ngram"), room("verify.samples")
    dataset = data.open_dataset(config, run.CACHE)
    checkpoint = room("core.folders").latest_checkpoint(folder / "checkpoints")
    model, tokeniser = room("core.interchange").load_model(checkpoint)
    held_out = data.validation_batches(dataset, config.model_copy(update={"validation": _all_of(config)}))
    loss, _ = room("core.train").validate(model, held_out, config.training.dtype)
    train, validation = (_tokens(split) for split in (dataset.train, dataset.validation))
    counted = ngram.fit(*train, config.model.vocab_size, ORDERS[against])
    baseline = float(ngram.nats(counted, *validation).mean())
    drawn = _sample(model, dataset)
    texts = [tokeniser.decode([t for t in row if t != dataset.end], skip_special_tokens=False) for row in drawn.tolist()]
    bits = dataset.validation.tokens / (dataset.validation.bytes * math.log(2))
    return {
        "validation_loss": loss,
        f"{against}_loss": baseline,
        f"validation_loss_minus_{against}": loss - baseline,
        "bits_per_byte": loss * bits,
        f"{against}_bits_per_byte": baseline * bits,
        "samples_tokenising_share": sum(map(samples.tokenises, texts)) / len(texts),
        "longest_copied_run_tokens": max(samples.longest_copied_run(np.array(row), train[0]) for row in drawn),
    }, texts


def _all_of(config: "Config") -> Any:
    return config.validation.model_copy(update={"max_sequences": 0})


def _tokens(split: "Split") -> "tuple[np.ndarray, np.ndarray]":
    import numpy as np

    return split.read(np.arange(split.tokens))


def _sample(model: "Llama", dataset: "Dataset") -> "np.ndarray":
    import torch

    prompt_BT = torch.full((SAMPLES, 1), dataset.end)
    generator = torch.Generator().manual_seed(SAMPLE_SEED)
    steps = room("core.generate").generate(
        model, prompt_BT, SAMPLE_TOKENS, temperature=TEMPERATURE, generator=generator
    )
    return torch.stack(list(steps), dim=1).numpy()
