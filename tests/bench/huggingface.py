"""Hugging Face's Llama as its documentation trains it: sdpa, its own loss, no cache of keys and values."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.bench.inputs import fill, inputs_and_labels
from tests.bench.run import Run, plain_steps
from tests.bench.workload import Workload


def build(workload: Workload) -> Any:
    """The model with the bench's weights."""
    shape = {key: value for key, value in workload.model.items() if key != "rope_theta"}
    rope = {"rope_type": "default", "rope_theta": workload.model.get("rope_theta", 10000.0)}
    options: dict[str, Any] = {**shape, "rope_parameters": rope, "attn_implementation": "sdpa", "use_cache": False}
    config = LlamaConfig(**options)
    model = LlamaForCausalLM(config)
    fill(model.named_parameters())
    return model


def start(workload: Workload) -> Run:
    """The bench's weights and batch; `shift_labels` is its loss's own way to take labels that are already shifted."""
    model = build(workload).to(workload.device)
    callee = torch.compile(model) if workload.compile else model
    tokens, labels = inputs_and_labels(workload)
    return plain_steps(model, lambda: callee(input_ids=tokens, labels=labels, shift_labels=labels).loss, workload)
