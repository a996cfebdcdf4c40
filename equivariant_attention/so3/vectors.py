"""Length and direction of vectors, without under- or overflow and with defined derivatives at zero."""

import torch
from torch import Tensor

from ..checks import check_trailing


def length_and_direction(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean length and unit vector; a zero vector has length 0, direction 0, and all derivatives 0.

    Args:
        vectors: ``[..., 3]``, float32 or float64, of any magnitude that the type holds.

    Returns:
        length ``[..., 1]`` and direction ``[..., 3]``.

    Raises:
        TypeError, ValueError: ``vectors`` has another type or shape.
    """
    check_trailing(vectors, (3,), "vectors")
    largest = vectors.detach().abs().amax(-1, keepdim=True)
    is_zero = largest == 0
    # The scale is a constant per vector, so it leaves every derivative as it is, but the squares stay near one.
    scaled = vectors / largest.masked_fill(is_zero, 1)
    scaled_length = scaled.square().sum(-1, keepdim=True).masked_fill(is_zero, 1).sqrt()
    # Zero times a length, or divided by infinity, has derivatives of zero.
    return largest * scaled_length, scaled / scaled_length.masked_fill(is_zero, torch.inf)
