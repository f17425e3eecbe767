"""What a check may disturb outside its subject, put back."""

import warnings
from collections.abc import Generator
from contextlib import contextmanager

import torch

from andon.verify.access.calls import seeded


@contextmanager
def protected() -> Generator[None]:
    """Whatever happens inside: random numbers, grad mode, default dtype, determinism and threads go on as before.

    Warnings are silent inside: what user code warns of, it warns of in training too.
    """
    grad, dtype, threads = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
    strict = _strict()
    precision = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with seeded(), warnings.catch_warnings(action="ignore"):
        try:
            torch.set_grad_enabled(True)
            yield
        finally:
            torch.set_grad_enabled(grad)
            torch.set_default_dtype(dtype)
            if _strict() != strict:  # setting it imports torch's compiler, which takes longer than all quick checks
                torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])
            torch.set_float32_matmul_precision(precision)
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


def _strict() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


@contextmanager
def default_dtype(dtype: torch.dtype) -> Generator[None]:
    """Within `with`, torch makes floating numbers of this dtype where none is named."""
    kept = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(kept)
