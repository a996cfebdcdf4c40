"""Clusters of atoms that attract each other by the Morse potential, made on the fly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

STIFFNESS = 4.0  # a, per unit of length
SPREAD, RELAXATION_STEPS, STEP, LARGEST_MOVE = 0.6, 500, 0.01, 0.1
ARGON = 18


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

    Args:
        x: positions ``[clusters, atoms, 3]``.
    """

    def __init__(self, x: Tensor) -> None:
        self.x, self.energy, self.forces = x, morse_energy(x), morse_forces(x)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.x[index], self.energy[index], self.forces[index]


def collate(
    samples: list[tuple[Tensor, Tensor, Tensor]], graph: str = "own"
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
    """Clusters side by side.

    Args:
        samples: of a :class:`Clusters`.
        graph: not looked at: graphs are made of positions that forces are derivatives by, in the loss.

    Returns:
        (positions ``[atoms, 3]``, atomic numbers ``[atoms]``, cluster of each atom ``[atoms]``), energies
        ``[clusters]`` and forces ``[atoms, 3]``.
    """
    x, energy, forces = map(torch.stack, zip(*samples, strict=True))
    cluster = torch.arange(len(x)).repeat_interleave(x.shape[1])
    return (x.flatten(0, 1), torch.full_like(cluster, ARGON), cluster), energy, forces.flatten(0, 1)
