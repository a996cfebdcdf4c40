"""Small functions that clients of NVIDIA's package import from ``runtime.utils``."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..fibers import by_degree


def degree_to_dim(degree: int) -> int:
    """Number of orders of a ``degree``, ``2 degree + 1``."""
    return 2 * degree + 1


def unfuse_features(features: Tensor, degrees: Sequence[int]) -> dict[str, Tensor]:
    """Cut features that are concatenated over their orders into their degrees.

    Args:
        features: ``[..., sum of 2 degree + 1]``.
        degrees: in their order.

    Returns:
        ``{degree: [..., 2 degree + 1]}``, which are views.

    Raises:
        ValueError: the last dimension is not that long.
    """
    sizes = [degree_to_dim(degree) for degree in degrees]
    if features.shape[-1] != sum(sizes):
        expected = f"last dimension {sum(sizes)} for degrees {list(degrees)}"
        raise ValueError(f"features must have {expected}, got shape {list(features.shape)}")
    return {str(degree): part for degree, part in zip(degrees, features.split(sizes, dim=-1), strict=True)}


def aggregate_residual(feats1: Mapping[str, Tensor], feats2: Mapping[str, Tensor], method: str) -> dict[str, Tensor]:
    """Two features as one, of the degrees of the second.

    Args:
        feats1: ``{degree: [nodes, channels, 2 degree + 1]}``; degrees that the second lacks are left out.
        feats2: the same, of other degrees or channels.
        method: 'add' or 'sum', added; 'cat' or 'concat', the channels of the first appended to those of the second.

    Returns:
        the same.

    Raises:
        ValueError: ``method`` is none of these.
    """
    feats1, feats2 = by_degree(feats1, "feats1"), by_degree(feats2, "feats2")
    if method in ("add", "sum"):
        return {d: value + feats1[d] if d in feats1 else value for d, value in feats2.items()}
    if method in ("cat", "concat"):
        return {d: torch.cat([value, feats1[d]], dim=1) if d in feats1 else value for d, value in feats2.items()}
    raise ValueError(f"method must be one of 'add', 'sum', 'cat', 'concat', got {method!r}")


def str2bool(v: bool | str) -> bool:
    """The truth value ``v``, or that of a word on a command line.

    Raises:
        ValueError: it is no such word.
    """
    if isinstance(v, bool):
        return v
    words = {"yes": True, "true": True, "t": True, "y": True, "1": True}
    words |= {"no": False, "false": False, "f": False, "n": False, "0": False}
    if v.lower() not in words:
        raise ValueError(f"v must be one of {sorted(words)}, got {v!r}")
    return words[v.lower()]


def to_cuda(x: Any) -> Any:
    """Tensors and graphs on CUDA, and tuples, lists and dicts ``x`` of them; all else as it is."""
    if isinstance(x, tuple | list):
        parts = [to_cuda(part) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    if isinstance(x, Mapping):
        return {name: to_cuda(value) for name, value in x.items()}
    if isinstance(x, Tensor):
        return x.to("cuda", non_blocking=True)
    return x.to("cuda") if hasattr(x, "to") else x


def get_local_rank() -> int:
    """The number of this process on its machine, as ``torchrun`` says; 0 without it."""
    return int(os.environ.get("LOCAL_RANK", 0))


def seed_everything(seed: int) -> None:
    """Start the generators of Python, NumPy and PyTorch from ``seed``."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # the generator that clients draw from
    torch.manual_seed(seed)


def using_tensor_cores(amp: bool) -> bool:
    """Whether the GPU multiplies matrices on tensor cores: from Volta on with ``amp``, from Ampere on always."""
    if not torch.cuda.is_available():
        return False
    major, _ = torch.cuda.get_device_capability()
    return major >= 8 or (amp and major >= 7)
