"""NF4: weights in 4 bits, with levels for normally distributed values (Dettmers et al. 2023, arXiv:2305.14314).

A weight is a level times the absmax of its block of 64; the absmaxes are themselves quantized to 8 bits in blocks of
256 ("double quantization"). Codes, absmaxes and values equal those of bitsandbytes, bit for bit.
Both directions process a tensor in slabs, so that intermediate results take little memory.
"""

from collections.abc import Callable, Iterable
from functools import cache
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import linear, pad

from andon.core.adapters.nf4_blocks import BLOCK, NESTED_BLOCK, SLAB, block_count, padding, slabs, whole_blocks
from andon.core.model.ops import compute_dtype

# Each half: quantiles of a standard normal at equal steps of probability, divided by the largest (appendix E).
LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
SMALLEST = 1e-38  # divisor of a block of zeros
LANES = 16  # rows of a lookup: torch does not split a single row among threads
STEPS = 65535  # an absmax is rounded to one of these before its nearest level is looked up


class QuantError(ValueError):
    """A weight that cannot be quantized; the message names it."""


class Nested(NamedTuple):
    """What turns 8-bit absmaxes back into float32: levels[code] * absmax of a block of 256 + offset."""

    absmax: Tensor  # float32 (blocks of 256)
    levels: Tensor  # float32 (256)
    offset: Tensor  # float32 (), the mean of the absmaxes


class NF4Tensor(NamedTuple):
    """A quantized tensor; see `dequantize_nf4` for its values."""

    codes: Tensor  # uint8 (half the elements, rounded up), the first of two in the high nibble
    absmax: Tensor  # (blocks): float32, or uint8 codes with `nested`
    nested: Nested | None
    shape: tuple[int, ...]
    dtype: torch.dtype  # of the tensor that was quantized
    block_size: int


def quantize_nf4(tensor: Tensor, block_size: int = BLOCK, double: bool = True, name: str = "tensor") -> NF4Tensor:
    """The nearest level of each element over its block's absmax, blocks of `block_size` (a power of 2) along rows.

    `double` quantizes the absmaxes too.

    Raises:
        QuantError: `tensor`, called `name`, is empty or holds infinity or NaN.
    """
    flat = tensor.detach().reshape(-1)
    if not flat.numel():
        raise QuantError(f"{name} is empty; NF4 quantizes matrices of at least one element")
    codes = torch.empty(block_count(flat.numel(), 2), dtype=torch.uint8, device=flat.device)
    absmax = torch.empty(block_count(flat.numel(), block_size), dtype=torch.float32, device=flat.device)
    for start, end in slabs(flat.numel(), SLAB):
        slab = flat[start:end].float()
        normal, largest = _normalize_blocks(slab, block_size)
        absmax[start // block_size :][: len(largest)] = largest
        packed = _pack_codes(normal)
        codes[start // 2 :][: len(packed)] = packed
    if not absmax.isfinite().all():
        raise QuantError(f"{name} holds infinity or NaN, which NF4 cannot represent; check how it was made")
    stored, nested = _quantize_absmax(absmax) if double else (absmax, None)
    return NF4Tensor(codes, stored, nested, tuple(tensor.shape), tensor.dtype, block_size)


def dequantize_nf4(weight: NF4Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Level times absmax, multiplied in fp32, in `dtype` or the dtype of the tensor that was quantized."""
    codes, size = weight.codes, weight.block_size
    pairs, absmax = _level_pairs(codes.device), dequantize_absmax(weight)
    values = torch.empty(2 * len(codes), dtype=dtype or weight.dtype, device=codes.device)
    in_place = values.dtype == torch.float32
    scratch = values if in_place else values.new_empty(min(SLAB, len(values)), dtype=torch.float32)
    for start, end in slabs(len(values), SLAB):
        some = codes[start // 2 : end // 2].long()
        levels = scratch[start if in_place else 0 :][: 2 * len(some)]
        lanes = LANES if len(some) % LANES == 0 else 1
        found = levels.view(pairs.dtype).view(lanes, -1)
        torch.gather(pairs.expand(lanes, -1), 1, some.view(lanes, -1), out=found)
        _scale_blocks(levels, absmax[start // size :], size, values[start:])
    return values[: prod(weight.shape)].view(weight.shape)


def dequantize_absmax(weight: NF4Tensor) -> Tensor:
    """The blocks' absmaxes, float32."""
    if weight.nested is None:
        return weight.absmax
    absmax = weight.nested.levels.index_select(0, weight.absmax.int())
    _scale_blocks(absmax, weight.nested.absmax, NESTED_BLOCK, absmax)
    return absmax.add_(weight.nested.offset)


def bits_per_parameter(weights: Iterable[NF4Tensor]) -> float:
    """Bits per weight of codes, absmaxes and nested absmaxes: 4.5 with blocks of 64, 4.127 doubly quantized."""
    stored, count = 0, 0
    for weight in weights:
        nested = weight.nested.absmax.nbytes if weight.nested else 0
        stored += weight.codes.nbytes + weight.absmax.nbytes + nested
        count += prod(weight.shape)
    return 8 * stored / count


class NF4Linear(nn.Module):
    """A frozen linear map without bias whose weight (O, I) is kept in 4 bits.

    The weight is dequantized in the forward pass and again in the backward pass, and not kept. Products are in the
    input's dtype, or autocast's. The module has buffers only, and nothing to train.
    """

    codes: Tensor
    absmax: Tensor
    nested_absmax: Tensor | None
    nested_levels: Tensor
    nested_offset: Tensor

    def __init__(self, weight: NF4Tensor) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.dtype, self.block_size = weight.dtype, weight.block_size
        self.register_buffer("codes", weight.codes)
        self.register_buffer("absmax", weight.absmax)
        for field in Nested._fields:
            self.register_buffer(f"nested_{field}", getattr(weight.nested, field, None))

    @property
    def quantized(self) -> NF4Tensor:
        """The weight as it is stored."""
        nested = None
        if self.nested_absmax is not None:
            nested = Nested(self.nested_absmax, self.nested_levels, self.nested_offset)
        shape = self.out_features, self.in_features
        return NF4Tensor(self.codes, self.absmax, nested, shape, self.dtype, self.block_size)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        return _Product.apply(x, self.quantized, compute_dtype(x))

    def dequantize(self) -> Tensor:
        """The weight (O, I), in the dtype of the weight that was quantized."""
        return dequantize_nf4(self.quantized)

    def extra_repr(self) -> str:
        """The arguments in a printed model."""
        double = self.nested_absmax is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, double={double}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "NF4Linear":
        """Move, but never cast: `model.to(torch.bfloat16)` would round the absmaxes, and so change every weight."""
        del recurse  # there are no submodules
        for name, buffer in self._buffers.items():
            if buffer is not None:
                bits = buffer.view(torch.int32) if buffer.is_floating_point() else buffer
                self._buffers[name] = fn(bits).view(buffer.dtype)
        return self


def quantize_model(model: nn.Module, double: bool = True) -> None:
    """Replace the matrices of the blocks, one at a time; embeddings, norms and the head stay as they are.

    Raises:
        QuantError: a matrix holds infinity or NaN.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and should_quantize(name)]
    for name in names:
        weight = quantize_nf4(model.get_parameter(f"{name}.weight"), double=double, name=f"{name}.weight")
        model.set_submodule(name, NF4Linear(weight))


def dequantize_model(model: nn.Module) -> None:
    """Replace quantized modules by plain linear ones with the dequantized values, in the original dtype."""
    quantized = {name: module for name, module in model.named_modules() if isinstance(module, NF4Linear)}
    for name, module in quantized.items():
        plain = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(module.dequantize(), requires_grad=False)
        model.set_submodule(name, plain)


def should_quantize(name: str) -> bool:
    """Whether QLoRA quantizes the module, or the weight, of this name: the seven projections of a block."""
    return name.removesuffix(".weight").endswith("_proj")


class _Product(Function):
    """x W^T, with W dequantized twice instead of saved. The codes are the model's buffers and need no saving."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: NF4Tensor, compute: torch.dtype) -> Tensor:
        ctx.weight, ctx.dtype = weight, x.dtype
        return linear(x, dequantize_nf4(weight, compute))  # autocast casts x itself

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        return (grad @ dequantize_nf4(ctx.weight, grad.dtype)).to(ctx.dtype), None, None


def _normalize_blocks(flat: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Elements over their block's absmax, in [-1, 1], and the absmaxes; both as bitsandbytes rounds them.

    bitsandbytes multiplies full blocks by a reciprocal and divides a last, shorter one.
    """
    whole = whole_blocks(len(flat), size)
    blocks = flat[:whole].view(-1, size)
    absmax = blocks.abs().amax(1)
    normal = blocks.mul((1 / absmax.clamp(min=SMALLEST))[:, None]).clamp_(-1, 1).view(-1)
    if whole == len(flat):
        return normal, absmax
    last = flat[whole:].abs().amax().clamp(min=SMALLEST)
    rest = (flat[whole:] / last).clamp_(-1, 1)
    return torch.cat((normal, rest)), torch.cat((absmax, last[None]))


def _pack_codes(normal: Tensor) -> Tensor:
    """Two codes per byte, the first in the high nibble; an odd last one is paired with the code of 0."""
    even, bounds = pad(normal, (0, padding(len(normal), 2))), _midpoints(nf4_levels(normal.device))
    codes = torch.bucketize(even, bounds, out_int32=True).to(torch.uint8)
    return codes[::2] << 4 | codes[1::2]


def _quantize_absmax(absmax: Tensor) -> tuple[Tensor, Nested]:
    """8-bit absmaxes (section 3 of the paper): their mean is subtracted, so that both signs of the levels are used.

    As bitsandbytes does, which rounds to one of 65,536 steps in [-1, 1] and takes the level nearest to that step. 0 / 0
    becomes the first level, which is then multiplied by 0.
    """
    offset, levels = absmax.mean(), dynamic_levels(absmax.device)
    centered = absmax - offset
    blocks = pad(centered, (0, padding(len(centered), NESTED_BLOCK))).view(-1, NESTED_BLOCK)
    largest = blocks.abs().amax(1)
    normal = blocks.mul((1 / largest)[:, None]).nan_to_num_(nan=-1).clamp_(-1, 1).view(-1)[: len(absmax)]
    steps = ((normal + 1) * 0.5 * STEPS + 0.5).int()
    rounded = torch.linspace(-1, 1, STEPS + 1, dtype=torch.float32, device=absmax.device)[steps]
    codes = torch.bucketize(rounded, _midpoints(levels), out_int32=True).to(torch.uint8)
    return codes, Nested(largest, levels, offset)


@cache
def nf4_levels(device: torch.device) -> Tensor:
    """LEVELS as a tensor, float32 whatever torch's default dtype is."""
    return torch.tensor(LEVELS, dtype=torch.float32, device=device)


@cache
def dynamic_levels(device: torch.device) -> Tensor:
    """bitsandbytes' 256 signed levels, float32: in each of seven decades 2^i steps, i growing towards 1; 0; and 1.

    Dettmers 2016, arXiv:1511.04561, section 2.2.
    """
    decades = []
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2**power + 1, dtype=torch.float32, device=device)
        decades.append(10.0 ** (power - 6) * ((edges[:-1] + edges[1:]) / 2))
    sizes = torch.cat(decades)
    ends = torch.tensor([0, 1], dtype=torch.float32, device=device)
    return torch.cat((sizes, -sizes, ends)).sort().values


def _midpoints(levels: Tensor) -> Tensor:
    return (levels[:-1] + levels[1:]) / 2


@cache
def _level_pairs(device: torch.device) -> Tensor:
    """The two float32 values that each byte stands for, as one 64-bit element: a byte's lookup is a single gather."""
    levels, byte = nf4_levels(device), torch.arange(256, device=device)
    return torch.stack((levels[byte >> 4], levels[byte & 15]), dim=1).view(torch.float64).flatten()


def _scale_blocks(values: Tensor, scales: Tensor, size: int, out: Tensor) -> None:
    """Multiply each block of `size` values by its scale, and round once to the dtype of `out`."""
    whole = whole_blocks(len(values), size)
    blocks = whole // size
    torch.mul(values[:whole].view(-1, size), scales[:blocks, None], out=out[:whole].view(-1, size))
    if whole < len(values):
        torch.mul(values[whole:], scales[blocks], out=out[whole : len(values)])
