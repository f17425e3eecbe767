"""The relations that `verify` checks, on real models of random shape: each holds, whatever the shape."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from andon.core.data.batch import Batch
from andon.core.training.optimizer import build_optimizer
from andon.verify.checks import CHECKS
from andon.verify.run.runner import check
from andon.verify.subject import Subject
from tests.subjects import answering, config_of, new_model, reference_logits, stepped
from tests.verify.checks.test_every_check import finders

pytestmark = [pytest.mark.long, pytest.mark.hypothesis]

EXAMPLES = max(1, settings().max_examples // 3)
SECONDS = 2  # the tier of checks that take no longer
OFFERED = {"collate_packed", "collate_padded", "cached_logits", "generate", "reference_logits", "train_step"}
SETTINGS = {"learning_rate": 5e-3, "weight_decay": 0.1, "grad_clip": 0.7}
AREAS = (
    "loss", "attention", "positions", "norms", "structure", "initialization", "determinism", "dtypes", "packing",
    "generation", "reference", "data", "updates", "optimizer", "accumulation", "clipping",
)  # fmt: skip
NEED_MORE = {  # than a model, a batch of whole rows, an optimizer and a step
    "attention.padding": "a mask",
    "attention.documents": "packed rows",
    "attention.normed": "queries or keys that are normed",
    "packing.borders": "a text's documents",
    "packing.rows": "a packing of documents",
    "accumulation.tokens": "a count of tokens",
    "clipping.non_finite": "a loop, which refuses such a step",
    "optimizer.memory": "a momentum",
    "optimizer.survival": "half-precision weights of which float32 copies are kept",
    "updates.averages": "a loop that keeps averages",
    "data.epochs": "epochs",
    "data.held_out": "epochs",
}
HALVES = (
    "positions.precision", "norms.precision", "loss.precision", "dtypes.smooth", "dtypes.logits", "dtypes.loss",
    "dtypes.gradients",
)  # fmt: skip
NAMES = [
    each.name
    for each in CHECKS
    if each.name.partition(".")[0] in AREAS
    and set(each.needs) <= OFFERED
    and each.tier <= SECONDS
    and each.name not in NEED_MORE
]


@st.composite
def subjects(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...], tied: bool | None) -> Subject:
    """Our core in a shape, on rows of a length, in a dtype; no width need be a multiple of another."""
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    vocab, length = draw(st.integers(40, 300)), draw(st.integers(17, 25))
    shape: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": draw(st.integers(17, 40)),
        "intermediate_size": draw(st.integers(24, 64)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": kv_heads * group,
        "num_key_value_heads": kv_heads,
        "head_dim": 2 * draw(st.integers(2, 6)),
        "rope_theta": draw(st.sampled_from([50.0, 500.0, 10000.0])),
        "tie_word_embeddings": draw(st.booleans()) if tied is None else tied,
        "dtype": draw(st.sampled_from(dtypes)),
    }

    def batch(generator: torch.Generator) -> Batch:
        tokens_BT = torch.randint(1, vocab, (3, length + 1), generator=generator)
        return Batch(tokens_BT[:, :-1], tokens_BT[:, 1:], None)

    config = config_of()
    return replace(
        answering(", ".join(f"{key} {value}" for key, value in shape.items()), making(shape), batch),
        reference_logits=reference_logits,
        optimizer=lambda model: build_optimizer(model, config.training),
        train_step=stepped(config),
        hyperparameters=SETTINGS,
    )


def making(shape: dict[str, Any]) -> Callable[[], Any]:
    """A factory of models of a shape."""
    return lambda: new_model(**shape)


@pytest.mark.parametrize("name", NAMES)
def test_the_property_holds(name: str) -> None:
    """Behavior: the check finds nothing on any shape, and applied to some."""
    passed = []
    dtypes = (torch.bfloat16,) if name in HALVES else (torch.float32, torch.float64)

    @settings(max_examples=EXAMPLES)
    @given(subjects(dtypes, True if name == "structure.tying" else None))
    def holds(subject: Subject) -> None:
        report = check(subject, only=(name,))
        assert () == report.findings
        passed.extend(report.passed)

    holds()
    assert passed


def test_forty_properties_have_each_found_a_fault() -> None:
    """Behavior: no property stands here that has never been red."""
    assert len(NAMES) >= 40
    assert [] == [name for name in NAMES if name not in finders()]
