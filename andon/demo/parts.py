"""The demo's parts: training from scratch, and a LoRA and a QLoRA fine-tune of the trained model."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from andon.demo.measure import SAMPLE_TOKENS, SAMPLES, measure, unit
from andon.reading import read_bytes
from andon.runs import run
from andon.runs.finetuning import new_job, prepare_finetune
from andon.runs.folder import RUNS, new_folder, write_result
from andon.runs.launch import summary
from andon.runs.models import resolve_checkpoint
from andon.runs.tracer import command_line
from andon.sealing import unseal

if TYPE_CHECKING:
    from andon.core.config import Config
    from andon.gates import Check, Gates, Verdict

SHOWN_SAMPLES = 2
EVIDENCE = {"bigram": "demo", "trigram": "learn"}  # by the n-gram to beat; also the name of the tier that judges it
FINETUNES = ("lora", "qlora")
PARTS = {"all": ("train", *FINETUNES), "train": ("train",), "lora": ("lora",), "qlora": ("qlora",)}
# A fine-tune of ten seconds; its adapter is the configuration's.
SHORT: dict[str, dict[str, Any]] = {
    "training": {"max_steps": 60, "batch_size": 4, "learning_rate": 4e-3, "weight_decay": 0.0},
    "schedule": {"warmup_steps": 5, "min_ratio": 0.1},
}


class Demo(NamedTuple):
    """What all parts of a demo share."""

    config: "Config"
    gates: "Gates"
    sources: dict[str, str]
    begun: float
    quiet: bool

    def say(self, text: str) -> None:
        """Print, unless quiet."""
        if not self.quiet:
            click.echo(text)

    def run(self, config: "Config", folder: Path, prepare: run.Prepare = run.from_scratch) -> dict[str, Any]:
        """Run in a folder; one that stops before its end ends the demo."""
        result = run.run(config, folder, prepare=prepare, quiet=self.quiet, say=self.say)
        if result["exit"] > 1:  # 1: a frozen model changed, which is judged
            sys.exit(result["exit"])
        return result

    def judge(self, name: str, figures: dict[str, float]) -> "list[Check]":
        """Write metrics as evidence and judge them by the tier of that name."""
        from andon import gates

        metrics = {key: gates.Metric(value, unit(key)) for key, value in figures.items()}
        gates.write_evidence(gates.Evidence(name, command_line(), time.monotonic() - self.begun, self.sources, metrics))
        return list(gates.judge(name, self.gates).checks)


def run_parts(demo: Demo, part: str, against: str, out: Path | None) -> "tuple[Path, Verdict]":
    """Run the parts, and write their result; returns the run's folder and the verdict."""
    from andon import gates

    name = EVIDENCE[against]
    base = None if "train" in PARTS[part] else newest_demo()
    folder = out or new_folder(name if base is None else f"{part}-{name}")
    checks = train(demo, folder, name, against) if base is None else []
    finetunes = []
    for method in (method for method in FINETUNES if method in PARTS[part]):
        result, found = finetune(demo, method, base or folder, folder if base else folder / method)
        finetunes.append(result)
        checks += found
    result = unseal(read_bytes(folder / "result.json"))
    write_result(folder, result | {"finetunes": finetunes})
    return folder, gates.Verdict(name, tuple(checks))


def newest_demo() -> Path | None:
    """The folder of the newest demo that trained a model to its end."""
    ended = (path.parent for path in RUNS.glob("demo-*/result.json") if (path.parent / "checkpoints").is_dir())
    return max(ended, key=lambda folder: folder.name, default=None)


def train(demo: Demo, folder: Path, name: str, against: str) -> "list[Check]":
    """Train, sample, measure; returns the checks of the tier `name`."""
    result = demo.run(demo.config, folder)
    demo.say(f"judging: {SAMPLES} samples of {SAMPLE_TOKENS} tokens, all validation text, a Kneser-Ney {against}")
    figures, texts = measure(demo.config, folder, against)
    for text in texts[:SHOWN_SAMPLES]:
        demo.say(f"\n{' sample ':-^80}\n{text}")
    demo.say("-" * 80)
    baselines = {f"Kneser-Ney {against}": figures[f"{against}_loss"]}
    on_all_text = {key: figures[key] for key in ("validation_loss", "bits_per_byte")}
    write_result(folder, result | on_all_text | {"baselines": baselines, "samples": texts})
    return demo.judge(name, figures)


def finetune(demo: Demo, method: str, base: Path, folder: Path) -> "tuple[dict[str, Any], list[Check]]":
    """Fine-tune the model in `base` on English text, which is new to it; returns the result and its tier's checks."""
    from andon.core.config import parse_config
    from andon.core.formats.interchange import load_model_config

    text = write_english(base / "english.jsonl")
    demo.say(f"{method}: an adapter of {base} on the help texts of Python's pydoc")
    model = load_model_config(resolve_checkpoint(base)).model_dump()
    data = {"paths": [str(text)], "sequence_length": demo.config.data.sequence_length}
    tables = demo.config.model_dump(include={"lora", "qlora"}) | SHORT | {"model": model, "data": data}
    config = parse_config(tables, "the demo's fine-tune")
    result = demo.run(config, folder, prepare_finetune(new_job(method, base, config), folder))
    demo.say(summary(result, folder))
    tuned = result["finetune"]
    figures = {
        "loss_before": tuned["loss_before"],
        "loss_after": tuned["loss_after"],
        "loss_after_minus_before": tuned["loss_after"] - tuned["loss_before"],
        "changed": float(not tuned["base_unchanged"]),
    }
    return result, demo.judge(f"demo_{method}", figures)


def write_english(path: Path) -> Path:
    """Write the help texts that Python ships, one per line: English prose, and no part of the demo's corpus."""
    from pydoc_data.topics import topics

    path.write_text("".join(json.dumps({"text": topics[name]}) + "\n" for name in sorted(topics)), encoding="utf-8")
    return path
