"""Calls ``norm.cpp``: norms of features, norm nonlinearities, and their derivatives.

All keep the directions of features. :class:`~equivariant_attention.modules.GNormSE3` says which norms count as zero.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..native.calls import Threads, address, array, call
from ..native.operation import Operation, Plain, Tensors, empty_like, if_used, split
from ..native.operators import or_zeros, register

SOURCE = str(Path(__file__).with_suffix(".cpp"))


class Zero(NamedTuple):
    """Which norms count as zero.

    Attributes:
        smallest: norms below it are raised to it.
        noise: for each degree, the fraction of a node's largest norm below which a norm is taken for rounding noise.
    """

    smallest: float
    noise: Sequence[float]


def norms(zero: Zero, keepdim: bool, plain: Plain = None) -> Operation:
    """The norms of features as a differentiable operation; ``plain`` is the same function in PyTorch.

    Its tensors are features, degree by degree. Its values are ``[nodes, channels]``, or ``[nodes, channels, 1]`` with
    ``keepdim``.
    """

    def allocate(values: Tensors) -> list[Tensor]:
        return [v.new_empty(*v.shape[:2], *[1] * keepdim) for v in values]

    def forward(values: Tensors, output: Sequence[Tensor]) -> None:
        _call("norms", zero, values, output)

    def gradient(values: Tensors, needed: Sequence[bool], by_output: Tensors) -> Tensors:
        derivatives = empty_like(values, if_used(needed, by_output))
        _call("norms_gradient", zero, values, by_output, dvalues=derivatives)
        return derivatives

    return Operation("norms", (zero.smallest, zero.noise, keepdim), allocate, forward, gradient, plain)


def rescaled(zero: Zero, plain: Plain = None) -> Operation:
    """Features rescaled to given norms: the tensors are features, then norms, of either shape of :func:`norms`."""
    return _with_parameters("rescaled", zero, plain, ("scale",))


def biased(zero: Zero, plain: Plain = None) -> Operation:
    """Features rescaled to ReLU(norm + bias): the tensors are features, then biases, ``[1, channels]``."""
    return _with_parameters("biased", zero, plain, ("scale",))


def normalised(zero: Zero, eps: float, plain: Plain = None) -> Operation:
    """Features rescaled to ReLU(LayerNorm(norms)): the tensors are features, then its weights, then its biases."""
    operation = _with_parameters("normalised", zero, plain, ("scale", "shift"), eps)
    return replace(operation, second=partial(_second_of_normalised, zero, eps))


def _second_of_normalised(
    zero: Zero, eps: float, tensors: Tensors, gradients: Tensors, tangents: Tensors, needed: Sequence[bool]
) -> tuple[Tensors, Sequence[Tensor]]:
    values, scale, shift = split(tensors, 3)
    derivatives, toutput = empty_like(tensors, if_used(needed, gradients)), [torch.empty_like(v) for v in values]
    arriving = or_zeros(gradients, values)
    names = ("scale", "shift", "tvalues", "tscale", "tshift", "dvalues", "dscale", "dshift", "toutput")
    places = (scale, shift, *split(tangents, 3), *split(derivatives, 3), toutput)
    _call("normalised_second", zero, values, arriving, (eps,), **dict(zip(names, places, strict=True)))
    return derivatives, toutput


def _with_parameters(name: str, zero: Zero, plain: Plain, parameters: Sequence[str], *eps: float) -> Operation:
    """An operation that rescales features: its tensors are features, degree by degree, then each parameter likewise."""

    def allocate(tensors: Tensors) -> list[Tensor]:
        return [torch.empty_like(v) for v in split(tensors, 1 + len(parameters))[0]]

    def forward(tensors: Tensors, output: Sequence[Tensor]) -> None:
        values, *others = split(tensors, 1 + len(parameters))
        _call(name, zero, values, output, eps, **dict(zip(parameters, others, strict=True)))

    def gradient(tensors: Tensors, needed: Sequence[bool], by_output: Tensors) -> Tensors:
        values, *others = split(tensors, 1 + len(parameters))
        derivatives = empty_like(tensors, if_used(needed, by_output))
        dvalues, *dothers = split(derivatives, 1 + len(parameters))
        places = zip([*parameters, *(f"d{p}" for p in parameters)], [*others, *dothers], strict=True)
        _call(f"{name}_gradient", zero, values, by_output, eps, dvalues=dvalues, **dict(places))
        return derivatives

    return Operation(name, (zero.smallest, zero.noise, *eps), allocate, forward, gradient, plain)


register("norms", "float smallest, float[] noise, bool keepdim", lambda s, n, keepdim: norms(Zero(s, n), keepdim))
for _name, _make in (("rescaled", rescaled), ("biased", biased)):
    register(_name, "float smallest, float[] noise", lambda *zero, make=_make: make(Zero(*zero)))
register("normalised", "float smallest, float[] noise, float eps", lambda s, n, eps: normalised(Zero(s, n), eps))


class _Part(ctypes.Structure):
    """``norm.cpp`` says what the fields of this structure and the next one are."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("channels", "orders")),
        ("noise", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("values", "scale", "shift", "dvalues", "dscale", "dshift")),
        *((name, ctypes.c_void_p) for name in ("tvalues", "tscale", "tshift", "output", "toutput")),
    )


class _Norm(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_nodes", "num_parts")),
        *((name, ctypes.c_double) for name in ("smallest", "eps")),
        ("parts", ctypes.POINTER(_Part)),
        ("threads", Threads),
    )


def _call(
    function: str, zero: Zero, values: Tensors, output: Tensors, eps: Sequence[float] = (), **others: Tensors
) -> None:
    parts = array(_Part, len(values))()
    for i, (part, v, noise, out) in enumerate(zip(parts, values, zero.noise, output, strict=True)):
        part.channels, part.orders, part.noise = v.shape[1], v.shape[2], noise
        part.values, part.output = address(v), address(out)
        for name, tensors in others.items():
            setattr(part, name, address(tensors[i]))
    call(
        SOURCE,
        function,
        values[0].dtype,
        _Norm(len(values[0]), len(values), zero.smallest, *(eps or (0,)), parts, Threads()),
    )
