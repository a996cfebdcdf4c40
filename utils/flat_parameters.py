"""All that is trained of a model in one piece of memory: optimizers, clipping and averages take one operation each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

ALIGNMENT = 16  # numbers; parameters then begin where those of their own would, at a multiple of 64 bytes


class FlatParameters:
    """What of a model is trained, side by side in one tensor; the model's parameters become views of it.

    Models have hundreds of parameters, each of which otherwise costs an optimizer, clipping and an average a few calls
    in every step. Names, shapes and ``state_dict`` of the model stay as they are. The gradients of a backward pass are
    joined after it: added to what is there by autograd, they would cost a GPU a launch for each parameter. A parameter
    without gradient counts as one whose gradient is zero.

    Args:
        model: on its device and in its precision, for which others come too late.

    Attributes:
        whole: the tensor, or as many as there are dtypes, as parameters; their gradients are those of the model once
            these are joined.
    """

    def __init__(self, model: nn.Module) -> None:
        self._own = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._gradients = dict[Tensor, Tensor]()
        self._pieces = [
            [piece for own in self._own if own.dtype == dtype for piece in (own, *_padding(own))]
            for dtype in dict.fromkeys(own.dtype for own in self._own)
        ]
        self.whole = nn.ParameterList(self._flatten(pieces) for pieces in self._pieces)

    @torch.no_grad()
    def _flatten(self, pieces: list[Tensor]) -> nn.Parameter:
        whole = nn.Parameter(torch.cat([piece.flatten() for piece in pieces]))
        whole.grad = torch.zeros_like(whole)
        values, gradients = (flat.split([piece.numel() for piece in pieces]) for flat in (whole.data, whole.grad))
        for piece, value, gradient in zip(pieces, values, gradients, strict=True):
            if piece.requires_grad:
                piece.data, self._gradients[piece] = value.view(piece.shape), gradient.view(piece.shape)
        return whole

    @property
    def groups(self) -> list[dict[str, Any]]:
        """For an optimizer that has to know the ``'shapes'`` of what lies in the whole, side by side."""
        shapes = [[tuple(piece.shape) for piece in pieces] for pieces in self._pieces]
        return [{"params": [whole], "shapes": of_whole} for whole, of_whole in zip(self.whole, shapes, strict=True)]

    def zero_grad(self) -> None:
        """Forget all gradients of the model, so that the next ones need not be added to any."""
        for parameter in self._own:
            parameter.grad = None

    @torch.no_grad()
    def join_gradients(self) -> None:
        """Put the model's gradients side by side, where they stay the model's and become the whole's.

        Raises:
            RuntimeError: they are there already, since the last :meth:`zero_grad`.
        """
        for whole, pieces in zip(self.whole, self._pieces, strict=True):
            found = [torch.zeros_like(p) if (gradient := p.grad) is None else gradient for p in pieces]
            # CUDA launches once for each 128 of them; for torch._foreach_copy_, before CUDA 13, once for each 64.
            torch.cat([gradient.flatten() for gradient in found], out=whole.grad)
        for parameter, gradient in self._gradients.items():
            parameter.grad = gradient

    def written(self) -> None:
        """Let PyTorch know that the model's parameters were written to, through the whole."""
        torch.autograd.graph.increment_version(self._own)

    def copied(self) -> list[Tensor]:
        """A copy of all that is trained."""
        return [whole.detach().clone() for whole in self.whole]

    @torch.no_grad()
    def restore(self, copied: list[Tensor]) -> None:
        """Give the model the values back that it had when they were copied.

        Args:
            copied: from :meth:`copied`.
        """
        for whole, values in zip(self.whole, copied, strict=True):
            whole.copy_(values)
        self.written()


def _padding(parameter: Tensor) -> list[Tensor]:
    """What follows a parameter up to where the next begins, with a gradient of its own: zeros, if any."""
    zeros = parameter.new_zeros(-parameter.numel() % ALIGNMENT)
    zeros.grad = torch.zeros_like(zeros)
    return [zeros] if len(zeros) else []
