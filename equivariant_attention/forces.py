"""Forces and stress: derivatives of an energy with respect to positions, and to a strain of positions and cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .checks import check_positive, check_whole_number
from .envelope import polynomial_envelope
from .graphs import Graph, edges_on, graph_of_node, with_edge_fields
from .neighbors import radius_graph
from .periodic import check_cells
from .precision import full_precision
from .so3.vectors import length_and_direction


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
    check_positive(cutoff, "cutoff")
    with torch.inference_mode(False), torch.no_grad():
        found = x.detach().clone() if isinstance(x, Tensor) else x  # which is refused
        G = radius_graph(found, cutoff, batch, cell, pbc)
    G.ndata["z"] = z
    return forces_on_graph(model, G, cutoff, cell, envelope)


def forces_on_graph(
    model: Callable[[Graph], Tensor], G: Graph, cutoff: float, cell: Tensor | None = None, envelope: int | None = 6
) -> Prediction:
    """What :func:`energy_forces_stress` gives, on a graph that was made before: no value is looked at.

    So a GPU need not wait: where structures come from a data set, graphs and their plans can be made by the processes
    that prepare its batches. ``functools.partial(model, plan=plan)`` is a model with a plan.

    Args:
        model, cutoff, envelope: as there.
        G: of :func:`~equivariant_attention.neighbors.radius_graph`, or a batch of such, of this cutoff, with
            ``ndata['z']`` and the like. Its ``edata['envelope']`` is made anew, or left out.
        cell: of each graph, ``[graphs, 3, 3]``, or ``[3, 3]`` of all; None for no stress.

    Returns:
        energies, forces and stress, as there.

    Raises:
        ValueError: ``cutoff``, ``cell`` or ``envelope`` is not as above.
    """
    check_positive(cutoff, "cutoff")
    if envelope is not None:
        check_whole_number(envelope, 1, "envelope")
    training = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        x = G.ndata["x"].detach().reshape(-1, 3).clone().requires_grad_()
        inputs, moved, (src, dst) = [x], x, edges_on(G, x.device)
        edata = {name: value for name, value in G.edata.items() if name != "envelope"}
        # Everything on the graph is made of what is moved, so that derivatives come from all of it.
        edata["d"] = x.index_select(0, dst) - x.index_select(0, src)
        if "offset" in edata:
            edata["d"] = edata["d"] - edata["offset"].detach()
        if cell is not None:
            check_cells(cell, x, G.batch_size)
            strain = x.new_zeros(G.batch_size, 3, 3).requires_grad_()
            inputs.append(strain)
            symmetric, owner = (strain + strain.mT) / 2, graph_of_node(G)
            moved = _strained(x, symmetric, owner)
            for name in {"d", "offset"} & edata.keys():
                edata[name] = _strained(edata[name], symmetric, owner.index_select(0, dst))
        if envelope is not None:
            edata["envelope"] = polynomial_envelope(length_and_direction(edata["d"])[0], cutoff, envelope)
        graph = with_edge_fields(G, edata)
        graph.ndata.update({**G.ndata, "x": moved[:, None, :]})
        energy = _checked_energy(model(graph), G.batch_size)
        with full_precision(x.device):
            found = torch.autograd.grad(energy.sum(), inputs, create_graph=training, materialize_grads=True)
    prediction = Prediction(energy if training else energy.detach(), -found[0], None)
    if cell is None:
        return prediction
    volume = cell.detach().expand(G.batch_size, 3, 3).det().abs()[:, None, None]
    return prediction._replace(stress=torch.where(volume > 0, found[1] / volume.where(volume > 0, 1), 0))


def _checked_energy(energy: Any, graphs: int) -> Tensor:
    if not isinstance(energy, Tensor) or not energy.requires_grad:
        got = "one without" if isinstance(energy, Tensor) else type(energy).__name__
        raise TypeError(f"model must give a tensor with a gradient, got {got}")
    if energy.numel() != graphs:
        raise ValueError(f"model must give one energy of each graph, {graphs} in all, got {list(energy.shape)}")
    return energy


def _strained(vectors: Tensor, strain: Tensor, owner: Tensor) -> Tensor:
    """Vectors ``[n, 3]`` after the strain of the graph that each is of."""
    of_each = strain[0] if len(strain) == 1 else strain.index_select(0, owner)
    return vectors + (vectors[:, :, None] * of_each).sum(1)  # no product of matrices, which TF32 would round
