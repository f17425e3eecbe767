"""Hugging Face's Llama with PEFT's LoRA, its matrices whole or in bitsandbytes' NF4, as their documentation has it."""

import bitsandbytes
from peft import LoraConfig, get_peft_model
from torch import nn

from tests.bench.huggingface import build
from tests.bench.inputs import fill, inputs_and_labels
from tests.bench.run import Run, plain_steps
from tests.bench.workload import Workload

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def start(workload: Workload) -> Run:
    """The bench's weights, adapter and batch."""
    model = build(workload)
    if workload.method == "qlora":
        _quantize(model)
    options = {"r": workload.rank, "lora_alpha": 2 * workload.rank, "target_modules": TARGETS, "lora_dropout": 0.0}
    adapted = get_peft_model(model, LoraConfig(**options, task_type="CAUSAL_LM"))
    fill(
        (name.removeprefix("base_model.model.").replace(".default.", "."), parameter)
        for name, parameter in adapted.named_parameters()
        if parameter.requires_grad
    )
    adapted.to(workload.device)
    tokens, labels = inputs_and_labels(workload)
    return plain_steps(adapted, lambda: adapted(input_ids=tokens, labels=labels, shift_labels=labels).loss, workload)


def _quantize(model: nn.Module) -> None:
    """Replace the blocks' matrices, doubly quantized, as loading with `load_in_4bit` does."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name.endswith("_proj"):
            options = {"compute_dtype": module.weight.dtype, "compress_statistics": True, "quant_type": "nf4"}
            small = bitsandbytes.nn.Linear4bit(module.in_features, module.out_features, bias=False, **options)
            small.weight = bitsandbytes.nn.Params4bit(
                module.weight.detach(), requires_grad=False, compress_statistics=True, quant_type="nf4", module=small
            )
            model.set_submodule(name, small.to(module.weight.device))
    vars(model)["is_loaded_in_4bit"] = True  # what PEFT asks for
