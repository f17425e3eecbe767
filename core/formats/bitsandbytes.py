"""bitsandbytes' 4-bit tensors in safetensors files, as its `QuantState.as_dict(packed=True)` lays them out.

A weight NAME becomes `NAME` (codes, two per byte), `NAME.absmax`, `NAME.quant_map` (the levels), with double
quantization `NAME.nested_absmax` and `NAME.nested_quant_map`, and `NAME.quant_state.bitsandbytes__nf4`: JSON as bytes,
with shape, dtype, block sizes and offset.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from andon.core.adapters.nf4 import Nested, NF4Tensor, nf4_levels
from andon.core.adapters.nf4_blocks import NESTED_BLOCK
from andon.core.formats.huggingface_config import NF4, InterchangeError
from andon.reading import parse_json

STATE = ".quant_state.bitsandbytes__nf4"
SINGLE = ("", ".absmax", ".quant_map")
DOUBLE = (".nested_absmax", ".nested_quant_map")
PARTS = (*SINGLE, *DOUBLE, STATE)
BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def to_bitsandbytes(name: str, weight: NF4Tensor) -> dict[str, Tensor]:
    """The tensors that represent the weight `name` in a file; no two share memory."""
    fields: dict[str, Any] = {
        "quant_type": "nf4",
        "blocksize": weight.block_size,
        "dtype": str(weight.dtype).removeprefix("torch."),
        "shape": weight.shape,
    }
    tensors = [weight.codes[:, None], weight.absmax, nf4_levels(weight.codes.device).clone()]
    if weight.nested:
        tensors += [weight.nested.absmax, weight.nested.levels.clone()]
        offset = weight.nested.offset.item()
        fields |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": offset}
    named = dict(zip((*SINGLE, *DOUBLE), tensors, strict=False))
    named[STATE] = torch.tensor(list(json.dumps(fields).encode()), dtype=torch.uint8)
    return {f"{name}{part}": tensor.contiguous() for part, tensor in named.items()}


def from_bitsandbytes(name: str, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> NF4Tensor:
    """The weight `name`, which must have the given shape, from the tensors of a file.

    Raises:
        InterchangeError: a part is missing or of the wrong size, or the levels are not NF4's.
    """
    fields = _state(name, tensors[f"{name}{STATE}"], shape)
    size, double = int(fields["blocksize"]), "nested_blocksize" in fields
    blocks = -(-math.prod(shape) // size)
    wanted = {
        "": (torch.uint8, -(-math.prod(shape) // 2)),
        ".absmax": (torch.uint8 if double else torch.float32, blocks),
        ".quant_map": (torch.float32, 16),
    }
    if double:
        wanted |= {
            ".nested_absmax": (torch.float32, -(-blocks // NESTED_BLOCK)),
            ".nested_quant_map": (torch.float32, 256),
        }
    for part, (dtype, count) in wanted.items():
        found = tensors.get(f"{name}{part}")
        if found is None or (found.dtype, found.numel()) != (dtype, count):
            here = "absent" if found is None else f"{found.numel()} of {found.dtype}"
            raise InterchangeError(f"{name}{part} is {here}; expected {count} of {dtype}: fetch the file again")
    codes, absmax, levels, *second = (tensors[f"{name}{part}"].flatten() for part in wanted)
    if not torch.equal(levels, nf4_levels(levels.device)):
        raise InterchangeError(f"{name}.quant_map does not hold NF4's levels; quantize the weights again")
    nested = None
    if double:
        offset = torch.tensor(fields["nested_offset"], dtype=torch.float32, device=codes.device)
        nested = Nested(second[0], second[1], offset)
    return NF4Tensor(codes, absmax, nested, shape, DTYPES[fields["dtype"]], size)


def quantization_config(weights: list[NF4Tensor]) -> dict[str, Any]:
    """The `quantization_config` of `config.json` with which `transformers` reads such tensors."""
    return NF4 | {
        "bnb_4bit_use_double_quant": any(weight.nested for weight in weights),
        "bnb_4bit_compute_dtype": str(weights[0].dtype).removeprefix("torch."),
        "bnb_4bit_quant_storage": "uint8",
    }


def _state(name: str, packed: Tensor, shape: tuple[int, ...]) -> dict[str, Any]:
    """A weight's quantization state: JSON, validated."""
    try:
        fields = parse_json(bytes(packed.tolist()))
    except (ValueError, TypeError) as error:
        raise InterchangeError(f"{name}{STATE} is not valid JSON ({error}); fetch the file again") from error
    rules: dict[str, tuple[Any, ...]] = {
        "quant_type": ("nf4",),
        "blocksize": BLOCKS,
        "dtype": tuple(DTYPES),
        "shape": (list(shape),),
    }
    if isinstance(fields, dict) and "nested_blocksize" in fields:
        rules |= {"nested_blocksize": (NESTED_BLOCK,), "nested_dtype": ("float32",)}
    for key, allowed in rules.items():
        value = fields.get(key) if isinstance(fields, dict) else None
        if value not in allowed:
            raise InterchangeError(f"{name}{STATE}: {key}={value!r}; expected {' or '.join(map(str, allowed))}")
    offset = fields.get("nested_offset", 0.0)
    if "nested_blocksize" in fields and not (isinstance(offset, float) and math.isfinite(offset)):
        raise InterchangeError(f"{name}{STATE}: nested_offset={offset!r}; expected a finite number")
    return fields
