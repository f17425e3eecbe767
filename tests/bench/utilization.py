"""Model FLOPs utilization: the share of a GPU's peak that a step's own arithmetic makes use of."""

from tests.bench.workload import Workload, products

FORMULA = "(6 N + 12 L H Q T) x tokens / seconds / peak"
# Dense bfloat16 FLOP/s from the makers' data sheets; the first name that occurs in the device's counts.
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "A10": 125e12,
}


def peak_flops(device: str) -> float | None:
    """FLOP/s that a GPU of this name can do at most; None for one that is not in the table."""
    return next((peak for name, peak in PEAKS.items() if name in device), None)


def flops_a_token(workload: Workload) -> int:
    """6 N + 12 L H Q T (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).

    N: parameters that multiply, the embedding and norms aside. L layers, H heads of Q elements, T tokens per row; the
    second term is attention's own products, counted without the causal half, as the paper does.
    """
    shape = workload.model
    multiplying = sum(inputs * outputs for inputs, outputs in products(workload))
    attention = shape["num_hidden_layers"] * shape["num_attention_heads"] * workload.head_size * workload.length
    return 6 * multiplying + 12 * attention


def utilization(workload: Workload, seconds: float, device: str) -> float | None:
    """The share of the device's peak; None where that is not known, as a guess would be a made-up figure."""
    peak = peak_flops(device)
    return None if peak is None else flops_a_token(workload) * workload.tokens / seconds / peak
