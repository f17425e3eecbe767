"""LitGPT's GPT with a LLaMA configuration, and the loss of its own pretraining script."""

import re
from collections.abc import Iterator

from litgpt.config import Config
from litgpt.model import GPT
from litgpt.utils import chunked_cross_entropy
from torch import Tensor

from tests.bench.inputs import fill, inputs_and_labels
from tests.bench.run import Run, plain_steps
from tests.bench.workload import Workload

# LitGPT's names to Hugging Face's. Its query, key and value projections are one matrix, split before this is read.
NAMES = {
    r"transformer\.wte": "model.embed_tokens",
    r"transformer\.ln_f": "model.norm",
    r"transformer\.h": "model.layers",
    r"norm_1": "input_layernorm",
    r"norm_2": "post_attention_layernorm",
    r"attn\.proj": "self_attn.o_proj",
    r"mlp\.fc_1": "mlp.gate_proj",
    r"mlp\.fc_2": "mlp.up_proj",
    r"mlp\.proj": "mlp.down_proj",
}


def start(workload: Workload) -> Run:
    """The bench's weights and batch."""
    shape = workload.model
    model = GPT(
        Config(
            name="llama",
            block_size=workload.length,
            padded_vocab_size=shape["vocab_size"],
            n_layer=shape["num_hidden_layers"],
            n_head=shape["num_attention_heads"],
            n_query_groups=shape["num_key_value_heads"],
            n_embd=shape["hidden_size"],
            intermediate_size=shape["intermediate_size"],
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            norm_eps=shape.get("rms_norm_eps", 1e-5),
            mlp_class_name="LLaMAMLP",
            rope_base=int(shape.get("rope_theta", 10000)),
        )
    )
    fill(_named_as_hugging_face(model))
    tokens, labels = inputs_and_labels(workload)
    return plain_steps(model, lambda: chunked_cross_entropy(model(tokens), labels), workload)


def _named_as_hugging_face(model: GPT) -> Iterator[tuple[str, Tensor]]:
    """Every parameter under Hugging Face's name; the parts of a joint projection are views of it."""
    size = model.config.head_size
    heads, keys = model.config.n_head * size, model.config.n_query_groups * size
    for own_name, parameter in model.named_parameters():
        name = own_name
        for theirs, hugging_face in NAMES.items():
            name = re.sub(theirs, hugging_face, name)
        if "attn.qkv" not in name:
            yield name, parameter
            continue
        for letter, part in zip("qkv", parameter.detach().split([heads, keys, keys]), strict=True):
            yield name.replace("attn.qkv", f"self_attn.{letter}_proj"), part
