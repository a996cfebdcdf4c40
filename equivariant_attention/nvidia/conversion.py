"""Weights and layers of NVIDIA's dialect turned into others: for other signs of e3nn, and into published layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ..checks import first_parameter
from ..contraction.radial import HIDDEN, changed
from ..fibers import Fiber as PlainFiber
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
from ..nvidia.layers import AttentionBlockSE3, ConvSE3, GPooling, LinearSE3, NormSE3, RadialProfile
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
                raise ValueError(f"state_dict must be of the model, got one without radial networks of {name or 'it'}")
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

    A radial network that serves several pairs of degrees becomes one for each pair: they begin as copies, and differ
    once they are trained. The layers take ``edata['d']``, NVIDIA's ``'rel_pos'``; ``edata['w']``, its scalars of the
    edges; and ``edata['f1']``, ``edata['f2']``, ..., its other edge features.

    Args:
        model: a :class:`LinearSE3`, :class:`NormSE3`, :class:`ConvSE3`, :class:`AttentionBlockSE3`, :class:`GPooling`
            or :class:`SE3Transformer`.

    Returns:
        :class:`~equivariant_attention.modules.G1x1SE3`, ``GNormSE3``, ``GConvSE3`` (which adds the messages up where
        ``model`` does) or (without ``pool``) ``GConvSE3Partial``, ``GSE3Res``, a pooling; or for a whole transformer
        an ``nn.ModuleList`` of these, to be called one after the other.

    Raises:
        TypeError: ``model`` is of another class.
        ValueError: no published layer computes this function: a radial network has no LayerNorms, or sees of the
            distance what ``populate_edge`` makes of it; messages have a self-interaction; or no number of channels
            that each divide among the heads has room for keys and values of several divisors.
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
    made = _like(layer, G1x1SE3(*_fibers(layer)))
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
    (f_in, f_out), options = _fibers(layer), _options(layer)
    made: GConvSE3Partial | GConvSE3
    if not layer.pool:
        if layer.self_interaction:
            raise ValueError("published messages have no self-interaction: it needs pool=True")
        made = _like(layer, GConvSE3Partial(f_in, f_out, **options))
    else:
        reduce = "sum" if layer.sum_over_edge else "mean"
        made = GConvSE3(f_in, f_out, self_interaction=layer.self_interaction, reduce=reduce, **options)
        _like(layer, made)
        for degree, S in layer.to_kernel_self.items():
            made.kernel_self[degree].copy_(S[None])
    _fill_kernels(made.kernel_unary, layer, {l: (0, range(m)) for l, m in layer.fiber_out.items()})
    return made


def _attention(block: AttentionBlockSE3) -> GSE3Res:
    """Attention with one divisor for all degrees, the smallest. Where that leaves more channels, those added are 0."""
    layer, heads = block.to_key_value, block.attention.num_heads
    f_in, f_out = _fibers(block)
    div = min(block.divisors[degree] for degree in f_out.degrees)
    made = _like(layer, GSE3Res(f_in, f_out, div=div, n_heads=heads, **_options(layer)))
    value, key = made.f_mid_out.dict, made.f_mid_in
    q: Any = made.GMAB["q"]
    project: Any = made.project
    places = {
        l: torch.arange(value[l]).view(heads, -1)[:, : m // heads].flatten().tolist()
        for l, m in block.value_fiber.items()
    }
    of_parts = {
        "v": {l: (0, at) for l, at in places.items()},
        "k": {l: (block.value_fiber[l], places[l]) for l in key.degrees},
    }
    for part, channels in of_parts.items():
        kernels: Any = made.GMAB[part].kernel_unary
        _fill_kernels(kernels, layer, channels)
    scale = (key.n_features / block.key_fiber.num_features) ** 0.5  # by which the logits are divided too much
    for degree, W in block.to_query.weights.items():
        q.transform[degree].zero_()[places[int(degree)]] = scale * W
    for degree, W in block.project.weights.items():
        l = int(degree)
        columns = [*places[l], *range(value[l], value[l] + block.fiber_in[l])]
        project.transform[degree].zero_()[:, columns] = W
    return made


def _fibers(layer: Any) -> tuple[PlainFiber, PlainFiber]:
    return plain_fiber(layer.fiber_in, "fiber_in"), plain_fiber(layer.fiber_out, "fiber_out")


def _options(layer: ConvSE3) -> dict[str, Any]:
    """The arguments that all published layers with messages share."""
    if not layer.use_layer_norm:
        raise ValueError(
            "published radial networks have LayerNorms, so that their hidden values do not grow with their input: "
            "those of use_layer_norm=False are other functions"
        )
    on_edges = {k: m - layer.fiber_in[k] for k, m in layer.sent if m > layer.fiber_in[k]}
    return {
        "edge_dim": layer.fiber_edge[0],
        "mid_dim": layer.mid_dim,
        "act_fn": layer.nonlinearity or nn.ReLU,
        "f_edge": PlainFiber(dictionary=on_edges) if on_edges else None,
    }


def _fill_kernels(kernels: nn.ModuleDict, layer: ConvSE3, channels: Mapping[int, tuple[int, Sequence[int]]]) -> None:
    """Give published kernels the weights of the radial networks that serve their pairs of degrees.

    Args:
        kernels: what is given; channels out that get none are 0.
        layer: whose networks they are.
        channels: by degree out, the first of the layer's channels, and where it and those after it belong.
    """
    networks = zip(networks_of(layer.layout, layer.sent, layer.made), layer.networks, strict=True)
    serving = {pair: (network, module) for network, module in networks for pair in network.pairs}
    for kernel in kernels.values():
        assert isinstance(kernel, PairwiseConv)
        k, l = kernel.degree_in, kernel.degree_out
        network, module = serving[k, l]
        _check_as_made(layer, module, network.name)
        for i in (0, 1, 3, 4):  # Linear, LayerNorm, twice
            source, target = cast(nn.Linear, module.net[i]), kernel.rp.net[i]
            target = cast(nn.Linear, getattr(target, "bn", target))
            target.weight.copy_(source.weight)
            target.bias.copy_(source.bias)
        first, places = channels[l]
        rows = cast(nn.Linear, module.net[6]).weight.unflatten(0, (network.channels_out, network.channels_in, -1))
        rows = rows[first : first + len(places), :, network.before((k, l)) :][:, :, : kernel.num_freq]
        factors = rows.new_tensor(scales(k, l, is_alone=layer.layout is Layout.PAIR))
        own = kernel.rp.last.weight.zero_().unflatten(0, (kernel.nc_out, kernel.nc_in, -1))
        own[list(places)] = rows * factors[:, None]
        kernel.rp.last.bias.zero_()


def _check_as_made(layer: ConvSE3, network: RadialProfile, name: str) -> None:
    """Refuse a radial network that computes something else than its parameters tell."""
    if layer.nonlinearity is None and layer.mid_dim == HIDDEN and (which := changed(network)):
        raise ValueError(f"{name}{which} must be as it was made: it has hooks, or another class or epsilon")


_CONVERTERS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    SE3Transformer: _transformer,
    AttentionBlockSE3: _attention,
    ConvSE3: _convolution,
    LinearSE3: _linear,
    NormSE3: _norm,
    GPooling: _pooling,
}
