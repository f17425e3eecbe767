"""Small runs, and single steps of them, whose memory is measured beside the arithmetic."""

from typing import Any

import torch

from andon.core.config import Config, parse_config
from andon.core.data.batch import Batch
from andon.core.memory.sizes import step_of
from andon.core.training.loop import accumulate_gradients, no_span
from andon.core.training.seconds import PhaseSeconds

# Rows, length, logits in a chunk of the loss, model. The blocks dominate, the head does, the weights do; then a tied
# head with grouped queries, heads wider than the model, a tied head that dominates, and many blocks.
BLOCKS = (2, 64, 1 << 23, {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "vocab_size": 128})
HEAD = (4, 32, 1 << 16, {"hidden_size": 32, "intermediate_size": 96, "vocab_size": 4000})
WEIGHTS = (1, 8, 1 << 23, {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3, "vocab_size": 500})
TIED = (3, 48, 1 << 12, {"hidden_size": 64, "vocab_size": 900, "tie_word_embeddings": True, "num_key_value_heads": 2})
WIDE = (2, 128, 1 << 23, {"hidden_size": 48, "intermediate_size": 128, "head_dim": 32, "vocab_size": 256})
SUMMED = (1, 8, 1 << 23, {"hidden_size": 64, "vocab_size": 3000, "tie_word_embeddings": True})
DEEP = (8, 40, 1 << 10, {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 12, "vocab_size": 64})
CASES = {
    "blocks": BLOCKS,
    "head": HEAD,
    "weights": WEIGHTS,
    "tied": TIED,
    "wide": WIDE,
    "summed": SUMMED,
    "deep": DEEP,
}
Case = tuple[int, int, int, dict[str, Any]]


def config(case: Case, **training: Any) -> Config:
    """A small run."""
    rows, length, _, model = case
    shape = {"intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4}
    batch = rows * training.get("accumulation_steps", 1)
    tables = {"model": shape | model, "training": {"batch_size": batch} | training, "data": {"sequence_length": length}}
    return parse_config(tables, "test")


def optimizer_step(state: Any, run: Config) -> int:
    """One step over random tokens, every row two documents; returns the bytes of its gradients."""
    rows, length = step_of(run)[:2]
    accumulate_gradients(
        state,
        [packed(rows, length) for _ in range(run.training.accumulation_steps)],
        run.training,
        no_span,
        PhaseSeconds(),
    )
    gradients = nbytes([parameter.grad for parameter in state.model.parameters() if parameter.grad is not None])
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    return gradients


def packed(rows: int, length: int) -> Batch:
    """Random tokens, two documents a row."""
    tokens_BT = torch.randint(0, 60, (rows, length))
    documents_BT = (torch.arange(length) >= length // 2).long().expand(rows, length).contiguous()
    return Batch(tokens_BT, tokens_BT.roll(-1, 1), documents_BT)


def nbytes(tensors: list[Any]) -> int:
    """Their bytes together."""
    return sum(tensor.nbytes for tensor in tensors)
