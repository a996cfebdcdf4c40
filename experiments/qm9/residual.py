"""The recipe for HOMO energies: an SE(3)-Transformer with a residual stream, in which nothing jumps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from equivariant_attention.basis import Basis, BasisAndR, get_basis_and_r
from equivariant_attention.fibers import Features, Fiber
from equivariant_attention.graphs import Graph, GraphLike, as_graph, edges_on, graph_of_node, with_edge_fields
from equivariant_attention.modules import GMABSE3, G1x1SE3, GConvSE3Partial
from equivariant_attention.modules.layer_norm import LayerNorm
from equivariant_attention.plan import Plan
from equivariant_attention.segments import segment_max, segment_softmax, segment_sum
from experiments.qm9.targets import ELEMENTS


class SE3TransformerResidual(nn.Module):
    r"""SE(3)-Transformer with a residual stream, in which nothing jumps; the recipe for HOMO energies.

    .. math:: h \leftarrow h + U \, \mathrm{Attention}(D \, \mathrm{Norm}(h)), \qquad
              h \leftarrow h + \mathrm{Node}(\mathrm{Norm}(h)) \qquad \text{num\_layers times}

    The stream h has ``num_channels`` scalars, and a quarter as many channels of each other degree. D mixes them down to
    a third and an eighth for one convolution, which makes keys and values, and U back up. Scalars of the atoms are
    pooled, by maximum and by attention.

    Radial networks see the type of the bond, which two elements it joins, in either order, and Gaussians of its length:
    the same in both directions, whose radial weights are therefore made once.

    Args:
        num_layers: number of attention layers.
        atom_feature_size: number of scalar features per atom, the first of which are one-hot: its element.
        num_channels: scalars of the stream.
        num_degrees: degrees 0 to ``num_degrees - 1``.
        edge_dim: number of scalar features per edge.
        n_heads: number of attention heads.

    Raises:
        ValueError: the layers refuse the channels.
    """

    def __init__(
        self,
        num_layers: int,
        atom_feature_size: int,
        num_channels: int,
        num_degrees: int = 2,
        edge_dim: int = 4,
        n_heads: int = 4,
        **kwargs,
    ) -> None:
        super().__init__()
        self.num_degrees = num_degrees
        stream, sent, keys = (_fiber(num_degrees, num_channels, *parts) for parts in ((1, 4), (3, 8), (6, 24)))
        self.edges = BondFeatures()
        self.embed = nn.Linear(atom_feature_size, num_channels)
        layers, degrees = list[nn.Module](), 1  # atoms are scalars at first
        for _ in range(num_layers):
            first = (Fiber(structure=fiber.structure[:degrees]) for fiber in (stream, sent, keys))
            attention = ResidualAttention(*first, sent, stream, edge_dim + self.edges.num_features, n_heads)
            layers += [attention, NodeNetwork(stream)]
            degrees = num_degrees
        self.layers = nn.ModuleList(layers)
        self.norm = StreamNorm(stream)
        self.pool = ScalarPooling(sum(stream.multiplicities), num_channels)
        self.head = nn.Sequential(nn.Linear(2 * num_channels, num_channels), nn.SiLU(), nn.Linear(num_channels, 1))

    def forward(self, G: Any, basis_and_r: BasisAndR | None = None, plan: Plan | None = None) -> Tensor:
        """One number per molecule, ``[molecules, 1]``; arguments as of :class:`SE3Transformer`."""
        G = self.edges(as_graph(G))
        basis, r = basis_and_r or get_basis_and_r(G, self.num_degrees - 1, plan=plan)
        h = {"0": self.embed(G.ndata["f"].squeeze(-1)).unsqueeze(-1)}
        for layer in self.layers:
            h = layer(h, G=G, r=r, basis=basis)
        return self.head(self.pool(invariants(self.norm(h)), G))


def _fiber(num_degrees: int, num_channels: int, of_scalars: int, of_others: int) -> Fiber:
    """So many parts of the channels for scalars, and for other degrees."""
    others = dict.fromkeys(range(1, num_degrees), num_channels // of_others)
    return Fiber(dictionary={0: num_channels // of_scalars, **others})


class BondFeatures(nn.Module):
    r"""Further features of edges that are the same in both directions: which elements, and Gaussians of the length.

    .. math:: \exp \Big( -\frac{(r - \mu_n)^2}{2 \sigma^2} \Big), \quad \mu_n = 0.9 \ldots 1.7 \text{ Å}

    with 12 centres at distances sigma.

    Attributes:
        num_features: how many they are.
    """

    def __init__(self) -> None:
        super().__init__()
        first, second = torch.triu_indices(len(ELEMENTS), len(ELEMENTS))
        pairs = torch.zeros(len(ELEMENTS), len(ELEMENTS), len(first))
        pairs[first, second, torch.arange(len(first))] = pairs[second, first, torch.arange(len(first))] = 1
        self.register_buffer("pairs", pairs.flatten(0, 1), persistent=False)
        self.register_buffer("centres", torch.linspace(0.9, 1.7, 12), persistent=False)
        self.num_features = len(first) + len(self.centres)

    def forward(self, G: GraphLike) -> Graph:
        """The graph with these after the features that its edges have.

        Args:
            G: with ``ndata['f']``, ``edata['d']`` and ``edata['w']``; not touched.
        """
        element = G.ndata["f"][:, : len(ELEMENTS), 0].argmax(dim=1)
        src, dst = edges_on(G, element.device)
        pair = self.pairs[len(ELEMENTS) * element[src] + element[dst]]
        r = G.edata["d"].norm(dim=-1, keepdim=True)
        gaussians = (-0.5 * ((r - self.centres) / (self.centres[1] - self.centres[0])).square()).exp()
        new = with_edge_fields(G, {**G.edata, "w": torch.cat([G.edata["w"], pair.to(r.dtype), gaussians], dim=1)})
        new.ndata["f"] = G.ndata["f"]
        return new


class ResidualAttention(nn.Module):
    """Attention on what a residual stream sends, added to it.

    Args:
        f_in: fiber of the stream before, which need not have all degrees.
        sent: fiber of what atoms send.
        keys: fiber of keys and queries.
        values: fiber of values.
        f_out: fiber of the stream after, with as many channels.
        edge_dim: number of scalar features per edge.
        n_heads: number of attention heads.
    """

    def __init__(
        self, f_in: Fiber, sent: Fiber, keys: Fiber, values: Fiber, f_out: Fiber, edge_dim: int, n_heads: int
    ) -> None:
        super().__init__()
        both = Fiber(dictionary={l: m + keys.dict.get(l, 0) for m, l in values.structure})
        self.keys = keys
        self.norm = StreamNorm(f_in)
        self.send, self.query = G1x1SE3(f_in, sent), G1x1SE3(f_in, keys)
        self.messages = GConvSE3Partial(sent, both, edge_dim=edge_dim)
        self.attention = GMABSE3(values, keys, n_heads)
        self.project = G1x1SE3(values, f_out)

    def forward(self, h: Features, G: GraphLike, r: Tensor, basis: Basis) -> Features:
        """The stream after it."""
        normal = self.norm(h)
        v = self.messages(self.send(normal), G=G, r=r, basis=basis)
        k = {}
        for m, l in self.keys.structure:
            k[str(l)], v[str(l)] = v[str(l)].split([m, v[str(l)].shape[1] - m], dim=1)
        return added(self.project(self.attention(v, k=k, q=self.query(normal), G=G)), h)


class NodeNetwork(nn.Module):
    """A network of the invariants of each atom, which makes new scalars and scales mixed vectors; added to the stream.

    Args:
        stream: fiber of the residual stream.
    """

    def __init__(self, stream: Fiber) -> None:
        super().__init__()
        channels, self.sizes = sum(stream.multiplicities), stream.multiplicities
        others = stream.structure[1:]
        self.norm = StreamNorm(stream)
        self.mix = G1x1SE3(stream, Fiber(structure=others)) if others else None
        self.net = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, h: Features, **kwargs) -> Features:
        """The stream after it."""
        normal = self.norm(h)
        mixed = self.mix(normal) if self.mix else {}
        scalars, *gates = self.net(invariants({"0": normal["0"], **mixed})).split(self.sizes, dim=1)
        scaled = {l: gate.unsqueeze(-1) * v for (l, v), gate in zip(mixed.items(), gates, strict=True)}
        return added({"0": scalars.unsqueeze(-1), **scaled}, h)


class StreamNorm(nn.Module):
    r"""LayerNorm of scalars, and something like it of each other degree.

    .. math:: v_c \leftarrow \gamma_c \, v_c \Big/ \sqrt{1 + \tfrac{1}{m} \sum_{c'} |v_{c'}|^2}

    The 1 is not to be a small number: what vanishes by symmetry, up to rounding, would grow in every layer, and the
    model, although it is continuous, would jump.

    Args:
        fiber: of input and output; degree 0 is its first.
    """

    def __init__(self, fiber: Fiber) -> None:
        super().__init__()
        self.scalars = LayerNorm(fiber.multiplicities[0])
        self.scale = nn.ParameterDict({str(l): nn.Parameter(torch.ones(m, 1)) for m, l in fiber.structure[1:]})

    def forward(self, h: Features) -> Features:
        """The normalised features."""
        others = {
            l: scale * h[l] / (1 + h[l].square().sum(dim=2, keepdim=True).mean(dim=1, keepdim=True)).sqrt()
            for l, scale in self.scale.items()
        }
        return {"0": self.scalars(h["0"].squeeze(-1)).unsqueeze(-1), **others}


class ScalarPooling(nn.Module):
    """Scalars of the atoms of each molecule, pooled by maximum and by attention.

    Args:
        num_inputs: invariants of each atom.
        num_channels: of each kind of pooling.
    """

    def __init__(self, num_inputs: int, num_channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(num_inputs, num_channels), nn.SiLU(), nn.Linear(num_channels, 3 * num_channels)
        )

    def forward(self, x: Tensor, G: GraphLike) -> Tensor:
        """``[atoms, num_inputs]`` to ``[molecules, 2 num_channels]``."""
        largest, values, logits = self.net(x).chunk(3, dim=1)
        molecule, molecules = graph_of_node(G), G.batch_size
        weights = segment_softmax(logits, molecule, molecules).to(values.dtype)
        return torch.cat(
            [segment_max(largest, molecule, molecules), segment_sum(weights * values, molecule, molecules)], dim=1
        )


def invariants(h: Features) -> Tensor:
    r"""Scalars, and :math:`\sqrt{1 + |v|^2} - 1` of all other channels, which is smooth: ``[atoms, channels]``."""
    scalars, *others = h.values()
    squares = [v.square().sum(dim=2) for v in others]
    return torch.cat([scalars.squeeze(-1), *(square / ((1 + square).sqrt() + 1) for square in squares)], dim=1)


def added(change: Features, h: Features) -> Features:
    """The sum, degree by degree; what h does not have counts as zero."""
    return {l: value + h[l] if l in h else value for l, value in change.items()}
