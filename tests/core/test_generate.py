"""Sampling: the cache changes nothing, and the knobs do what they say."""

from typing import Any

import pytest
import torch

from andon.core.config import ModelConfig
from andon.core.model.generate import generate, sample_token
from andon.core.model.llama import build_model

pytestmark = pytest.mark.tier2

SHAPE = ModelConfig(
    vocab_size=50,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=32,
    initializer_range=0.5,
)


def continued(prompt: torch.Tensor, count: int, **options: Any) -> torch.Tensor:
    """The new tokens, (B, count)."""
    return torch.stack(list(generate(build_model(SHAPE, 0), prompt, count, **options)), dim=1)


def test_greedy_equals_argmax_without_cache() -> None:
    """Reference: greedy decoding picks the argmax of a full forward over all tokens so far."""
    model, tokens = build_model(SHAPE, 0), torch.tensor([[3, 7, 1], [9, 9, 2]])
    for _ in range(12):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(tokens[:, 3:], continued(tokens[:, :3], 12, temperature=0))


def test_same_generator_same_samples() -> None:
    """Behavior: a seeded generator decides every sample, and another seed gives others."""
    prompt = torch.zeros(4, 1, dtype=torch.int64)
    one, two, other = (continued(prompt, 16, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_top_p_keeps_the_smallest_sufficient_set() -> None:
    """Behavior: of shares 0.5, 0.3, 0.2, top_p 0.6 leaves two tokens and top_p 0.5 one."""
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(1000, 3)
    generator = torch.Generator().manual_seed(0)
    assert {1, 2} == set(sample_token(logits, 1.0, 0.6, generator).tolist())
    assert {1} == set(sample_token(logits, 1.0, 0.5, generator).tolist())


def test_temperature_sharpens() -> None:
    """Behavior: temperature T raises shares to the power 1/T."""
    logits = torch.tensor([[0.8, 0.2]]).log().expand(20000, 2)
    share = sample_token(logits, 0.5, 1.0, torch.Generator().manual_seed(0)).float().mean()
    assert 0.04 / 0.68 == pytest.approx(float(share), abs=0.01)


def test_ended_rows_repeat_the_end() -> None:
    """Behavior: a row that has produced the end produces nothing else, and all rows ended ends the generation."""
    rows = continued(torch.arange(8)[:, None], 31, eos_id=5, generator=torch.Generator().manual_seed(0))
    ended = (rows == 5).int().cummax(dim=1).values.bool()
    assert ended.any()
    assert not ended.all()
    assert (rows[ended] == 5).all()


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_left_as_found(training: bool) -> None:
    """Behavior: generating leaves train or eval mode, and the caller's grad mode, as they were."""
    model = build_model(SHAPE, 0).train(training)
    for _ in generate(model, torch.tensor([[1]]), 2):
        assert torch.is_grad_enabled()
    assert training == model.training


def test_limits_are_refused() -> None:
    """Behavior: an empty prompt, or one token more than the model has positions, is refused with both numbers."""
    with pytest.raises(ValueError, match="the prompt is empty"):
        continued(torch.zeros(1, 0, dtype=torch.int64), 1)
    assert (1, 31) == continued(torch.tensor([[1]]), 31).shape
    with pytest.raises(ValueError, match="1 prompt tokens and 32 new ones exceed max_position_embeddings=32"):
        continued(torch.tensor([[1]]), 32)
