"""Clusters of atoms that attract each other by the Morse potential, made on the fly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from equivariant_attention.graphs import Graph, batch
from equivariant_attention.neighbors import radius_graph
from equivariant_attention.plan import Plan

STIFFNESS = 4.0  # a, per unit of length
SPREAD, RELAXATION_STEPS, STEP, LARGEST_MOVE = 0.6, 500, 0.01, 0.1
ARGON = 18

Sample = tuple[Graph, Tensor, Tensor]
Batch = tuple[Graph, Plan, Tensor, Tensor]  # graphs, what is known of them ahead, energies, forces


def morse_energy(x: Tensor) -> Tensor:
    r"""Energy of clusters, in units of the depth and the distance of the minimum of a pair.

    .. math:: E = \sum_{i < j} \big( 1 - e^{-a (|x_i - x_j| - 1)} \big)^2 - 1, \qquad a = 4

    Args:
        x: positions ``[..., atoms, 3]``, no two equal.

    Returns:
        ``[...]``.
    """
    i, j = torch.triu_indices(x.shape[-2], x.shape[-2], 1, device=x.device)
    r = (x[..., i, :] - x[..., j, :]).norm(dim=-1)
    return ((1 - torch.exp(-STIFFNESS * (r - 1))).square() - 1).sum(-1)


def morse_forces(x: Tensor) -> Tensor:
    """Minus the gradient of :func:`morse_energy`, ``[..., atoms, 3]``."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return -torch.autograd.grad(morse_energy(x).sum(), x)[0]


def clusters(number: int, atoms: int, noise: float, generator: torch.Generator) -> Tensor:
    """Random clusters, relaxed to about a minimum of the energy and then shaken.

    Args:
        number: of clusters.
        atoms: in each of them.
        noise: standard deviation of the displacements from the relaxed positions.
        generator: of all random numbers.

    Returns:
        positions, float64 ``[number, atoms, 3]``.
    """
    shape = number, atoms, 3
    x = SPREAD * torch.randn(shape, generator=generator, dtype=torch.float64)
    for _ in range(RELAXATION_STEPS):
        x = x + (STEP * morse_forces(x)).clamp(-LARGEST_MOVE, LARGEST_MOVE)
    return x + noise * torch.randn(shape, generator=generator, dtype=torch.float64)


class Clusters(Dataset):
    """Clusters with their energies and forces.

    An item is a graph with edges up to the cutoff and atomic numbers ``ndata['z']``, an energy, and forces
    ``[atoms, 3]``.

    Args:
        x: positions ``[clusters, atoms, 3]``.
        cutoff: how far edges reach.
    """

    def __init__(self, x: Tensor, cutoff: float) -> None:
        self.x, self.cutoff, self.energy, self.forces = x, cutoff, morse_energy(x), morse_forces(x)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Sample:
        G = radius_graph(self.x[index], self.cutoff)
        G.ndata["z"] = torch.full((G.num_nodes(),), ARGON)
        return G, self.energy[index], self.forces[index]


def collate(samples: list[Sample], graph: str = "own") -> Batch:
    """Clusters side by side.

    Args:
        samples: of a :class:`Clusters`.
        graph: not looked at: forces are derivatives of the library's own graphs.

    Returns:
        the graphs, their plan, energies ``[clusters]`` and forces ``[atoms, 3]``.
    """
    graphs, energy, forces = zip(*samples, strict=True)
    G = batch(graphs)
    return G, Plan(G), torch.stack(energy), torch.cat(forces)
