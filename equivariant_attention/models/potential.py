"""A potential energy of atoms, ready-made, with its forces and stress."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..basis import get_basis_and_r
from ..checks import check_positive, check_whole_number
from ..envelope import edge_envelope
from ..fibers import Fiber, FiberLike, as_fiber
from ..forces import Prediction, energy_forces_stress
from ..graphs import as_graph, edges_on, graph_of_node
from ..models.elements import LARGEST_ATOMIC_NUMBER, symbols
from ..models.nonlinearity import nonlinearity as named
from ..models.radial_basis import RadialBasis
from ..models.saving import Saveable
from ..models.se3_transformer import activation_of, attention_layers
from ..modules import GConvSE3Partial
from ..plain import check_never_called
from ..segments import segment_sum


class Potential(Saveable):
    r"""Energy as a sum over atoms, of what an SE(3)-Transformer (arXiv 2006.10503) has learnt about their surroundings.

    .. math:: f_i \leftarrow a_{z_i} + \frac{1}{\sqrt{n}} \sum_{j \in N_i} u_{ij} \, W(x_i - x_j) \, b_{z_j}, \qquad
              f \leftarrow \mathrm{Attention}(\mathrm{Gate}(f)) \quad \text{num\_layers times}, \qquad
              E = \sum_i \epsilon_{z_i} + s \, \mathrm{MLP}(\mathrm{Gate}(f)^0_i)

    First come densities, sums over the neighbours of what their elements send, b, since energies grow with the number
    of neighbours, which averages and attention do not show; u is the envelope, and n ``num_neighbors``. Then come the
    layers of :class:`~equivariant_attention.models.SE3Transformer`. The reference energies of the elements and the
    scale s are not trained: :meth:`set_references` takes them from data.

    >>> model = Potential(cutoff=5.0)
    >>> energy, forces, stress = model.predict(z, x, batch, cell)  # in the units of what it was trained on
    >>> model.save_pretrained("model.pt")
    >>> atoms.calc = ModelCalculator(Potential.from_pretrained("model.pt"))

    Args:
        cutoff: how far edges reach, finite and larger than 0. It belongs to the model.
        fiber_hidden: between the layers, at least 2 channels of every degree; it has degree 0.
        num_layers: number of attention layers.
        num_embedding: channels of degree 0 that atoms of an element send.
        num_neighbors: n, about how many neighbours an atom has.
        n_heads, div, x_ij, selfint, learnable_skip, radial_basis, num_radial, activation: as of
            :class:`~equivariant_attention.models.SE3Transformer`.
        nonlinearity: 'gate', which is smooth; or 'norm', as published, where energies may jump.
        envelope: p of the :func:`~equivariant_attention.envelope.polynomial_envelope`, at least 1; None for edges that
            end sharply, where energies jump.

    Attributes:
        max_degree: up to which a basis is needed.
        reference, scale: as above, ``[119]`` and one number.
        known: the elements that references are of, bool ``[119]``; where there are any, others are refused.

    Raises:
        TypeError, ValueError: an argument has another value, or the layers refuse the channels.
    """

    reference: Tensor
    scale: Tensor
    known: Tensor

    def __init__(
        self,
        cutoff: float,
        fiber_hidden: FiberLike = ((16, 0), (8, 1)),
        num_layers: int = 1,
        *,
        num_embedding: int = 8,
        num_neighbors: float = 20.0,
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
        super().__init__()
        self.radial = RadialBasis(radial_basis, num_radial, cutoff)
        self.fiber_hidden = fiber = as_fiber(fiber_hidden, "fiber_hidden")
        check_whole_number(num_embedding, 1, "num_embedding")
        check_positive(num_neighbors, "num_neighbors")
        if envelope is not None:
            check_whole_number(envelope, 1, "envelope")
        if 0 not in fiber.degrees or min(fiber.multiplicities) < 2:
            raise ValueError(f"fiber_hidden must have degree 0, and at least 2 channels of every degree, got {fiber}")
        self.cutoff, self.num_layers, self.num_embedding = float(cutoff), num_layers, num_embedding
        self.num_neighbors, self.n_heads, self.div, self.x_ij = float(num_neighbors), n_heads, float(div), x_ij
        self.selfint, self.learnable_skip, self.nonlinearity = selfint, learnable_skip, nonlinearity
        self.radial_basis, self.num_radial = radial_basis, num_radial
        self.activation, self.envelope = activation, envelope
        self.max_degree = max(fiber.max_degree, 1 if x_ij == "cat" else 0)

        self.own = nn.Embedding(LARGEST_ATOMIC_NUMBER + 1, fiber.dict[0])
        self.sent = nn.Embedding(LARGEST_ATOMIC_NUMBER + 1, num_embedding)
        radial: dict[str, Any] = {"edge_dim": num_radial, "act_fn": activation_of(activation)}
        options = {"div": div, "n_heads": n_heads, "selfint": selfint, "x_ij": x_ij, "learnable_skip": learnable_skip}
        self.density = GConvSE3Partial(Fiber(1, num_embedding), fiber, **radial)
        layers = attention_layers(fiber, fiber, num_layers, nonlinearity, **radial, **options)
        self.layers = nn.ModuleList([named(nonlinearity)(fiber), *layers])
        channels = fiber.dict[0]
        self.head = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 1))
        self.register_buffer("reference", torch.zeros(LARGEST_ATOMIC_NUMBER + 1, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("known", torch.zeros(LARGEST_ATOMIC_NUMBER + 1, dtype=torch.bool))

    def forward(self, G: Any) -> Tensor:
        """Energies of graphs; :meth:`predict` makes the graphs.

        Args:
            G: graph with ``ndata['z']``, atomic numbers, int64 ``[atoms]``, ``edata['d']`` of edges that reach as far
                as the cutoff and, unless edges end sharply, ``edata['envelope']``, ``[edges, 1]``.

        Returns:
            ``[graphs]``, in the dtype of the references, float64.

        Raises:
            KeyError: the graph lacks one of these.
            TypeError, ValueError: they have another shape, dtype or device; or there is an element without reference.
        """
        check_never_called(self.layers, "layers")
        G = as_graph(G)
        z = self._checked(G.ndata["z"], G.num_nodes())
        G = self.radial.on_edges(G)
        basis, r = get_basis_and_r(G, self.max_degree, compute_gradients=True)
        _, dst = edges_on(G, r.device)
        weight = self.num_neighbors**-0.5
        envelope = edge_envelope(G)
        weights = torch.full_like(r, weight) if envelope is None else weight * envelope
        messages = self.density({"0": self.sent(z).unsqueeze(-1)}, G=G, r=r, basis=basis)
        h = {d: segment_sum(weights[:, :, None] * m, dst, G.num_nodes()) for d, m in messages.items()}
        h["0"] = h["0"] + self.own(z).unsqueeze(-1)
        for layer in self.layers:
            h = layer(h, G=G, r=r, basis=basis)
        of_atoms = self.scale * self.head(h["0"].squeeze(-1)).squeeze(-1)
        owner = graph_of_node(G)
        learnt = segment_sum(of_atoms, owner, G.batch_size)
        return learnt + segment_sum(self.reference[z], owner, G.batch_size)  # of which float32 would hold few digits

    def predict(
        self,
        z: Tensor,
        x: Tensor,
        batch: Tensor | None = None,
        cell: Tensor | None = None,
        pbc: Tensor | bool | None = None,
    ) -> Prediction:
        """Energies, forces and stress.

        Args:
            z: atomic numbers, int64 ``[atoms]``.
            x, batch, cell, pbc: as of :func:`~equivariant_attention.neighbors.radius_graph`.

        Returns:
            as of :func:`~equivariant_attention.forces.energy_forces_stress`: they can be differentiated again unless
            gradients are switched off.

        Raises:
            TypeError, ValueError, ImportError: as of :meth:`forward` and ``radius_graph``.
        """
        return energy_forces_stress(self, self._checked(z, len(x)), x, self.cutoff, batch, cell, pbc, self.envelope)

    def set_references(self, z: Tensor, batch: Tensor, energy: Tensor, scale: float = 1.0) -> None:
        """Take the reference energies of elements from data, by :func:`reference_energies`, and forget those of others.

        Args:
            z, batch, energy: as there.
            scale: s, in the unit of energy; the spread of forces times a length of 1 does well.

        Raises:
            TypeError, ValueError: they do not go together, or are not finite.
        """
        check_positive(scale, "scale")
        if not math.isfinite(scale):
            raise ValueError(f"scale must be finite, got {scale}")
        self.reference.copy_(reference_energies(z, batch, energy))
        self.scale.fill_(scale)
        self.known.zero_()[z.unique()] = True

    def _checked(self, z: Any, atoms: int) -> Tensor:
        _check_atomic_numbers(z, atoms)
        if not torch.compiler.is_compiling() and self.known.any() and not self.known[z].all():
            others, own = z[~self.known[z]].tolist(), self.known.nonzero().flatten().tolist()
            expected = f"the elements that the model was trained on, {symbols(own)}"
            raise ValueError(f"z must be of {expected}; got also {symbols(others)}")
        return z


def reference_energies(z: Tensor, batch: Tensor, energy: Tensor) -> Tensor:
    """Energies of the elements that add up to those of structures, by least squares.

    What cannot be told apart, such as elements that occur in one composition alone, is shared among their atoms.

    Args:
        z: atomic numbers of all structures, int64 ``[atoms]``.
        batch: structure of each atom, int64 ``[atoms]``, from 0.
        energy: of every structure, ``[structures]``.

    Returns:
        float64 ``[119]``, by atomic number; 0 for elements that do not occur.

    Raises:
        ValueError: they do not go together, or energies are not finite.
    """
    _check_atomic_numbers(z, len(batch))
    if not energy.isfinite().all() or (len(batch) and not 0 <= int(batch.min()) <= int(batch.max()) < len(energy)):
        raise ValueError(f"energy must be finite and of every structure of batch, got {list(energy.shape)}")
    counts = torch.zeros(len(energy), LARGEST_ATOMIC_NUMBER + 1, dtype=torch.float64)
    counts.index_put_((batch.cpu(), z.cpu()), torch.ones(len(z), dtype=torch.float64), accumulate=True)
    return torch.linalg.pinv(counts) @ energy.detach().double().cpu()


def _check_atomic_numbers(z: Any, atoms: int) -> None:
    if not isinstance(z, Tensor) or z.dtype not in (torch.int64, torch.int32) or tuple(z.shape) != (atoms,):
        got = f"{z.dtype} {list(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
        raise ValueError(f"z must be atomic numbers, int64 [{atoms}], got {got}")
    if torch.compiler.is_compiling() or not atoms:
        return
    if not (int(z.min()) >= 1 and int(z.max()) <= LARGEST_ATOMIC_NUMBER):
        raise ValueError(f"z must be 1 to {LARGEST_ATOMIC_NUMBER}, got {int(z.min())} to {int(z.max())}")
