"""A moving average of what is trained."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    r"""An exponential moving average of parameters, which begins with their first values.

    .. math:: a \leftarrow \beta a + (1 - \beta) \, p

    Unlike PyTorch's own, it sends nothing to the device in a step, which would make the host of a GPU wait.

    Args:
        model: with the parameters.
        decay: :math:`\beta`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay

    def update_parameters(self, model: nn.Module) -> None:
        """Count in how the parameters are now.

        Args:
            model: with them.
        """
        self.follow(model)
        self.n_averaged += 1

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """The part of :meth:`update_parameters` that is done on the device.

        Args:
            model: with the parameters.
        """
        weight = 1 - self.decay if self.n_averaged else 1.0
        for averaged, parameter in zip(self.module.parameters(), model.parameters(), strict=True):
            averaged.lerp_(parameter, weight)
