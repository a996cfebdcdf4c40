"""A device without numbers in the place of a GPU: where the host would wait for one, an error is raised.

Tensors of PyTorch's device 'meta' have shapes and derivatives, and go where tensors of a GPU go, not where those of a
CPU do. Whatever needs one of their numbers fails.
"""

from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators import CPUAccelerator
from lightning_fabric.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode

DEVICE = torch.device("meta")


class _NoAccelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        """Nothing is to be set up."""


class _Fabric(Fabric):
    def setup_optimizers(self, optimizer: Any) -> Any:
        """As it is: Fabric refuses those of parameters without numbers."""
        return optimizer


def fabric() -> Fabric:
    """What moves models and batches to that device."""
    fabric = _Fabric(strategy=SingleDeviceStrategy(device=DEVICE, accelerator=_NoAccelerator()))
    fabric.launch()
    return fabric


class NothingMoves(TorchFunctionMode):
    """Within it, no tensor goes from the host to the device: that, too, makes a GPU's host wait."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run what would have run, and look at where the tensors are."""
        output = function(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and output.device == DEVICE and output.numel():
            made_of_numbers = function in (torch.tensor, torch.as_tensor, torch.asarray)
            moved = isinstance(args[0] if args else None, Tensor) and args[0].device.type == "cpu"
            if made_of_numbers or (moved and function in (Tensor.to, Tensor.cuda, torch.Tensor.copy_)):
                raise AssertionError(f"{function} takes numbers from the host to the device")
        return output
