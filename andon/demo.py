"""`andon demo`: train on real text, sample, judge against counting, and write the report."""

import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from andon import run
from andon.report import render_report
from andon.rooms import room

if TYPE_CHECKING:
    import numpy as np

    from core.config import Config
    from core.data import Dataset, Split
    from core.model import Llama

SAMPLES, SAMPLE_TOKENS, TEMPERATURE, SAMPLE_SEED = 20, 128, 0.6, 0
SHOWN = 2
ORDERS = {"bigram": 2, "trigram": 3}
EVIDENCE = {"bigram": "demo", "trigram": "learn"}  # also the name of the tier that judges it
SOURCES = ("andon", "configs", "core", "verify")
UNITS = {
    "loss": "nats a token",
    "byte": "bits a byte",
    "share": "of the samples",
    "tokens": "tokens",
}


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

    Exit codes: 0 it has learned, 1 it has not, 3 not measured, and those of `andon train`.
    """
    begun = time.monotonic()
    gates, evidence, name = room("gates"), room("gates.evidence"), EVIDENCE[against]
    say = (lambda text: None) if quiet else click.echo
    resolved = room("core.config").load_config(config, list(overrides))
    rules, digests = gates.load_gates(Path("configs/gates.toml")), evidence.digests([*SOURCES, str(config)])
    folder = out or run.new_folder(name)
    result = run.run(resolved, folder, quiet=quiet, say=say)
    if result["exit"]:
        sys.exit(result["exit"])
    say(f"judging: {SAMPLES} samples of {SAMPLE_TOKENS} tokens, all validation text, a Kneser-Ney {against}")
    figures, texts = measure(resolved, folder, against)
    for text in texts[:SHOWN]:
        say(f"\n{' sample ':-^80}\n{text}")
    say("-" * 80)
    baselines = {f"Kneser-Ney {against}": figures[f"{against}_loss"]}
    whole = {key: figures[key] for key in ("validation_loss", "bits_per_byte")}  # over all validation text
    run.write_result(folder, result | whole | {"baselines": baselines, "samples": texts})
    metrics = {key: gates.Metric(value, unit(key)) for key, value in figures.items()}
    command_line = shlex.join(["andon", *sys.argv[1:]])
    gates.write_evidence(evidence.Evidence(name, command_line, time.monotonic() - begun, digests, metrics))
    verdict = gates.judge(name, rules)
    report = render_report(folder, json.loads(gates.render_json(verdict)))
    click.echo(gates.render_text(verdict, quiet=quiet), nl=False)
    click.echo(f"{time.monotonic() - begun:.0f} s in all. The report: {report}")
    click.echo(f"The same run in Jaeger: andon trace replay {folder} --otlp http://localhost:4318")
    sys.exit(verdict.exit_code)


def unit(metric: str) -> str:
    """A metric's unit, by the last part of its name that has one."""
    return next((name for part, name in UNITS.items() if part in metric), "")


def measure(config: "Config", folder: Path, against: str) -> tuple[dict[str, float], list[str]]:
    """The figures to judge, and the samples' text.

    Loss and n-gram are taken over all validation text, and predict the same tokens.
    """
    data, ngram, samples = room("core.data"), room("verify.ngram"), room("verify.samples")
    dataset = data.open_dataset(config, run.CACHE)
    newest = room("core.folders").latest_checkpoint(folder / "checkpoints")
    model, tokeniser = room("core.interchange").load_model(newest)
    everything = config.model_copy(update={"validation": config.validation.model_copy(update={"max_sequences": 0})})
    loss, _ = room("core.train").validate(model, data.validation_batches(dataset, everything), config.training.dtype)
    corpus = tokens_of(dataset.train)
    counts = ngram.fit(*corpus, config.model.vocab_size, ORDERS[against])
    baseline = float(ngram.nats(counts, *tokens_of(dataset.validation)).mean())
    rows = sample(model, dataset)
    texts = [
        tokeniser.decode([token for token in row.tolist() if token != dataset.end], skip_special_tokens=False)
        for row in rows
    ]
    return {
        "validation_loss": loss,
        f"{against}_loss": baseline,
        f"validation_loss_minus_{against}": loss - baseline,
        "bits_per_byte": dataset.validation.bits_per_byte(loss),
        f"{against}_bits_per_byte": dataset.validation.bits_per_byte(baseline),
        "samples_tokenising_share": sum(map(samples.tokenises, texts)) / len(texts),
        "longest_copied_run_tokens": max(samples.longest_copied_run(row, corpus[0]) for row in rows),
    }, texts


def tokens_of(split: "Split") -> "tuple[np.ndarray, np.ndarray]":
    """All tokens of a split, and the document of each."""
    import numpy as np

    return split.read(np.arange(split.tokens))


def sample(model: "Llama", dataset: "Dataset") -> "np.ndarray":
    """SAMPLES rows of SAMPLE_TOKENS new tokens, each from the start of a document."""
    import torch

    prompt_BT = torch.full((SAMPLES, 1), dataset.end)
    generator = torch.Generator().manual_seed(SAMPLE_SEED)
    steps = room("core.generate").generate(
        model, prompt_BT, SAMPLE_TOKENS, temperature=TEMPERATURE, generator=generator
    )
    return torch.stack(list(steps), dim=1).numpy()
