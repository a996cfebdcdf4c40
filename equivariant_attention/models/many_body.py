"""A potential energy of many-body correlations, which atoms send each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..checks import check_positive, check_whole_number
from ..envelope import edge_envelope
from ..graphs import GraphLike, edges_on
from ..models.atomic_energies import AtomicEnergies
from ..models.couplings import Mixed, coupled, paths
from ..models.elements import LARGEST_ATOMIC_NUMBER
from ..models.radial_basis import RadialBasis
from ..plan import Plan, relative_positions
from ..printing import OneLine
from ..so3 import spherical_harmonics
from ..so3.vectors import length_and_direction


class ManyBodyPotential(AtomicEnergies):
    r"""Energy as a sum over atoms, of correlations of the densities around them, which are sent on as messages.

    .. math:: A_i = \frac{1}{\sqrt{n}} W \sum_{j \in N_i} u_{ij} R(r_{ij}, z_i, z_j) \, (Y(x_i - x_j) \otimes h_j), \\
              B^1_i = A_i, \quad B^{\nu}_i = W (B^{\nu - 1}_i \otimes A_i), \\
              h_i \leftarrow W h_i + \sum_\nu W B^\nu_i, \qquad
              E = \sum_i \epsilon_{z_i} + \sigma \sum_t \mathrm{MLP}_t(h^{(t) 0}_i, z_i)

    A density A gathers spherical harmonics Y of the directions to the neighbours, times what these send and radial
    weights R of a small network of distance and both elements. Products with itself correlate 2, 3, ... neighbours at
    once, so that few layers tell what other networks need many for. All products are those of Clebsch and Gordan,
    channel by channel; W mixes channels and paths of a degree. Features h begin with the elements alone. u is the
    envelope, and n ``num_neighbors``. The atomic cluster expansion (doi:10.1103/PhysRevB.99.014104) with messages, as
    in MACE (arXiv 2206.07697). It is smooth wherever atoms are apart, and energies of mirror images are the same.

    >>> model = ManyBodyPotential(cutoff=5.0)
    >>> energy, forces, stress = model.predict(z, x, batch, cell)  # in units of the data

    Args:
        cutoff: how far edges reach, finite and larger than 0. It belongs to the model.
        num_channels: of every degree.
        max_degree: of densities and their correlations.
        max_degree_sent: of the features that atoms send each other, at most ``max_degree``.
        num_layers: how many times densities are gathered, at least 1.
        correlation: how many densities are multiplied, at least 1.
        num_embedding: numbers that stand for an element.
        num_neighbors: n, about how many neighbours an atom has.
        num_hidden: width of the networks, which have two hidden layers for R and one for energies.
        radial_basis, num_radial: what R sees of a distance, see :class:`~equivariant_attention.models.RadialBasis`.
        envelope: p of the :func:`~equivariant_attention.envelope.polynomial_envelope`, at least 1; None for edges that
            end sharply, where energies jump.

    Attributes:
        reference, scale: as above, ``[119]`` and one number.
        known: the elements that references are of, bool ``[119]``; where there are any, others are refused.

    Raises:
        ValueError: an argument has another value.
    """

    def __init__(
        self,
        cutoff: float,
        num_channels: int = 32,
        max_degree: int = 2,
        max_degree_sent: int = 1,
        num_layers: int = 2,
        correlation: int = 3,
        *,
        num_embedding: int = 8,
        num_neighbors: float = 8.0,
        num_hidden: int = 32,
        radial_basis: str = "bessel",
        num_radial: int = 8,
        envelope: int | None = 6,
    ) -> None:
        super().__init__(cutoff, envelope)
        self.radial = RadialBasis(radial_basis, num_radial, cutoff)
        for name, value, least in (
            ("num_channels", num_channels, 1),
            ("max_degree", max_degree, 0),
            ("max_degree_sent", max_degree_sent, 0),
            ("num_layers", num_layers, 1),
            ("correlation", correlation, 1),
            ("num_embedding", num_embedding, 1),
            ("num_hidden", num_hidden, 1),
        ):
            check_whole_number(value, least, name)
        check_positive(num_neighbors, "num_neighbors")
        if math.isinf(num_neighbors):
            raise ValueError(f"num_neighbors must be finite, got {num_neighbors}")
        if max_degree_sent > max_degree:
            raise ValueError(f"max_degree_sent must be at most max_degree, {max_degree}, got {max_degree_sent}")
        self.num_channels, self.max_degree, self.max_degree_sent = num_channels, max_degree, max_degree_sent
        self.num_layers, self.correlation, self.num_embedding = num_layers, correlation, num_embedding
        self.num_neighbors, self.num_hidden = float(num_neighbors), num_hidden
        self.radial_basis, self.num_radial = radial_basis, num_radial

        self.element = nn.Embedding(LARGEST_ATOMIC_NUMBER + 1, num_embedding)
        self.sent = nn.Linear(num_embedding, num_channels, bias=False)
        self.layers, self.heads = nn.ModuleList(), nn.ModuleList()
        for t in range(num_layers):
            degree_in, degree_out = (0 if at_end else max_degree_sent for at_end in (t == 0, t == num_layers - 1))
            seen = num_radial + 2 * num_embedding
            self.layers.append(
                _Layer(
                    _Density(num_channels, degree_in, max_degree, seen, num_hidden),
                    _Correlations(num_channels, max_degree, degree_out, correlation),
                    Mixed(min(degree_in, degree_out), num_channels, num_channels),
                )
            )
            hidden = nn.Linear(num_channels + num_embedding, num_hidden)
            self.heads.append(nn.Sequential(hidden, nn.SiLU(), nn.Linear(num_hidden, 1)))

    def _learnt(self, G: GraphLike, z: Tensor, plan: Plan | None) -> Tensor:
        src, dst = edges_on(G, z.device)
        r, direction = length_and_direction(relative_positions(G))
        harmonics = math.sqrt(4 * math.pi) * spherical_harmonics(self.max_degree, direction).T
        elements, envelope = self.element(z), edge_envelope(G)
        scale = self.num_neighbors**-0.5 * (torch.ones_like(r) if envelope is None else envelope)
        seen = torch.cat([self.radial(r), elements[src], elements[dst]], dim=1)
        h = self.sent(elements)[None]
        energies = []
        for layer, head in zip(self.layers, self.heads, strict=True):
            h = layer(h, harmonics, seen, scale, src, dst)
            energies.append(head(torch.cat([h[0], elements], dim=1)))
        return torch.cat(energies, dim=1).sum(1)


class _Layer(OneLine):
    """Features of the next degrees: the correlations of the density, and what is kept of those before."""

    def __init__(self, density: _Density, correlations: _Correlations, kept: Mixed) -> None:
        super().__init__()
        self.density, self.correlations, self.kept = density, correlations, kept

    def forward(self, h: Tensor, *edges: Tensor) -> Tensor:
        found = self.correlations(self.density(h, *edges))
        kept = self.kept(h[: len(found)])
        return torch.cat([found[: len(kept)] + kept, found[len(kept) :]])


class _Density(OneLine):
    """A, of degrees 0 to ``degree``, from features of degrees 0 to ``degree_in``."""

    def __init__(self, channels: int, degree_in: int, degree: int, seen: int, hidden: int) -> None:
        super().__init__()
        self.paths = paths(degree, degree_in, degree)
        self.sent = Mixed(degree_in, channels, channels)
        self.radial = nn.Sequential(
            nn.Linear(seen, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, len(self.paths) * channels, bias=False),
        )  # fmt: skip
        self.mixed = Mixed(self.paths, channels, channels)

    def forward(self, h: Tensor, harmonics: Tensor, seen: Tensor, scale: Tensor, src: Tensor, dst: Tensor) -> Tensor:
        R = (scale * self.radial(seen)).unflatten(1, (len(self.paths), -1)).transpose(0, 1)
        messages = coupled(harmonics[:, :, None], self.sent(h).index_select(1, src), self.paths)
        of_paths = messages.split([2 * j + 1 for *_, j in self.paths])
        weighted = torch.cat([part * weight for part, weight in zip(of_paths, R, strict=True)])
        nodes = (len(weighted), *h.shape[1:])
        return self.mixed(weighted.new_zeros(nodes).index_add(1, dst, weighted))


class _Correlations(OneLine):
    """The sum of W B^1, W B^2, ..., of degrees 0 to ``degree_out``, from A of degrees 0 to ``degree``."""

    def __init__(self, channels: int, degree: int, degree_out: int, number: int) -> None:
        super().__init__()
        self.components = (degree_out + 1) ** 2
        self.paths = [
            paths(degree, degree, degree_out if last else degree, symmetric=nu == 2)
            for nu in range(2, number + 1)
            for last in [nu == number]
        ]
        self.products = nn.ModuleList(Mixed(ways, channels, channels) for ways in self.paths)
        self.linear = nn.ModuleList(Mixed(degree_out, channels, channels) for _ in range(number))

    def forward(self, density: Tensor) -> Tensor:
        correlations = [density]
        for ways, mixed in zip(self.paths, self.products, strict=True):
            correlations.append(mixed(coupled(correlations[-1], density, ways)))
        parts = [linear(part[: self.components]) for linear, part in zip(self.linear, correlations, strict=True)]
        return torch.stack(parts).sum(0)
