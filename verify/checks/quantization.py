"""Quantizers of weights: what comes back is near, in its place, and the same in all circumstances."""

import math

import torch
from torch import Tensor

from andon.verify.access.calls import needed
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable
from andon.verify.observation.protect import default_dtype
from andon.verify.subject import Quantizer, Subject

STD = 0.02  # of weights
BLOCKS = 40  # of a matrix that noise is measured on
RAGGED = ((3, 37), (1, 1), (5, 13), (7, 64), (1, 65), (129, 3))  # odd, below a block, just above one
FEW_DB = 6.0  # that a few values may fall short of the mean
OUTLIER = 10.0  # times the largest weight


def check_noise(subject: Subject) -> None:
    """Weights come back with the signal-to-noise ratio that the quantizer promises, in their own shape and dtype.

    Silent because adapters learn around base weights that are a little wrong.

    Look at the level table, its dtype, the scale of each block, and scales that are themselves quantized.

    Example:
        # wrong: the scales are still the codes of their own quantization
        weights = levels[codes] * state.absmax[:, None]

        # right
        absmax = dequantize_blockwise(state.absmax, state.state2) + state.offset
        weights = levels[codes] * absmax[:, None]

    Reference: bitsandbytes-foundation/bitsandbytes#1549.
    """
    quantizer = _quantizer(subject)
    for dtype in (torch.float32, torch.bfloat16):
        weights = _normal(BLOCKS, quantizer.block_size).to(dtype)
        back = _back(quantizer, weights)
        ratio = _decibels(back, weights)
        if not ratio >= quantizer.floor_db:
            raise CheckFailed(f"normal weights in {dtype} come back with {ratio:.2f} dB; {quantizer.floor_db:g} is due")


def check_ragged(subject: Subject) -> None:
    """Weights that do not fill the last block come back as well as others, to the last value.

    Silent because few weights are affected, and the shapes that are tried first divide evenly.

    Look at padding and trimming, at odd numbers of codes in a byte, and at the scale of the last block.

    Example:
        # wrong: a last block of fewer than 64 weights is left at 0
        out = torch.zeros_like(flat)
        for start in range(0, flat.numel() // 64 * 64, 64):
            out[start : start + 64] = quantize_block(flat[start : start + 64])

        # right
        out = torch.zeros_like(flat)
        for start in range(0, flat.numel(), 64):
            out[start : start + 64] = quantize_block(flat[start : start + 64])

    Reference: bitsandbytes-foundation/bitsandbytes#1884.
    """
    quantizer = _quantizer(subject)
    block, compared = quantizer.block_size, False
    for shape in (*RAGGED, (1, 5 * block + 17), (3, block + 1), (1, block - 1)):
        weights = _normal(*shape)
        try:
            back = _back(quantizer, weights)
        except CheckFailed:
            raise
        except (AssertionError, ValueError, RuntimeError):  # refused, in the code's own way
            continue
        compared = compared or bool(weights.numel() % block)
        whole = weights.numel() // block * block
        for part, start in (("values", 0), ("values after the last full block", whole)):
            before, after = weights.flatten()[start:], back.flatten()[start:]
            if not before.numel():
                continue
            ratio, due = _decibels(after, before), quantizer.floor_db - FEW_DB
            if not ratio >= due:
                raise CheckFailed(
                    f"of a matrix {shape} the {before.numel()} {part} come back with {ratio:.2f} dB; {due:g} is due"
                )
    if not compared:
        raise NotApplicable("a quantizer of weights that do not fill the last block")


def check_zeros(subject: Subject) -> None:
    """A block or a matrix of zeros comes back as zeros, and the blocks beside it come back as well as others.

    Silent because padding and pruned weights are rare in what is tried first.

    Look at the division by a block's largest value, and at whether 0 is among the levels.

    Example:
        # wrong: in a block of zeros 0 / 0 gives NaN
        scale = blocks.abs().amax(1, keepdim=True) / 7
        blocks = (blocks / scale).round() * scale

        # right
        scale = (blocks.abs().amax(1, keepdim=True) / 7).clamp(min=1e-12)
        blocks = (blocks / scale).round() * scale
    """
    quantizer = _quantizer(subject)
    block = quantizer.block_size
    weights = _normal(4, block)
    weights[1] = 0
    back = _back(quantizer, weights)
    for what, part in (("a block of zeros", back[1]), ("a matrix of zeros", _back(quantizer, torch.zeros(4, block)))):
        if not float(part.abs().max()) <= 1e-3 * STD:
            raise CheckFailed(f"{what} comes back as values up to {float(part.abs().max()):.3g}")
    if not _decibels(back[2:], weights[2:]) >= quantizer.floor_db - FEW_DB:
        raise CheckFailed(f"blocks after a block of zeros come back with {_decibels(back[2:], weights[2:]):.2f} dB")


def check_outlier(subject: Subject) -> None:
    """One large value makes its own block of values coarser, and no other block.

    Silent because most matrices have no such value; those that do lose all their small ones.

    Look at what a scale is taken over: a block of neighbors, not a row, a column or the matrix.

    Example:
        # wrong: one outlier sets the scale of the whole matrix
        scale = weights.abs().max() / 7
        codes = (weights / scale).round().to(torch.int8)

        # right: a scale for each block of 64 weights
        blocks = weights.view(-1, 64)
        scale = blocks.abs().amax(1, keepdim=True) / 7
        codes = (blocks / scale).round().to(torch.int8)

    Reference: Dettmers et al. 2022, arXiv:2110.02861.
    """
    quantizer = _quantizer(subject)
    weights = _normal(BLOCKS, quantizer.block_size)
    weights[7, 5] = OUTLIER * float(weights.abs().max())
    others = torch.arange(BLOCKS) != 7
    ratio, due = _decibels(_back(quantizer, weights)[others], weights[others]), quantizer.floor_db - FEW_DB / 2
    if not ratio >= due:
        raise CheckFailed(
            f"with one value {OUTLIER:g} times the largest, other blocks come back with {ratio:.2f} dB; {due:g} is due"
        )


def check_levels(subject: Subject) -> None:
    """The values that the quantizer can represent come back exactly, each in its place, and others as the nearest one.

    Silent because swapped neighbors and a shifted threshold keep the histogram of the weights.

    Look at the order of the two codes in a byte, at rounding against thresholds, and at the table itself.

    Example:
        # wrong: packed with the first code in the high half, read with the first code in the low half
        packed = codes[0::2] << 4 | codes[1::2]
        codes = torch.stack((packed & 0xF, packed >> 4), dim=1).flatten()

        # right
        packed = codes[0::2] << 4 | codes[1::2]
        codes = torch.stack((packed >> 4, packed & 0xF), dim=1).flatten()
    """
    quantizer = _quantizer(subject)
    if quantizer.levels is None:
        raise NotApplicable("quantizer.levels")
    levels, block = quantizer.levels().double(), quantizer.block_size
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(len(levels), (BLOCKS, block), generator=generator)
    codes[:, generator.initial_seed() % block] = int(levels.abs().argmax())
    exact = levels[codes].float()
    back = _back(quantizer, exact)
    wrong = (back.double() - exact.double()).abs() > 1e-3
    if bool(wrong.any()):
        row, column = (int(i) for i in wrong.nonzero()[0])
        raise CheckFailed(
            f"{int(wrong.sum())} of {exact.numel()} values that are levels come back as others: at {row}, {column} "
            f"{float(exact[row, column]):.6g} as {float(back[row, column]):.6g}"
        )
    weights = _normal(BLOCKS, block)
    weights /= weights.abs().amax(1, keepdim=True)
    found = (_back(quantizer, weights).double() - weights.double()).abs()
    nearest = (weights.double()[..., None] - levels).abs().amin(-1)
    worst = float((found - nearest).max())
    if not worst <= 2e-2:  # scales that are quantized themselves move a value by a share of it
        raise CheckFailed(f"a value comes back {worst:.3g} of its block's largest farther away than its nearest level")


def check_order(subject: Subject) -> None:
    """Within a block a larger value never comes back as a smaller one.

    Silent because the histogram of the weights stays the same when neighbors change places.

    Look at the order of codes in a byte, at the sign of codes, at thresholds, and at transposed or strided inputs.

    Example:
        # wrong: of a signed 4-bit code, -1 is read as 15
        codes = packed & 0xF
        weights = codes * scale

        # right
        codes = (packed & 0xF).to(torch.int8)
        codes = torch.where(codes > 7, codes - 16, codes)
        weights = codes * scale
    """
    quantizer = _quantizer(subject)
    weights = _normal(BLOCKS, quantizer.block_size)
    back = _back(quantizer, weights)
    sorted_back = back.gather(1, weights.argsort(1))
    fall = float((sorted_back[:, :-1] - sorted_back[:, 1:]).max())
    if fall > 0:
        raise CheckFailed(f"within a block a larger value comes back smaller than a smaller one, by {fall:.3g}")


def check_scale(subject: Subject) -> None:
    """Weights times a power of two come back as that power of two times what the weights come back as.

    Silent because the level table is tried on weights of one size only.

    Look for absolute thresholds, an epsilon beside a scale, and scales in a narrow dtype.

    Example:
        # wrong: the epsilon is as large as the scale of small weights
        scale = blocks.abs().amax(1, keepdim=True) + 1e-3
        codes = (blocks / scale * 7).round()

        # right
        scale = blocks.abs().amax(1, keepdim=True).clamp(min=1e-12)
        codes = (blocks / scale * 7).round()
    """
    quantizer = _quantizer(subject)
    weights = _normal(BLOCKS, quantizer.block_size)
    once = _back(quantizer, weights).double()
    for factor in (2.0, 2.0**-6, 2.0**6):
        scaled = _back(quantizer, weights * factor).double() / factor
        moved = float((scaled - once).abs().max()) / STD
        if moved > 1e-3:
            raise CheckFailed(
                f"weights times {factor:g} come back otherwise by {moved:.2g} of their standard deviation"
            )


def check_again(subject: Subject) -> None:
    """Quantizing what came back changes it by only a fraction of the first error.

    Silent because a model is quantized once; saved and loaded again, it drifts.

    Look at levels that do not map to themselves: a table read in another dtype, or codes shifted by half a step.

    Example:
        # wrong: the cast cuts off instead of rounding, so a level can fall to the one below it
        codes = ((blocks / scale + 1) * 7.5).to(torch.uint8)
        blocks = (codes / 7.5 - 1) * scale

        # right
        codes = ((blocks / scale + 1) * 7.5).round().to(torch.uint8)
        blocks = (codes / 7.5 - 1) * scale
    """
    quantizer = _quantizer(subject)
    once = _back(quantizer, _normal(BLOCKS, quantizer.block_size))
    ratio, due = _decibels(_back(quantizer, once), once), quantizer.floor_db + FEW_DB
    if not ratio >= due:
        raise CheckFailed(
            f"what came back comes back again with {ratio:.2f} dB; {due:g} is due of values that are levels"
        )


def check_circumstances(subject: Subject) -> None:
    """The same weights come back the same: twice, under another default dtype, from a strided view, and left untouched.

    Silent because nothing changes in the run for which the code was written.

    Look for tables made without a dtype, for `view` and pointers on strided tensors, and for in-place scaling.

    Example:
        # wrong: the table takes the default dtype, and bfloat16 rounds its levels
        levels = torch.tensor(NF4_LEVELS)
        codes = ((blocks / scale)[..., None] - levels).abs().argmin(-1)

        # right
        levels = torch.tensor(NF4_LEVELS, dtype=torch.float32)
        codes = ((blocks / scale)[..., None] - levels).abs().argmin(-1)

    Reference: pytorch/ao#2286.
    """
    quantizer = _quantizer(subject)
    weights = _normal(BLOCKS, quantizer.block_size)
    given, first = weights.clone(), _back(quantizer, weights)
    if not torch.equal(given, weights):
        raise CheckFailed(f"quantizing changes its input by up to {float((given - weights).abs().max()):.3g}")
    ways = {"a second time": _back(quantizer, weights)}
    strided = torch.empty(quantizer.block_size, BLOCKS).t()
    ways["from a strided view"] = _back(quantizer, strided.copy_(weights))
    for dtype in (torch.bfloat16, torch.float64):
        with default_dtype(dtype):
            ways[f"under the default dtype {dtype}"] = _back(quantizer, weights)
    for how, back in ways.items():
        if not torch.equal(back, first):
            raise CheckFailed(
                f"{how} the same weights come back otherwise by up to {float((back - first).abs().max()):.3g} "
                f"(standard deviation {STD:g})"
            )


def _quantizer(subject: Subject) -> Quantizer:
    return needed(subject, "quantizer")


def _normal(rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float32) * STD


def _back(quantizer: Quantizer, weights: Tensor) -> Tensor:
    """The round trip, of the same shape and dtype."""
    back = quantizer.round_trip(weights)
    if back.shape != weights.shape or back.dtype != weights.dtype:
        raise CheckFailed(
            f"weights {tuple(weights.shape)} in {weights.dtype} come back as {tuple(back.shape)} in {back.dtype}"
        )
    return back.detach()


def _decibels(back: Tensor, weights: Tensor) -> float:
    """Signal to quantization noise; infinite where nothing is lost."""
    noise = float((back.double() - weights.double()).square().sum())
    signal = float(weights.double().square().sum())
    return math.inf if noise == 0 else 10 * math.log10(max(signal, 1e-300) / noise)


CHECKS = (
    Check("quantization.noise", check_noise, ("quantizer",)),
    Check("quantization.levels", check_levels, ("quantizer",)),
    Check("quantization.ragged", check_ragged, ("quantizer",)),
    Check("quantization.circumstances", check_circumstances, ("quantizer",)),
    Check("quantization.order", check_order, ("quantizer",)),
    Check("quantization.zeros", check_zeros, ("quantizer",)),
    Check("quantization.outlier", check_outlier, ("quantizer",)),
    Check("quantization.scale", check_scale, ("quantizer",)),
    Check("quantization.again", check_again, ("quantizer",)),
)
