"""Forces and stress: derivatives of an energy by positions and by a strain of all positions and cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .graphs import Graph, graph_sizes
from .neighbors import radius_graph
from .periodic import check_cells


class Prediction(NamedTuple):
    """What :func:`energy_forces_stress` gives.

    Attributes:
        energy: ``[graphs]``.
        forces: ``[atoms, 3]``.
        stress: ``[graphs, 3, 3]``, symmetric, larger than 0 where a cell would shrink; None without cells.
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor | None


def energy_forces_stress(
    model: Callable[[Graph], Tensor],
    z: Tensor,
    x: Tensor,
    cutoff: float,
    batch: Tensor | None = None,
    cell: Tensor | None = None,
    pbc: Tensor | bool | None = None,
    envelope: int | None = 6,
) -> Prediction:
    r"""Energies with their derivatives.

    .. math:: F_i = -\frac{\partial E}{\partial x_i}, \qquad
              \sigma = \frac{1}{V} \frac{\partial E}{\partial \varepsilon}, \qquad
              x \to (1 + \varepsilon) \, x, \quad \varepsilon = \varepsilon^\top

    Args:
        model: gives the energies of a graph, ``[graphs]``, which has ``ndata['x']``, ``ndata['z']`` and the fields of
            :func:`~equivariant_attention.neighbors.radius_graph`.
        z: atomic numbers, int64 ``[atoms]``.
        x, batch, cell, pbc, envelope: as of :func:`~equivariant_attention.neighbors.radius_graph`. With a cell there is
            stress, whichever directions repeat; 0, where its volume is.
        cutoff: how far edges reach.

    Returns:
        energies, forces and stress, which can be differentiated again unless gradients are switched off.

    Raises:
        ValueError, ImportError: as of ``radius_graph``.
    """
    training = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        inputs, moved = [x], x
        if cell is not None:
            graphs = 1 if batch is None else len(graph_sizes(batch, len(x)))
            check_cells(cell, x, graphs)
            cell = cell.detach().expand(graphs, 3, 3)
            strain = x.new_zeros(graphs, 3, 3).requires_grad_()
            inputs.append(strain)
            symmetric = (strain + strain.mT) / 2
            of_atom = symmetric[0] if batch is None else symmetric.index_select(0, batch.long())
            moved = x + (x[:, None, :] @ of_atom).squeeze(1)
            cell = cell + cell @ symmetric
        # Everything on the graph is made of what is moved, so that derivatives come from all of it.
        G = radius_graph(moved, cutoff, batch, cell, pbc, envelope)
        G.ndata["z"] = z
        energy = model(G)
        found = torch.autograd.grad(energy.sum(), inputs, create_graph=training, materialize_grads=True)
    prediction = Prediction(energy if training else energy.detach(), -found[0], None)
    if cell is None:
        return prediction
    volume = cell.detach().det().abs()[:, None, None]
    return prediction._replace(stress=torch.where(volume > 0, found[1] / volume.where(volume > 0, 1), 0))
