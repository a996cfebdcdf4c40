"""The parameters of radial networks, for orders that read them and call no module: whether that may be, and which."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ..contraction.kernels import EPSILON, HIDDEN
from ..native.calls import is_watched
from ..plain import has_hooks_of_all, is_plain

PARAMETERS = 10  # of a radial network
OWN_TYPES = {nn.Parameter, Tensor}  # of parameters that may be read; the second are those that functional_call puts in
# The modules of a kernel, and the numbers of those that have parameters, and of LayerNorms among these.
NAMES = ("", ".rp", ".rp.net", *(f".rp.net.{i}" for i in ("0", "1", "1.bn", "2", "3", "4", "4.bn", "5", "6")))
KINDS: list[type[nn.Module]] = []  # what they are; modules/pairwise.py, which makes them, says it
WITH_PARAMETERS, LAYER_NORMS = (3, 5, 7, 9, 11), (5, 9)
PARAMETER_NAMES = [f"{NAMES[i]}.{name}" for i in WITH_PARAMETERS for name in ("weight", "bias")]


def parameters(kernel: nn.Module) -> list[Tensor]:
    """Those of a kernel: weight, bias, scale, shift of both hidden layers, then weight and bias of the last layer."""
    modules = _modules(kernel)
    return [_own(modules[i], name) for i in WITH_PARAMETERS for name in ("weight", "bias")]


def _own(module: nn.Module, name: str) -> Any:
    # getattr comes last to where a module keeps its own, and a model has thousands; it finds what is parametrised.
    found = module._parameters.get(name)
    return getattr(module, name) if found is None else found


def _modules(kernel: Any) -> tuple[nn.Module, ...]:
    """Those of a kernel, in the order of their names; an error where it is made of others."""
    rp = kernel._modules["rp"]
    net = rp._modules["net"]
    a, b, c, d, e, f, g = net._modules.values()
    return kernel, rp, net, a, b, b._modules["bn"], c, d, e, e._modules["bn"], f, g


def changed(kernel: nn.Module) -> str | None:
    """Which module of a kernel is not as it was made, so that it must be called.

    It is of another class; has hooks, or a forward of its own; is a Sequential of another length, or a LayerNorm of
    another size or epsilon; lacks a parameter, or has one of another kind (quantised, say).

    Returns:
        its name in the kernel, such as '.rp.net.2', or '' for the kernel itself; None, if there is none.
    """
    try:
        modules = _modules(kernel)
    except (AttributeError, KeyError, ValueError):
        modules = ()
    if not modules or not all(map(is_plain, modules, KINDS)):
        return _first_odd(kernel)
    for i in WITH_PARAMETERS:
        for parameter in modules[i]._parameters.values():
            # Where PyTorch watches, it puts tensors of its own in their places.
            if type(parameter) not in OWN_TYPES and (parameter is None or not is_watched()):
                return NAMES[i]
    for i in LAYER_NORMS:
        if modules[i].eps != EPSILON or modules[i].normalized_shape != (HIDDEN,):
            return NAMES[i]
    return None


def _first_odd(kernel: nn.Module) -> str:
    for name, kind in zip(NAMES, KINDS, strict=True):
        module: nn.Module | None = kernel
        for part in name.split(".")[1:]:
            module = None if module is None else module._modules.get(part)
        if module is None or not is_plain(module, kind):
            return name
    return ".rp.net"  # which has more layers


class Ends(NamedTuple):
    """What a kernel leads from and to."""

    degree_in: int
    channels_in: int
    degree_out: int
    channels_out: int

    @property
    def num_freq(self) -> int:
        """F, the number of basis kernels."""
        return 2 * min(self.degree_in, self.degree_out) + 1


def check_parameters(kernels: tuple[Ends, ...], values: Sequence[Tensor], scalars: Tensor) -> None:
    """Refuse parameters that do not go together, as PyTorch does where their modules are called.

    Args:
        kernels: between which features and messages they are.
        values: their :func:`parameters`, one kernel after the other.
        scalars: what the radial networks see, ``[edges, edge_dim + 1]``, of the dtype and device of all parameters.

    Raises:
        TypeError: one is of another dtype, or of a class of its own.
        ValueError: one has another shape, or is on another device.
    """
    if torch.compiler.is_compiling():  # which checks them itself, and knows no cache
        return
    shapes = _shapes(kernels, scalars.shape[1])
    alike = {v.dtype for v in values} == {scalars.dtype} and ({*map(type, values)} <= OWN_TYPES or is_watched())
    on_device = all(v.is_cpu for v in values) if scalars.is_cpu else {v.device for v in values} == {scalars.device}
    if alike and on_device and [v.shape for v in values] == shapes:
        return
    for i, (value, shape) in enumerate(zip(values, shapes, strict=True)):
        kernel, dtype, kind = kernels[i // PARAMETERS], scalars.dtype, type(value).__name__
        name = f"({kernel.degree_in},{kernel.degree_out}){PARAMETER_NAMES[i % PARAMETERS]}"
        if value.dtype != dtype or type(value) not in OWN_TYPES:
            raise TypeError(f"{name} must be a tensor of {dtype}, as the layer's first is, got {value.dtype}, {kind}")
        if value.device != scalars.device:
            raise ValueError(f"{name} must be on {scalars.device}, as the layer's first is, got one on {value.device}")
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} must have shape {list(shape)}, got {list(value.shape)}")


@lru_cache(maxsize=1024)
def _shapes(kernels: tuple[Ends, ...], num_scalars: int) -> list[tuple[int, ...]]:
    """Those of the parameters of kernels."""
    vector = (HIDDEN,)
    hidden = [(HIDDEN, num_scalars), vector, vector, vector, (HIDDEN, HIDDEN), vector, vector, vector]
    weights = [kernel.channels_out * kernel.channels_in * kernel.num_freq for kernel in kernels]
    return [shape for n in weights for shape in (*hidden, (n, HIDDEN), (n,))]


def is_the_same_again(kernel: nn.Module) -> bool:
    """Whether calling a kernel twice is like calling it once: no module was changed, and none is parametrised."""
    return not has_hooks_of_all() and changed(kernel) is None and not any(map(is_parametrized, kernel.modules()))
