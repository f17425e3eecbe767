"""`andon demo`: train on real text, sample, judge against counting, fine-tune on other text, and write the report."""

import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from andon.report.page import render_report
from andon.runs import run
from andon.runs.launch import summary
from andon.runs.models import load, newest

if TYPE_CHECKING:
    import numpy as np

    from andon.core.config import Config
    from andon.core.data.dataset import Dataset, Split
    from andon.core.model.llama import Llama

SAMPLES, SAMPLE_TOKENS, TEMPERATURE, SAMPLE_SEED = 20, 128, 0.6, 0
SHOWN = 2
ORDERS = {"bigram": 2, "trigram": 3}
EVIDENCE = {"bigram": "demo", "trigram": "learn"}  # also the name of the tier that judges it
SOURCES = ("andon", "configs", "core", "verify")
UNITS = {
    "loss": "nats per token",
    "byte": "bits per byte",
    "share": "of the samples",
    "tokens": "tokens",
    "changed": "frozen models",
}
TUNED = ("lora", "qlora")
PARTS = {"all": ("train", *TUNED), "train": ("train",), "lora": ("lora",), "qlora": ("qlora",)}
# A fine-tune of ten seconds; its adapter is the configuration's.
SHORT: dict[str, dict[str, Any]] = {
    "training": {"max_steps": 60, "batch_size": 4, "learning_rate": 4e-3, "weight_decay": 0.0},
    "schedule": {"warmup_steps": 5, "min_ratio": 0.1},
}


class Demo(NamedTuple):
    """What all parts of a demo share."""

    config: "Config"
    rules: Any
    sources: dict[str, str]
    begun: float
    quiet: bool

    def say(self, text: str) -> None:
        """Print, unless asked not to."""
        if not self.quiet:
            click.echo(text)

    def run(self, config: "Config", folder: Path, begin: run.Begin = run.from_scratch) -> dict[str, Any]:
        """Run in a folder; one that stops before its end ends the demo."""
        result = run.run(config, folder, begin=begin, quiet=self.quiet, say=self.say)
        if result["exit"] > 1:  # 1: a frozen model changed, which is judged
            sys.exit(result["exit"])
        return result

    def judge(self, name: str, figures: dict[str, float]) -> list[Any]:
        """Leave figures as evidence and judge them by the tier of that name."""
        from andon import gates

        metrics = {key: gates.Metric(value, unit(key)) for key, value in figures.items()}
        command_line = shlex.join(["andon", *sys.argv[1:]])
        gates.write_evidence(gates.Evidence(name, command_line, time.monotonic() - self.begun, self.sources, metrics))
        return list(gates.judge(name, self.rules).checks)


@click.command(
    epilog="""\b
Examples:
  andon demo
  andon demo --part lora
  andon demo configs/tiny.toml --set training.max_steps=100
  andon demo configs/small.toml --against trigram --part train
"""
)
@click.argument("config", type=click.Path(path_type=Path), default=Path("configs/tiny.toml"))
@click.option("--against", type=click.Choice(list(ORDERS)), default="bigram", show_default=True, help="What to beat.")
@click.option("--part", type=click.Choice(list(PARTS)), default="all", show_default=True, help="Do this alone.")
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder, by default reports/runs/<id>.")
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Change a key; may be repeated.")
@click.option("-q", "--quiet", is_flag=True, help="Print the verdict, no more.")
def command(
    config: Path, against: str, part: str, out: Path | None, overrides: tuple[str, ...], *, quiet: bool
) -> None:
    """Train a small LLaMA on the standard library's sources, then adapters of it on English; judge; write a report.

    A fine-tune alone takes the newest demo's model, and trains one where there is none. Exit codes: 0 it has learned,
    1 it has not, 3 not measured, and those of `andon train`.
    """
    from andon.core.config import load_config
    from andon.gates.report.history import append

    begun = time.monotonic()
    from andon import gates
    from andon.gates import evidence

    name = EVIDENCE[against]
    resolved = load_config(config, list(overrides))
    rules, digests = gates.load_gates(), evidence.digests([*SOURCES, str(config)])
    demo = Demo(resolved, rules, digests, begun, quiet)
    base = None if "train" in PARTS[part] else newest_demo()
    folder = out or run.new_folder(name if base is None else f"{part}-{name}")
    checks = train(demo, folder, name, against) if base is None else []
    tuned = []
    for method in (method for method in TUNED if method in PARTS[part]):
        result, found = tune(demo, method, base or folder, folder if base else folder / method)
        tuned.append(result)
        checks += found
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    run.write_result(folder, result | {"finetunes": tuned})
    verdict = gates.Verdict(name, tuple(checks))
    append(verdict)
    report = render_report(folder, json.loads(gates.render_json(verdict)))
    click.echo(gates.render_text(verdict, quiet=quiet), nl=False)
    click.echo(f"{time.monotonic() - begun:.0f} s in all. The report: {report}")
    click.echo(f"The same run in Jaeger: andon trace replay {folder} --otlp http://localhost:4318")
    sys.exit(verdict.exit_code)


def newest_demo() -> Path | None:
    """The folder of the newest demo that trained a model to its end."""
    whole = (path.parent for path in run.RUNS.glob("demo-*/result.json") if (path.parent / "checkpoints").is_dir())
    return max(whole, key=lambda folder: folder.name, default=None)


def train(demo: Demo, folder: Path, name: str, against: str) -> list[Any]:
    """Train, sample, measure; returns the checks of the tier `name`."""
    result = demo.run(demo.config, folder)
    demo.say(f"judging: {SAMPLES} samples of {SAMPLE_TOKENS} tokens, all validation text, a Kneser-Ney {against}")
    figures, texts = measure(demo.config, folder, against)
    for text in texts[:SHOWN]:
        demo.say(f"\n{' sample ':-^80}\n{text}")
    demo.say("-" * 80)
    baselines = {f"Kneser-Ney {against}": figures[f"{against}_loss"]}
    whole = {key: figures[key] for key in ("validation_loss", "bits_per_byte")}  # over all validation text
    run.write_result(folder, result | whole | {"baselines": baselines, "samples": texts})
    return demo.judge(name, figures)


def tune(demo: Demo, method: str, base: Path, folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """Fine-tune the model in `base` on English, a text it has not seen; returns the result and its tier's checks."""
    from andon.cli.finetune import beginning, new_job
    from andon.core.config import parse_config
    from andon.core.formats.interchange import load_model_config

    text = english(base / "english.jsonl")
    demo.say(f"{method}: an adapter of {base} on the help texts of Python's pydoc")
    shape = load_model_config(newest(base)).model_dump()
    data = {"paths": [str(text)], "sequence_length": demo.config.data.sequence_length}
    tables = demo.config.model_dump(include={"lora", "qlora"}) | SHORT | {"model": shape, "data": data}
    config = parse_config(tables, "the demo's fine-tune")
    result = demo.run(config, folder, beginning(new_job(method, base, config), folder))
    demo.say(summary(result, folder))
    tuned = result["finetune"]
    figures = {
        "loss_before": tuned["loss_before"],
        "loss_after": tuned["loss_after"],
        "loss_after_minus_before": tuned["loss_after"] - tuned["loss_before"],
        "changed": float(not tuned["base_unchanged"]),
    }
    return result, demo.judge(f"demo_{method}", figures)


def english(path: Path) -> Path:
    """The help texts that Python ships, a line each: English prose, and no part of the corpus before."""
    from pydoc_data.topics import topics

    path.write_text("".join(json.dumps({"text": topics[name]}) + "\n" for name in sorted(topics)), encoding="utf-8")
    return path


def unit(metric: str) -> str:
    """A metric's unit, by the last part of its name that has one."""
    return next((name for part, name in UNITS.items() if part in metric), "")


def measure(config: "Config", folder: Path, against: str) -> tuple[dict[str, float], list[str]]:
    """The figures to judge, and the samples' text.

    Loss and n-gram are taken over all validation text, and predict the same tokens.
    """
    from andon.core.data import dataset as data
    from andon.core.training.loop import validate
    from andon.demo import ngram, samples

    dataset = data.open_dataset(config, run.CACHE)
    model, tokenizer = load(folder)
    assert tokenizer is not None, "a checkpoint has its run's tokenizer"
    everything = config.model_copy(update={"validation": config.validation.model_copy(update={"max_sequences": 0})})
    loss, _ = validate(model, data.validation_batches(dataset, everything), config.training.dtype)
    corpus = tokens_of(dataset.train)
    counts = ngram.fit(*corpus, config.model.vocab_size, ORDERS[against])
    baseline = float(ngram.nats(counts, *tokens_of(dataset.validation)).mean())
    rows = sample(model, dataset)
    texts = [
        tokenizer.decode([token for token in row.tolist() if token != dataset.eos_id], skip_special_tokens=False)
        for row in rows
    ]
    return {
        "validation_loss": loss,
        f"{against}_loss": baseline,
        f"validation_loss_minus_{against}": loss - baseline,
        "bits_per_byte": dataset.validation.bits_per_byte(loss),
        f"{against}_bits_per_byte": dataset.validation.bits_per_byte(baseline),
        "samples_tokenizing_share": sum(map(samples.tokenizes, texts)) / len(texts),
        "longest_copied_run_tokens": max(samples.longest_copied_run(row, corpus[0]) for row in rows),
    }, texts


def tokens_of(split: "Split") -> "tuple[np.ndarray, np.ndarray]":
    """All tokens of a split, and the document of each."""
    import numpy as np

    return split.read(np.arange(split.tokens))


def sample(model: "Llama", dataset: "Dataset") -> "np.ndarray":
    """SAMPLES rows of SAMPLE_TOKENS new tokens, each from the start of a document."""
    import torch

    from andon.core.model.generate import generate

    prompt_BT = torch.full((SAMPLES, 1), dataset.eos_id)
    generator = torch.Generator().manual_seed(SAMPLE_SEED)
    steps = generate(model, prompt_BT, SAMPLE_TOKENS, temperature=TEMPERATURE, generator=generator)
    return torch.stack(list(steps), dim=1).numpy()
