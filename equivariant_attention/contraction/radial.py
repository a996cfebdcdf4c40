"""Radial networks: whether their parameters may be read instead of calling them, checks of these, and hidden layers.

A network is an MLP: Linear, LayerNorm, ReLU, Linear, LayerNorm, ReLU, Linear, with 32 hidden values, or the same
without the LayerNorms. If it is exactly that, backends read its parameters; if a module was changed, it must be called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.parametrize import is_parametrized

from ..contraction.convolution import Convolution
from ..native.private import Seen, is_watched
from ..plain_modules import has_hooks_of_all, is_plain

HIDDEN = 32  # values of each hidden layer of a radial network
EPSILON = 1e-5  # eps of PyTorch's LayerNorm
PARAMETERS = 10  # of a network: weight, bias, scale, shift of both hidden layers; weight and bias of the last layer
OWN_TYPES = {nn.Parameter, Tensor}  # of parameters that may be read; torch.func.functional_call puts Tensors there


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The modules that a network consists of if nothing was changed.

    Attributes:
        names: the names of all its modules, beginning with the network itself, ''.
        classes: the classes of these modules.
        linears: the indices of the three Linears in these lists.
        norms: the indices of the two LayerNorms; empty if there are none.
        has_bias: whether the last Linear has a bias.
        owners: for each of the ten parameters, the index of its module, or None where there is no such parameter, and
            its name there.
    """

    names: tuple[str, ...]
    classes: tuple[type[nn.Module], ...]
    linears: tuple[int, int, int]
    norms: tuple[int, ...]
    has_bias: bool

    owners: tuple[tuple[int | None, str], ...] = field(init=False)

    def __post_init__(self) -> None:
        first, second, last = self.linears
        owners: list[tuple[int | None, str]] = []
        for linear, norm in zip((first, second), self.norms or (None, None), strict=True):
            owners += [(linear, "weight"), (linear, "bias"), (norm, "weight"), (norm, "bias")]
        owners += [(last, "weight"), (last if self.has_bias else None, "bias")]
        object.__setattr__(self, "owners", tuple(owners))


class RadialNetwork(Protocol):
    """A module that is or holds a radial network."""

    anatomy: Anatomy
    forms_kernels: bool  # whether calling it gives the kernel of a pair of degrees, as for PairwiseConv

    def radial_weights(self, scalars: Tensor) -> Tensor:
        """The output of the network, ``[edges, rows]``, computed by its modules."""

    def radial_modules(self) -> Sequence[nn.Module]:
        """Its modules, in the order of the anatomy's names; raises any error if it consists of others."""


def parameters(network: Any) -> list[Tensor | None]:
    """The ten parameters of a network, None for those that it does not have."""
    modules = network.radial_modules()
    return [None if i is None else _own(modules[i], name) for i, name in network.anatomy.owners]


def checked_parameters(convolution: Convolution, networks: Sequence[Any], scalars: Tensor) -> list[Tensor | None]:
    """The :func:`parameters` of all networks, one network after the other; errors as of :func:`check_parameters`."""
    found = [value for network in networks for value in parameters(network)]
    check_parameters(convolution, found, scalars, networks)
    return found


def _own(module: nn.Module, name: str) -> Any:
    # getattr of a module is slow, and a model has thousands of parameters; but only it evaluates a parametrisation.
    found = module._parameters.get(name)
    return getattr(module, name) if found is None else found


def changed(network: Any) -> str | None:
    """The first module of a network that was changed, so that the network must be called.

    A module counts as changed if it is of another class; has hooks, or a forward of its own; is a Sequential of another
    length, or a LayerNorm of another size or eps; lacks a parameter, or has one of another kind (quantised, say).

    Returns:
        the name of the module, such as '.rp.net.2', or '' for the network itself; None if nothing was changed.
    """
    anatomy: Anatomy = network.anatomy
    try:
        modules = network.radial_modules()
    except (AttributeError, KeyError, ValueError):
        modules = ()
    if len(modules) != len(anatomy.names) or not all(map(is_plain, modules, anatomy.classes)):
        return _first_odd(network)
    for i, name in anatomy.owners:
        if i is not None:
            # A parametrised parameter is not in _parameters: it is checked when it is read. PyTorch's compiler and
            # transforms put tensors of their own classes there.
            own = modules[i]._parameters
            if name in own and type(own[name]) not in OWN_TYPES and (own[name] is None or not is_watched()):
                return anatomy.names[i]
    if not anatomy.has_bias and modules[anatomy.linears[2]]._parameters.get("bias") is not None:
        return anatomy.names[anatomy.linears[2]]
    for i in anatomy.norms:
        if modules[i].eps != EPSILON or modules[i].normalized_shape != (HIDDEN,):
            return anatomy.names[i]
    return None


def _first_odd(network: Any) -> str:
    for name, kind in zip(network.anatomy.names, network.anatomy.classes, strict=True):
        module: nn.Module | None = network
        for part in name.split(".")[1:]:
            module = None if module is None else module._modules.get(part)
        if module is None or not is_plain(module, kind):
            return name
    return network.anatomy.names[network.anatomy.classes.index(nn.Sequential)]  # it has more layers, or fewer


def is_the_same_again(network: Any) -> bool:
    """Whether each call of a network has the same result: no module was changed, and none is parametrised."""
    return not has_hooks_of_all() and changed(network) is None and not any(map(is_parametrized, network.modules()))


def check_parameters(
    convolution: Convolution, values: Sequence[Tensor | None], scalars: Tensor, networks: Sequence[Any] = ()
) -> None:
    """Refuse parameters of unequal dtypes or devices, or of wrong shapes, as calling the modules would.

    Args:
        convolution: the convolution of the networks.
        values: the :func:`parameters` of all networks, one network after the other.
        scalars: what the networks see, ``[edges, edge_dim + 1]``; parameters must be of its dtype and device.
        networks: the networks, if known: an error then names the parameter as the module does.

    Raises:
        TypeError: a parameter has another dtype, or is of a subclass of Tensor.
        ValueError: a parameter has another shape, or is on another device.
    """
    if torch.compiler.is_compiling():  # the compiler checks them itself, and cannot use the cache of shapes
        return
    shapes, key = _shapes(convolution, scalars.shape[1]), (convolution, scalars.shape[1], scalars.dtype, scalars.device)
    some, watched = [v for v in values if v is not None], is_watched()
    if not watched and len(some) == len(shapes) - shapes.count(None) and _SEEN.has(key, some):
        return
    alike = {v.dtype for v in some} == {scalars.dtype} and ({*map(type, some)} <= OWN_TYPES or watched)
    on_device = all(v.is_cpu for v in some) if scalars.is_cpu else {v.device for v in some} == {scalars.device}
    if alike and on_device and [None if v is None else v.shape for v in values] == shapes:
        if not watched:
            _SEEN.add(key, some)
        return
    for i, (value, shape) in enumerate(zip(values, shapes, strict=True)):
        if value is not None or shape is not None:
            _check_parameter(value, shape, scalars, _name(convolution, i, networks))


_SEEN = Seen()


def _check_parameter(value: Any, shape: tuple[int, ...] | None, scalars: Tensor, name: str) -> None:
    dtype, kind = scalars.dtype, type(value).__name__
    if type(value) not in OWN_TYPES or value.dtype != dtype:
        got = getattr(value, "dtype", None)
        raise TypeError(f"{name} must be a tensor of {dtype}, as the layer's first is, got {got}, {kind}")
    if value.device != scalars.device:
        raise ValueError(f"{name} must be on {scalars.device}, as the layer's first is, got one on {value.device}")
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} must have shape {list(shape or ())}, got {list(value.shape)}")


def _name(convolution: Convolution, number: int, networks: Sequence[Any]) -> str:
    """The name of a parameter in errors: the pairs of degrees of its network, and its name in that."""
    network, place = divmod(number, PARAMETERS)
    served = (convolution.ends[i] for i in convolution.by_network[network])
    pairs = " ".join(f"({ends.degree_in},{ends.degree_out})" for ends in served)
    if not networks:
        what = ("weight", "bias", "scale", "shift")[place % 4]
        return f"{pairs}: {what} of layer {place // 4} of the radial network"
    anatomy = networks[network].anatomy
    module, name = anatomy.owners[place]
    return f"{pairs}{anatomy.names[module or 0]}.{name}"


@lru_cache(maxsize=1024)
def _shapes(convolution: Convolution, num_scalars: int) -> list[tuple[int, ...] | None]:
    """The shapes of the parameters of all networks; None where there is no such parameter."""
    vector = (HIDDEN,)
    norm = [vector, vector] if convolution.has_norm else [None, None]
    hidden = [(HIDDEN, num_scalars), vector, *norm, (HIDDEN, HIDDEN), vector, *norm]
    return [
        shape
        for rows in convolution.rows
        for shape in (*hidden, (rows, HIDDEN), (rows,) if convolution.has_bias else None)
    ]


# ---------------------------------------------------------------- parameters of many networks in few tensors


def packed(values: Sequence[Any]) -> list[Tensor | None]:
    """Parameters as C++ reads them, so that autograd records a few tensors and not hundreds.

    Args:
        values: the :func:`parameters` of all networks, one network after the other.

    Returns:
        weight, bias, scale and shift of both hidden layers, each stacked over the networks; the biases of the last
        layers, joined; and the weight of each last layer, which is the bulk and not copied. None for what there is not.
    """
    *hidden_layers, weights, biases = (values[i::PARAMETERS] for i in range(PARAMETERS))
    stacks = [None if column[0] is None else torch.stack(column) for column in hidden_layers]
    return [*stacks, None if biases[0] is None else torch.cat(biases), *weights]


def unpacked(tensors: Sequence[Any]) -> list[Any]:
    """The inverse of :func:`packed`."""
    *stacks, biases = tensors[: PARAMETERS - 1]
    weights = tensors[PARAMETERS - 1 :]
    columns = [[None] * len(weights) if stack is None else stack.unbind() for stack in stacks]
    own = [None] * len(weights) if biases is None else biases.split([len(weight) for weight in weights])
    return [value for network in zip(*columns, weights, own, strict=True) for value in network]


@lru_cache(maxsize=1024)
def packed_shapes(convolution: Convolution, num_scalars: int) -> list[tuple[int, ...] | None]:
    """The shapes of :func:`packed` parameters; None for what there is not."""
    shapes, networks = _shapes(convolution, num_scalars), len(convolution.rows)
    stacks = [None if shape is None else (networks, *shape) for shape in shapes[: PARAMETERS - 2]]
    biases = (sum(convolution.rows),) if convolution.has_bias else None
    return [*stacks, biases, *((rows, HIDDEN) for rows in convolution.rows)]


# ---------------------------------------------------------------- hidden layers of many networks, as one batch


def stacked(networks: Sequence[Sequence[Any]]) -> list[Tensor]:
    """Parameters of both hidden layers of all networks, each ``[networks, ...]``: weight, bias, scale, shift; twice.

    Where a LayerNorm follows, weight and bias are centred over the hidden values: the output then has mean zero, which
    the norm need not subtract. Without a LayerNorm, scale and shift are empty.

    Args:
        networks: the :func:`parameters` of each network.
    """
    layers = []
    for first in (0, 4):
        weights, biases, *norm = zip(*(network[first : first + 4] for network in networks), strict=True)
        weight = torch.stack([_transposed(weight) for weight in weights])
        bias = torch.stack(biases)[:, None]
        if norm[0][0] is None:
            layers += [weight, bias, weight[:, :0], weight[:, :0]]
        else:
            layers += [weight - weight.mean(-1, keepdim=True), bias - bias.mean(-1, keepdim=True)]
            layers += [torch.stack(vector)[:, None] for vector in norm]
    return layers


def _transposed(weight: Tensor) -> Tensor:
    # A single column is viewed as a row, so that its gradient has its strides: DistributedDataParallel warns otherwise.
    return weight.T if weight.shape[1] > 1 else weight.view(1, -1)


def hidden(scalars: Tensor, *parameters: Tensor) -> Tensor:
    """The hidden values g that the last layers see, and a one that multiplies their biases.

    Args:
        scalars: what the networks see, ``[rows, edge_dim + 1]``.
        parameters: from :func:`stacked`.

    Returns:
        ``[networks, rows, 33]``.
    """
    x = scalars.expand(len(parameters[0]), -1, -1)
    for weight, bias, scale, shift in (parameters[:4], parameters[4:]):
        x = torch.baddbmm(bias, x, weight)
        if scale.numel():
            x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)
            x = torch.addcmul(shift, x, scale)
        x = x.relu()
    return pad(x, (0, 1), value=1.0)
