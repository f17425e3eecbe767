"""Measure the demo's model: loss against an n-gram, and whether its samples are Python and not copied."""

from pathlib import Path
from typing import TYPE_CHECKING

from andon.runs.folder import CACHE
from andon.runs.models import load_any_model

if TYPE_CHECKING:
    import numpy as np

    from andon.core.config import Config
    from andon.core.data.dataset import Dataset, Split
    from andon.core.model.llama import Llama

SAMPLES, SAMPLE_TOKENS, TEMPERATURE, SAMPLE_SEED = 20, 128, 0.6, 0
ORDERS = {"bigram": 2, "trigram": 3}
# Units by a part of a metric's name.
UNITS = {
    "loss": "nats per token",
    "byte": "bits per byte",
    "share": "of the samples",
    "tokens": "tokens",
    "changed": "frozen models",
}


def unit(metric: str) -> str:
    """A metric's unit, by the first part of its name that has one."""
    return next((name for part, name in UNITS.items() if part in metric), "")


def measure(config: "Config", folder: Path, against: str) -> tuple[dict[str, float], list[str]]:
    """The metrics to judge, and the samples' texts.

    The losses of model and n-gram are over all validation text, on the same tokens.
    """
    from andon.core.data import dataset as data
    from andon.core.training.loop import validate
    from andon.demo import ngram, samples

    dataset = data.open_dataset(config, CACHE)
    model, tokenizer = load_any_model(folder)
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
