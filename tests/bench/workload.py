"""The work that every implementation is given: one shape, one batch, one set of optimizer settings. No torch here."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self


@dataclass(frozen=True)
class Workload:
    """A training step of `rows` x `length` tokens; `model` holds the keys of Hugging Face's `config.json`."""

    model: dict[str, Any]
    rows: int = 2
    length: int = 256
    learning_rate: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip: float = 1.0
    threads: int = 2
    device: str = "cpu"
    dtype: str = "float32"  # of matrix products; "bfloat16" is autocast over float32 weights
    compile: bool = False
    method: str = "full"  # "lora": adapters of `rank` on q, k, v and o; "qlora": the same, on an NF4 base
    rank: int = 16
    checkpointing: bool = False  # compute activations again in the backward pass

    @property
    def tokens(self) -> int:
        """Tokens of a step; each is counted in the loss."""
        return self.rows * self.length

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.model["hidden_size"] // self.model["num_attention_heads"]

    def to_json(self) -> str:
        """The text that `from_json` reads, for a process of its own."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        return cls(**json.loads(text))


class Product(NamedTuple):
    """A linear layer without bias: (tokens, inputs) by (outputs, inputs) transposed."""

    inputs: int
    outputs: int


def products(workload: Workload) -> list[Product]:
    """The linear layers a token goes through, the head last.

    The embedding multiplies nothing, and attention's own two products are left out: what is counted here is a step's
    lower bound, and leaving products out makes every ratio to it larger.
    """
    model, width = workload.model, workload.model["hidden_size"]
    keys = model["num_key_value_heads"] * workload.head_size
    attention = [Product(width, width), Product(width, keys), Product(width, keys), Product(width, width)]
    inner = model["intermediate_size"]
    mlp = [Product(width, inner), Product(width, inner), Product(inner, width)]
    return (attention + mlp) * model["num_hidden_layers"] + [Product(width, model["vocab_size"])]


ADAPTED = 4  # the first layers of a block: q, k, v, o
FED_BY_THE_EMBEDDING = 3  # the first block's q, k and v: nothing below them wants a gradient


def product_flops(workload: Workload) -> int:
    """Floating-point operations of a step's products: two a multiplication, in the forward and twice backward."""
    return 6 * workload.tokens * sum(math.prod(product) for product in products(workload))
