"""Weights and layers of NVIDIA's dialect turned into others: for other signs of e3nn, and into published layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..checks import first_parameter
from ..modules import (
    G1x1SE3,
    GAvgPooling,
    GConvSE3,
    GConvSE3Partial,
    GMaxPooling,
    GNormSE3,
    GSE3Res,
    PairwiseConv,
)
from ..nvidia.fiber import plain_fiber
from ..nvidia.layers import AttentionBlockSE3, ConvSE3, GPooling, LinearSE3, NormSE3
from ..nvidia.layout import Layout, Network, networks_of, scales
from ..nvidia.transformer import SE3Transformer
from ..published.conversion import check_signs
from ..published.tables import Triple, triples

M = TypeVar("M", bound=nn.Module)
# Of e3nn's Wigner 3j symbols in another version beside those since 0.5: (k, l, J) of which they are the opposite.
_OPPOSITE = {"e3nn-0.3": ((1, 2, 2), (1, 3, 3), (2, 1, 2), (2, 2, 1), (3, 1, 3), (3, 3, 1))}


def converted(
    state_dict: Mapping[str, Any], model: nn.Module, signs: str | Mapping[Triple, int] = "e3nn-0.3"
) -> OrderedDict[str, Any]:
    r"""Weights that were trained with couplings of other signs, for those here, or the other way.

    The couplings are e3nn's Wigner 3j symbols of (J, k, l). Those of e3nn 0.3, which RFdiffusion, RoseTTAFold2NA and
    RoseTTAFold-All-Atom pin, have other signs for some degrees above 1. Networks of degrees 0 and 1, as all released
    ones of proteins, need no conversion. To convert twice gives the weights again.

    Args:
        state_dict: of ``model``, in any layout of its radial networks.
        model: a :class:`ConvSE3`, or anything that holds some.
        signs: 'e3nn-0.3', or ``{(k, l, J): 1 or -1}``, where what is absent is 1.

    Returns:
        an OrderedDict, as of ``state_dict()``, with the same names. Changed values are new tensors, others are shared.

    Raises:
        TypeError: an argument has another type.
        ValueError: there are no such signs, or ``state_dict`` is not of ``model``.
    """
    if isinstance(signs, str):
        if signs not in _OPPOSITE:
            raise ValueError(f"signs must be one of {sorted(_OPPOSITE)} or {{(k, l, J): 1 or -1}}, got {signs!r}")
        signs = dict.fromkeys(_OPPOSITE[signs], -1)
    check_signs(signs)
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict must be a mapping from names to tensors, got {type(state_dict).__name__}")
    found = OrderedDict(state_dict)
    for name, layer in model.named_modules():
        if isinstance(layer, ConvSE3):
            prefix = f"{name}." if name else ""
            layout = layer.layout_in(state_dict, prefix)
            if layout is None:
                raise ValueError(f"state_dict must be of the model: it has no radial networks of {name or 'it'}")
            for network in networks_of(layout, layer.sent, layer.made):
                key = f"{prefix}{network.name}.radial_func.net.{6 if layer.use_layer_norm else 4}.weight"
                found[key] = _with_signs(found[key], network, signs, key)
    return found


def _with_signs(weight: Any, network: Network, signs: Mapping[Triple, int], name: str) -> Tensor:
    if not isinstance(weight, Tensor) or weight.dim() != 2 or len(weight) != network.rows:
        got = list(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
        raise ValueError(f"{name} must have shape [{network.rows}, hidden values], got {got}")
    pattern = [signs.get(triple, 1) for k, l in network.pairs for triple in triples(k, l)]
    if -1 not in pattern:
        return weight
    rows = torch.tensor(pattern, dtype=weight.dtype, device=weight.device).repeat(len(weight) // len(pattern))
    return weight.detach() * rows[:, None]


def to_published(model: nn.Module) -> nn.Module:
    """The published layers that compute the same function as layers of NVIDIA's dialect, with weights of their own.

    These take ``edata['d']``, NVIDIA's ``'rel_pos'``, and ``edata['w']``, its scalars of the edges.

    Args:
        model: a :class:`LinearSE3`, :class:`NormSE3`, :class:`ConvSE3`, :class:`AttentionBlockSE3`, :class:`GPooling`
            or :class:`SE3Transformer`.

    Returns:
        :class:`~equivariant_attention.modules.G1x1SE3`, ``GNormSE3``, ``GConvSE3`` or (without ``pool``)
        ``GConvSE3Partial``, ``GSE3Res``, a pooling; or for a whole transformer an ``nn.ModuleList`` of these, to be
        called one after the other.

    Raises:
        TypeError: ``model`` is of another class.
        ValueError: no published layer computes this function; the message says why.
    """
    for kind, convert in _CONVERTERS.items():
        if isinstance(model, kind):
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                return convert(model)
    raise TypeError(f"model must be a layer or model of equivariant_attention.nvidia, got {type(model).__name__}")


def _like(source: nn.Module, made: M) -> M:
    """The module that was made, with parameters of the dtype and device of the source: before these are copied."""
    parameter = first_parameter(source)
    return made if parameter is None else made.to(parameter)


def _transformer(model: SE3Transformer) -> nn.ModuleList:
    if model.populate_edge != "lin":
        raise ValueError(
            f"published radial networks see the distance itself, not populate_edge={model.populate_edge!r}"
        )
    layers: list[nn.Module] = [*model.graph_modules]
    if model.pooling is not None:
        layers.append(model.pooling_module)
    return nn.ModuleList(map(to_published, layers))


def _linear(layer: LinearSE3) -> G1x1SE3:
    made = _like(layer, G1x1SE3(plain_fiber(layer.fiber_in, "fiber_in"), plain_fiber(layer.fiber_out, "fiber_out")))
    made.load_state_dict({f"transform.{degree}": W for degree, W in layer.weights.items()})
    return made


def _norm(layer: NormSE3) -> GNormSE3:
    made = _like(layer, GNormSE3(plain_fiber(layer.fiber, "fiber"), nonlin=layer.nonlinearity))
    degrees, first = [str(degree) for degree in layer.fiber.degrees], 0
    weights: dict[str, Tensor] = {}
    for degree, m in zip(degrees, layer.fiber.channels, strict=True):
        together = "group_norm" in layer._modules
        one: Any = layer.group_norm if together else layer.layer_norms[degree]
        part = slice(first, first + m) if together else slice(None)
        weights |= {f"transform.{degree}.0.bn.{name}": value[part] for name, value in one.named_parameters()}
        first += m
    made.load_state_dict(weights)
    return made


def _pooling(layer: GPooling) -> nn.Module:
    return GMaxPooling() if layer.pool == "max" else GAvgPooling(str(layer.feat_type))


def _convolution(layer: ConvSE3) -> nn.Module:
    _check_kernels(layer)
    f_in, f_out = plain_fiber(layer.fiber_in, "fiber_in"), plain_fiber(layer.fiber_out, "fiber_out")
    options: dict[str, Any] = {
        "edge_dim": layer.fiber_edge[0],
        "mid_dim": layer.mid_dim,
        "act_fn": layer.nonlinearity or nn.ReLU,
    }
    if not layer.pool:
        if layer.self_interaction:
            raise ValueError("published messages have no self-interaction: it needs pool=True")
        made = _like(layer, GConvSE3Partial(f_in, f_out, **options))
        _fill_kernels(made.kernel_unary, layer, dict.fromkeys(f_out.degrees, 0))
        return made
    if layer.sum_over_edge:
        raise ValueError(
            "published convolutions take the mean over incoming edges, not the sum: with sum_over_edge=False, or "
            "final_layer='lin' or 'att', there is one of the same function"
        )
    pooled = _like(layer, GConvSE3(f_in, f_out, self_interaction=layer.self_interaction, **options))
    _fill_kernels(pooled.kernel_unary, layer, dict.fromkeys(f_out.degrees, 0))
    for degree, S in layer.to_kernel_self.items():
        pooled.kernel_self[degree].copy_(S[None])
    return pooled


def _attention(block: AttentionBlockSE3) -> GSE3Res:
    layer = block.to_key_value
    _check_kernels(layer)
    f_in, f_out = plain_fiber(block.fiber_in, "fiber_in"), plain_fiber(block.fiber_out, "fiber_out")
    divisors = {block.divisors[degree] for degree in f_out.degrees}
    if len(divisors) > 1:
        raise ValueError(f"published layers have one divisor for all degrees, got channels_div of {sorted(divisors)}")
    made = GSE3Res(
        f_in,
        f_out,
        edge_dim=layer.fiber_edge[0],
        div=divisors.pop(),
        n_heads=block.attention.num_heads,
        mid_dim=layer.mid_dim,
        act_fn=layer.nonlinearity or nn.ReLU,
    )
    _like(layer, made)
    for part, first in (("v", dict.fromkeys(f_out.degrees, 0)), ("k", dict(block.value_fiber.items()))):
        partial: Any = made.GMAB[part]
        _fill_kernels(partial.kernel_unary, layer, first)
    made.GMAB["q"], made.project = _linear(block.to_query), _linear(block.project)
    return made


def _check_kernels(layer: ConvSE3) -> None:
    if layer.layout is not Layout.PAIR:
        raise ValueError(
            "published convolutions have a radial network for every pair of degrees, and here one serves several: "
            "this is a model of fuse level NONE, low_memory=True, alone"
        )
    if not layer.use_layer_norm:
        raise ValueError("published radial networks have LayerNorms: this needs use_layer_norm=True")
    if dict(layer.sent) != dict(layer.fiber_in.items()):
        raise ValueError(f"published layers have no edge features above degree 0, got {layer.fiber_edge}")


def _fill_kernels(kernels: nn.ModuleDict, layer: ConvSE3, first: Mapping[int, int]) -> None:
    """Give published kernels the weights for some channels out of each degree, from the ``first`` on."""
    networks: Any = layer.conv
    for kernel in kernels.values():
        assert isinstance(kernel, PairwiseConv)
        k, l = kernel.degree_in, kernel.degree_out
        source = networks[f"{k},{l}"].radial_func.net
        for i in (0, 1, 3, 4):  # Linear, LayerNorm, twice
            target: Any = kernel.rp.net[i]
            target = getattr(target, "bn", target)
            target.weight.copy_(source[i].weight)
            target.bias.copy_(source[i].bias)
        rows = source[6].weight.unflatten(0, (-1, kernel.nc_in, kernel.num_freq))
        rows = rows[first[l] : first[l] + kernel.nc_out] * rows.new_tensor(scales(k, l, is_alone=True))[:, None]
        kernel.rp.last.weight.copy_(rows.flatten(0, 2))
        kernel.rp.last.bias.zero_()


_CONVERTERS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    SE3Transformer: _transformer,
    AttentionBlockSE3: _attention,
    ConvSE3: _convolution,
    LinearSE3: _linear,
    NormSE3: _norm,
    GPooling: _pooling,
}
