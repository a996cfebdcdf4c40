"""The radial networks of NVIDIA's convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...checks import check_floating_point, check_whole_number
from ...contraction.radial import HIDDEN, Anatomy
from ...modules.layer_norm import LayerNorm
from ...nvidia.layout import ConvSE3FuseLevel


class RadialProfile(nn.Module):
    r"""Radial weights :math:`R(|x|, w)` of one or several pairs of degrees.

    Linear, LayerNorm, ReLU, Linear, LayerNorm, ReLU, Linear without bias, with 32 hidden values. With another width or
    nonlinearity messages are computed by calling it, which is slower.

    Args:
        num_freq: number of basis kernels.
        channels_in, channels_out: of every pair of degrees.
        edge_dim: number of scalars per edge, the distance included.
        mid_dim: hidden values.
        use_layer_norm: whether there are LayerNorms.
        nonlinearity: in place of ReLU, a module; it stands in both places.

    Raises:
        ValueError: a number is not a whole one of at least 1.
    """

    def __init__(
        self,
        num_freq: int,
        channels_in: int,
        channels_out: int,
        edge_dim: int = 1,
        mid_dim: int = HIDDEN,
        use_layer_norm: bool = False,
        nonlinearity: nn.Module | None = None,
    ) -> None:
        super().__init__()
        numbers = {"num_freq": num_freq, "channels_in": channels_in, "channels_out": channels_out}
        for name, value in (*numbers.items(), ("edge_dim", edge_dim), ("mid_dim", mid_dim)):
            check_whole_number(value, 1, name)
        self.num_freq, self.channels_in, self.channels_out = num_freq, channels_in, channels_out
        self.edge_dim, self.mid_dim, self.use_layer_norm = edge_dim, mid_dim, use_layer_norm
        modules: list[nn.Module] = []
        for width in (edge_dim, mid_dim):
            modules.append(nn.Linear(width, mid_dim))
            modules += [LayerNorm(mid_dim)] * use_layer_norm
            modules.append(nn.ReLU() if nonlinearity is None else nonlinearity)
        self.net = nn.Sequential(*modules, nn.Linear(mid_dim, num_freq * channels_in * channels_out, bias=False))

    def forward(self, features: Tensor) -> Tensor:
        """The weights of every edge.

        Args:
            features: the scalars of every edge, the distance last, ``[edges, edge_dim]``.

        Returns:
            ``[edges, channels_out * channels_in * num_freq]``, numbered in this order.

        Raises:
            TypeError, ValueError: ``features`` has another shape, dtype or device.
        """
        check_floating_point(features, "features", self)
        if features.shape[1:] != (self.edge_dim,):
            raise ValueError(f"features must have shape [edges, {self.edge_dim}], got {list(features.shape)}")
        return self.net(features)

    forms_kernels = False  # to the engine: it is not called as a PairwiseConv is

    def radial_weights(self, scalars: Tensor) -> Tensor:
        """The same for ``scalars``: what the engine calls."""
        return self(scalars)

    def radial_modules(self) -> tuple[nn.Module, ...]:
        """The modules of the network, as the anatomy names them; an error where it is made of others."""
        net = self._modules["net"]
        return self, net, *net._modules.values()  # type: ignore

    @property
    def anatomy(self) -> Anatomy:
        """What the engine may read."""
        return _WITH_NORMS if self.use_layer_norm else _WITHOUT_NORMS

    def extra_repr(self) -> str:
        return (
            f"num_freq={self.num_freq}, channels_in={self.channels_in}, channels_out={self.channels_out}, "
            f"edge_dim={self.edge_dim}"
        )


def _anatomy(*hidden: type[nn.Module]) -> Anatomy:
    """Of a network with twice these layers before the last."""
    layers = (*hidden, *hidden, nn.Linear)
    linears = (2, 2 + len(hidden), 2 + 2 * len(hidden))
    return Anatomy(
        names=("", ".net", *(f".net.{i}" for i in range(len(layers)))),
        classes=(RadialProfile, nn.Sequential, *layers),
        linears=linears,
        norms=tuple(linear + 1 for linear in linears[:2]) if LayerNorm in hidden else (),
        has_bias=False,
    )


_WITH_NORMS, _WITHOUT_NORMS = _anatomy(nn.Linear, LayerNorm, nn.ReLU), _anatomy(nn.Linear, nn.ReLU)


class VersatileConvSE3(nn.Module):
    r"""Messages of all pairs of degrees that one radial network serves.

    It holds the network. :class:`ConvSE3` computes the messages of all its networks at once, and does not call this.

    Args:
        freq_sum: number of basis kernels of all pairs.
        channels_in, channels_out, use_layer_norm: as in :class:`RadialProfile`.
        edge_dim: number of scalars per edge, the distance included.
        fuse_level, low_memory: without effect; which pairs there are is told by what ``forward`` is given.
        mid_dim, nonlinearity: as in :class:`RadialProfile`.
    """

    def __init__(
        self,
        freq_sum: int,
        channels_in: int,
        channels_out: int,
        edge_dim: int,
        use_layer_norm: bool,
        fuse_level: ConvSE3FuseLevel,
        low_memory: bool = False,
        mid_dim: int = HIDDEN,
        nonlinearity: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.freq_sum, self.channels_in, self.channels_out = freq_sum, channels_in, channels_out
        self.fuse_level = fuse_level
        self.radial_func = RadialProfile(
            freq_sum, channels_in, channels_out, edge_dim, mid_dim, use_layer_norm, nonlinearity
        )

    def forward(self, features: Tensor, invariant_edge_feats: Tensor, basis: Tensor | None) -> Tensor:
        """Messages along the edges.

        Args:
            features: what is sent along every edge, ``[edges, channels_in, a]``.
            invariant_edge_feats: scalars of every edge, the distance last, ``[edges, edge_dim]``.
            basis: ``[edges, a, freq_sum, b]``; None for 1, between scalars.

        Returns:
            ``[edges, channels_out, b]``.
        """
        R = self.radial_func(invariant_edge_feats).view(len(features), self.channels_out, -1)
        if basis is None:
            return R @ features
        steered = torch.einsum("eia,eafb->eifb", features, basis)
        return R @ steered.flatten(1, 2)
