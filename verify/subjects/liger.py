"""Liger's norms in a small language model; without a GPU its kernels run in Triton's interpreter."""

import os
import types
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported
    if not hasattr(torch, "hip"):
        vars(torch)["hip"] = types.SimpleNamespace(
            is_available=lambda: False
        )  # some releases read it where CUDA is absent

import triton
from triton import language

from andon.verify.subject import Subject
from andon.verify.subjects import small

ROWS = 2  # of a batch, as the interpreter is slow
KINDS = {"layer": ("layer_norm", "LigerLayerNorm"), "rms": ("rms_norm", "LigerRMSNorm")}


@triton.jit
def _rsqrt(x: Any) -> Any:
    return 1.0 / language.sqrt(x)


def normed(kind: str = "layer", width: int = 80) -> Subject:
    """A norm of the library's, "layer" or "rms", before the head, of a width that is not a power of two."""
    made = _norm(kind)
    return small.subject(
        name=f"liger {kind} norm",
        model=lambda: small.Model(made(width), width),
        batch=lambda generator: small.batch(generator, ROWS),
    )


def _norm(kind: str) -> Any:
    """The class, with a reciprocal root that the interpreter can run."""
    import importlib

    if os.environ.get("TRITON_INTERPRET") == "1":
        for name in ("triton.language.extra.libdevice", "triton.language.extra.cuda.libdevice"):
            try:
                vars(importlib.import_module(name))["rsqrt"] = _rsqrt
            except ModuleNotFoundError:
                continue
    module, name = KINDS[kind]
    return getattr(importlib.import_module(f"liger_kernel.transformers.{module}"), name)
