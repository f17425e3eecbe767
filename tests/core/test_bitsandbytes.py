"""bitsandbytes' layout: round trips, and damaged parts refused by name."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from andon.core.adapters.nf4 import quantize_nf4
from andon.core.formats.bitsandbytes import PARTS, STATE, from_bitsandbytes, to_bitsandbytes
from andon.core.formats.huggingface_config import InterchangeError
from tests.core.stored import assert_same, normal

pytestmark = pytest.mark.tier1


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize(("shape", "size"), [((3, 5), 64), ((64, 256), 64), ((7, 100), 128)])
def test_reads_back_what_it_writes(shape: tuple[int, int], size: int, double: bool) -> None:
    """Behavior: every part, to the bit, whatever the sizes."""
    stored = quantize_nf4(normal(*shape).bfloat16(), size, double)
    assert_same(stored, from_bitsandbytes("w", to_bitsandbytes("w", stored), shape))


def test_names_and_fields_are_those_of_the_layout() -> None:
    """Reference: `QuantState.as_dict(packed=True)` of bitsandbytes 0.50, written out."""
    parts = to_bitsandbytes("w", quantize_nf4(normal(2, 64)))
    assert {f"w{part}" for part in PARTS} == parts.keys()
    assert (64, 1) == tuple(parts["w"].shape)
    fields = json.loads(bytes(parts[f"w{STATE}"].tolist()))
    offset = fields.pop("nested_offset")
    assert offset == float(normal(2, 64).abs().amax(1).mean())
    assert {
        "quant_type": "nf4",
        "blocksize": 64,
        "dtype": "float32",
        "shape": [2, 64],
        "nested_blocksize": 256,
        "nested_dtype": "float32",
    } == fields


def change_state(**fields: Any) -> Callable[[dict[str, Tensor]], None]:
    """Set fields of the JSON."""

    def change(parts: dict[str, Tensor]) -> None:
        known = json.loads(bytes(parts[f"w{STATE}"].tolist())) | fields
        parts[f"w{STATE}"] = torch.tensor(list(json.dumps(known).encode()), dtype=torch.uint8)

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda parts: parts.pop("w.absmax"), "w.absmax is absent; expected 20 of torch.uint8"),
        (lambda parts: parts.pop("w.nested_quant_map"), "w.nested_quant_map is absent; expected 256"),
        (lambda parts: parts.update({"w": parts["w"][1:]}), "w is 639 of torch.uint8; expected 640"),
        (lambda parts: parts.update({"w.absmax": parts["w.absmax"].float()}), "w.absmax is 20 of torch.float32"),
        (lambda parts: parts["w.quant_map"][3].add_(1e-3), "w.quant_map does not hold NF4's levels"),
        (lambda parts: parts.update({f"w{STATE}": torch.zeros(3, dtype=torch.uint8)}), "is not valid JSON"),
        (change_state(shape=[20, 63]), "shape=[20, 63]; expected [20, 64]"),
        (change_state(quant_type="fp4"), "quant_type='fp4'; expected nf4"),
        (change_state(blocksize=0), "blocksize=0; expected 32 or 64"),
        (change_state(dtype="int8"), "dtype='int8'; expected float32"),
        (change_state(nested_blocksize=128), "nested_blocksize=128; expected 256"),
        (change_state(nested_offset=math.nan), "nested_offset=nan; expected a finite number"),
        (change_state(nested_offset="0"), "nested_offset='0'; expected a finite number"),
    ],
)
def test_a_damaged_part_is_refused_by_name(change: Callable[[dict[str, Tensor]], object], complaint: str) -> None:
    """Behavior: what is wrong and what was expected."""
    parts = to_bitsandbytes("w", quantize_nf4(normal(20, 64)))
    change(parts)
    with pytest.raises(InterchangeError) as caught:
        from_bitsandbytes("w", parts, (20, 64))
    assert complaint in str(caught.value)
