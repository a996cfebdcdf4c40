"""All that is trained of a model in one piece of memory: optimizers, clipping and averages take one operation each."""

from __future__ import annotations

from itertools import accumulate

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
        self._gradients: list[Tensor] = [torch.empty(0)] * len(self._own)
        self.whole = nn.ParameterList(self._flatten(dtype) for dtype in dict.fromkeys(p.dtype for p in self._own))

    @torch.no_grad()
    def _flatten(self, dtype: torch.dtype) -> nn.Parameter:
        places = [place for place, parameter in enumerate(self._own) if parameter.dtype == dtype]
        own = [self._own[place] for place in places]
        *starts, size = accumulate((-(-p.numel() // ALIGNMENT) * ALIGNMENT for p in own), initial=0)
        whole = nn.Parameter(own[0].new_zeros(size))
        whole.grad = torch.zeros_like(whole)
        for place, parameter, start in zip(places, own, starts, strict=True):
            values, self._gradients[place] = (
                flat[start : start + parameter.numel()].view(parameter.shape) for flat in (whole.data, whole.grad)
            )
            values.copy_(parameter)
            parameter.data = values
        return whole

    def zero_grad(self) -> None:
        """Forget all gradients of the model, so that the next ones need not be added to any."""
        for parameter in self._own:
            parameter.grad = None

    @torch.no_grad()
    def join_gradients(self) -> None:
        """Put the model's gradients side by side, where they stay the model's and become the whole's."""
        torch._foreach_copy_(self._gradients, [torch.zeros_like(p) if p.grad is None else p.grad for p in self._own])
        for parameter, gradient in zip(self._own, self._gradients, strict=True):
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
