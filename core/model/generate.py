"""Sampling with a key-value cache."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from andon.core.model.llama import KVCache, Llama


def generate(
    model: Llama,
    tokens_BT: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    eos_id: int | Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Continue each row of `tokens_BT`; yields the next token of every row, (B,) int64, one step at a time.

    `temperature` 0 is greedy. `top_p` is nucleus sampling: the smallest set of tokens with that much probability
    (Holtzman et al. 2020, arXiv:1904.09751). Stops early once every row has produced `eos_id`, one
    or any of several; such a row repeats the first of them.
    The model's training mode is restored.

    Raises:
        ValueError: the prompt is empty, or prompt and new tokens exceed `max_position_embeddings`.
    """
    rows, prompt = tokens_BT.shape
    size = prompt + max_new_tokens
    if not prompt:
        raise ValueError("the prompt is empty; give at least one token, such as the end-of-document token")
    if size > model.config.max_position_embeddings:
        raise ValueError(
            f"{prompt} prompt tokens and {max_new_tokens} new ones exceed "
            f"max_position_embeddings={model.config.max_position_embeddings}; lower max_new_tokens"
        )
    was_training = model.training
    model.eval()
    cache = KVCache(model.config, rows, size, model.model.norm.weight)
    ends = [eos_id] if isinstance(eos_id, int) else [*(eos_id or ())]
    ends_E = torch.tensor(ends, dtype=torch.int64, device=tokens_BT.device)
    ended_B = torch.zeros(rows, dtype=torch.bool, device=tokens_BT.device)
    try:
        for _ in range(max_new_tokens):
            with torch.no_grad():  # not around the loop: a generator would leave it set in its caller
                logits_BV = model.lm_head(model.hidden(tokens_BT, cache=cache)[:, -1])
            next_B = sample_token(logits_BV, temperature, top_p, generator)
            if ends:
                next_B = torch.where(ended_B, ends[0], next_B)
                ended_B |= torch.isin(next_B, ends_E)
            yield next_B
            if bool(ended_B.all()):
                return
            tokens_BT = next_B[:, None]
    finally:
        model.train(was_training)


def sample_token(logits_BV: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> Tensor:
    """One sampled token per row, (B,) int64."""
    if temperature == 0:
        return logits_BV.argmax(-1)
    probabilities_BV = (logits_BV.float() / temperature).softmax(-1)
    if top_p < 1:
        ordered, order = probabilities_BV.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered  # probability of all likelier tokens: the likeliest one is always kept
        probabilities_BV = torch.zeros_like(probabilities_BV).scatter_(
            -1, order, ordered.masked_fill_(before >= top_p, 0.0)
        )
    return torch.multinomial(probabilities_BV, 1, generator=generator)[:, 0]
