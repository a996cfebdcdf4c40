"""A potential energy of atoms, ready-made, with its forces and stress."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..basis import get_basis_and_r
from ..checks import check_positive, check_whole_number
from ..envelope import edge_envelope
from ..fibers import Features, FiberLike, as_fiber
from ..graphs import GraphLike, edges_on
from ..models.atomic_energies import AtomicEnergies
from ..models.elements import LARGEST_ATOMIC_NUMBER
from ..models.nonlinearity import nonlinearity as named
from ..models.radial_basis import RadialBasis
from ..models.se3_transformer import activation_of, attention_layers
from ..plain_modules import check_never_called
from ..plan import Plan, relative_positions
from ..segments import segment_sum
from ..so3 import spherical_harmonics
from ..so3.vectors import length_and_direction


class Potential(AtomicEnergies):
    r"""Energy as a sum over atoms, of the densities around them and of what SE(3)-Transformer layers make of these.

    .. math:: f^l_i = \frac{1}{\sqrt{n}} \sum_{j \in N_i} u_{ij} \, (b_{z_j} \circ V^l R(r_{ij})) \, Y_l(x_i - x_j),
              \qquad s_i = a_{z_i} \Vert f^0_i \Vert \langle f^l_{i c}, f^l_{i c'} \rangle_{l > 0, \, c \le c'},
              \qquad E = \sum_i \epsilon_{z_i} + \sigma \, \mathrm{MLP}(s_i \Vert g^0_i)

    Densities f are sums over the neighbours of smooth functions R of the distance, each element with weights b of its
    own, times spherical harmonics Y. Their inner products s tell distances and angles, smoothly; sums, since energies
    grow with the number of neighbours, which averages and attention do not show. u is the envelope, and n
    ``num_neighbors``. With ``num_layers``, attention layers of arXiv 2006.10503, with gates between them, make
    :math:`g = \mathrm{Gate}(\mathrm{Attention}(\ldots \mathrm{Gate}(f)))` of the densities, which also knows what is
    around the neighbours, and takes several times as long. The reference energies of the elements and the scale
    :math:`\sigma` are not trained: ``set_references`` takes them from data.

    >>> model = Potential(cutoff=5.0)
    >>> energy, forces, stress = model.predict(z, x, batch, cell)  # in units of the data
    >>> model.save_pretrained("model.pt")
    >>> atoms.calc = ModelCalculator(Potential.from_pretrained("model.pt"))

    Args:
        cutoff: how far edges reach, finite and larger than 0. It belongs to the model.
        fiber_hidden: of the densities and between the layers, at least 2 channels of every degree; it has degree 0.
        num_layers: number of attention layers, 0 for the densities alone.
        num_embedding: numbers that stand for an element.
        num_neighbors: n, about how many neighbours an atom has.
        num_hidden: width of the MLP, which has two hidden layers.
        radial_basis, num_radial: R, see :class:`~equivariant_attention.models.RadialBasis`.
        envelope: p of the :func:`~equivariant_attention.envelope.polynomial_envelope`, at least 1; None for edges that
            end sharply, where energies jump.
        n_heads, div, x_ij, selfint, learnable_skip, activation: of the attention layers, as of
            :class:`~equivariant_attention.models.SE3Transformer`; without layers they have no effect.
        nonlinearity: between the layers: 'gate', which is smooth; or 'norm', as published, where energies may jump.

    Attributes:
        max_degree: up to which a basis is needed.
        reference, scale: as above, ``[119]`` and one number.
        known: the elements that references are of, bool ``[119]``; where there are any, others are refused.

    Raises:
        TypeError, ValueError: an argument has another value, or the layers refuse the channels.
    """

    def __init__(
        self,
        cutoff: float,
        fiber_hidden: FiberLike = ((16, 0), (8, 1), (8, 2)),
        num_layers: int = 0,
        *,
        num_embedding: int = 8,
        num_neighbors: float = 20.0,
        num_hidden: int = 32,
        n_heads: int = 1,
        div: float = 4,
        x_ij: str | None = None,
        selfint: str = "1x1",
        learnable_skip: bool = True,
        nonlinearity: str = "gate",
        radial_basis: str = "bessel",
        num_radial: int = 8,
        activation: str = "relu",
        envelope: int | None = 6,
    ) -> None:
        super().__init__(cutoff, envelope)
        self.radial = RadialBasis(radial_basis, num_radial, cutoff)
        self.fiber_hidden = fiber = as_fiber(fiber_hidden, "fiber_hidden")
        check_whole_number(num_layers, 0, "num_layers")
        check_whole_number(num_embedding, 1, "num_embedding")
        check_whole_number(num_hidden, 1, "num_hidden")
        check_positive(num_neighbors, "num_neighbors")
        if math.isinf(num_neighbors):
            raise ValueError(f"num_neighbors must be finite, got {num_neighbors}")
        if 0 not in fiber.degrees or min(fiber.multiplicities) < 2:
            raise ValueError(f"fiber_hidden must have degree 0, and at least 2 channels of every degree, got {fiber}")
        self.num_layers, self.num_embedding = num_layers, num_embedding
        self.num_neighbors, self.num_hidden = float(num_neighbors), num_hidden
        self.n_heads, self.div, self.x_ij = n_heads, float(div), x_ij
        self.selfint, self.learnable_skip, self.nonlinearity = selfint, learnable_skip, nonlinearity
        self.radial_basis, self.num_radial = radial_basis, num_radial
        self.activation = activation
        self.max_degree = max(fiber.max_degree, 1 if x_ij == "cat" else 0)

        self.element = nn.Embedding(LARGEST_ATOMIC_NUMBER + 1, num_embedding)
        channels = sum(fiber.multiplicities)
        self.sent = nn.Linear(num_embedding, channels, bias=False)
        self.distance = nn.Linear(num_radial, channels, bias=False)
        for linear in (self.sent, self.distance):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
        self.layers = nn.ModuleList()
        radial: dict[str, Any] = {"edge_dim": num_radial, "act_fn": activation_of(activation)}
        options = {"div": div, "n_heads": n_heads, "selfint": selfint, "x_ij": x_ij, "learnable_skip": learnable_skip}
        gate = named(nonlinearity)
        if num_layers:
            self.own = nn.Linear(num_embedding, fiber.dict[0], bias=False)
            layers = attention_layers(fiber, fiber, num_layers, nonlinearity, **radial, **options)
            self.layers.extend([gate(fiber), *layers])
        products = sum(m * (m + 1) // 2 for m, degree in fiber.structure if degree)
        width = num_embedding + products + fiber.dict[0] * (2 if num_layers else 1)
        middle = nn.Linear(num_hidden, num_hidden)
        self.head = nn.Sequential(nn.Linear(width, num_hidden), nn.SiLU(), middle, nn.SiLU(), nn.Linear(num_hidden, 1))

    def _learnt(self, G: GraphLike, z: Tensor, plan: Plan | None) -> Tensor:
        check_never_called(self.layers, "layers")
        elements = self.element(z)
        density = self._density(G, elements)
        told = [elements, density["0"].squeeze(-1), *_products(density)]
        if self.layers:
            told.append(self._attended(G, density, elements, plan))
        return self.head(torch.cat(told, dim=1)).squeeze(-1)

    def _density(self, G: GraphLike, elements: Tensor) -> Features:
        """f, of fiber ``fiber_hidden``."""
        r, direction = length_and_direction(relative_positions(G))
        src, dst = edges_on(G, r.device)
        envelope = edge_envelope(G)
        radial = self.radial(r) if envelope is None else envelope * self.radial(r)
        sent = self.num_neighbors**-0.5 * self.sent(elements)
        weights = (self.distance(radial) * sent[src]).split(self.fiber_hidden.multiplicities, dim=1)
        harmonics = math.sqrt(4 * math.pi) * spherical_harmonics(self.fiber_hidden.max_degree, direction)
        return {
            str(degree): segment_sum(
                weight[:, :, None] * harmonics[:, None, degree**2 : (degree + 1) ** 2], dst, G.num_nodes()
            )
            for degree, weight in zip(self.fiber_hidden.degrees, weights, strict=True)
        }

    def _attended(self, G: GraphLike, density: Features, elements: Tensor, plan: Plan | None) -> Tensor:
        """Scalars of the last attention layer, ``[atoms, channels]``."""
        G = self.radial.on_edges(G)
        basis, r = get_basis_and_r(G, self.max_degree, compute_gradients=True, plan=plan)
        h = {**density, "0": density["0"] + self.own(elements).unsqueeze(-1)}
        for layer in self.layers:
            h = layer(h, G=G, r=r, basis=basis)
        return h["0"].squeeze(-1)


def _products(features: Features) -> list[Tensor]:
    """Inner products of all channels of each degree above 0, each pair once, ``[nodes, m (m + 1) / 2]``."""
    found = []
    for degree, value in features.items():
        if degree != "0":
            first, second = torch.triu_indices(value.shape[1], value.shape[1], device=value.device)
            found.append((value @ value.mT)[:, first, second])
    return found
