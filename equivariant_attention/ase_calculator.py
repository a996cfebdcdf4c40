"""A model of the energy as a calculator of ASE, the Atomic Simulation Environment. Needs ``ase``; nothing else does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list
from torch import nn

from .checks import check_positive, check_whole_number
from .envelope import polynomial_envelope
from .graphs import Graph
from .plan import LARGEST_DISTANCE
from .so3.vectors import length_and_direction

FLATTEST = 1e-3  # of the cutoff, that a cell may be


class ModelCalculator(Calculator):
    r"""Energy and forces :math:`F_i = -\partial E / \partial x_i` of atoms, from a model of the energy.

    The model gets the :class:`~equivariant_attention.graphs.Graph` of all atoms within the cutoff of each other, images
    across periodic boundaries included, in the type and on the device of its parameters::

        ndata['x']          positions ``[atoms, 1, 3]``
        ndata['z']          atomic numbers, int64 ``[atoms]``
        edata['d']          relative positions ``x_dst - x_src``, of the nearest or of other images, ``[edges, 3]``
        edata['envelope']   the smooth cutoff, ``[edges, 1]``

    Results are kept until the atoms move; call ``reset()`` when the weights have changed.

    Args:
        model: maps a graph to its energy, a tensor of one number; in the units that ASE is to have (eV and Å, usually).
            It must let gradients flow through its basis (``get_basis_and_r(..., compute_gradients=True)``).
        cutoff: how far edges reach, finite and larger than 0.
        envelope: p of the :func:`~equivariant_attention.envelope.polynomial_envelope`, at least 1; None for edges that
            end sharply, where energies jump.

    Raises:
        TypeError: ``model`` is not a module with parameters.
        ValueError: ``cutoff`` or ``envelope`` is not as above.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 (as ASE has it)

    def __init__(self, model: nn.Module, cutoff: float, envelope: int | None = 6) -> None:
        super().__init__()
        if not isinstance(model, nn.Module) or next(model.parameters(), None) is None:
            raise TypeError(f"model must be a torch.nn.Module with parameters, got {type(model).__name__}")
        check_positive(cutoff, "cutoff")
        if cutoff == math.inf:
            raise ValueError(f"cutoff must be finite, got {cutoff}")
        if envelope is not None:
            check_whole_number(envelope, 1, "envelope")
        self.model, self.cutoff, self.envelope = model, float(cutoff), envelope

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Set ``results``; ASE calls this.

        Args:
            atoms: what to calculate.
            properties, system_changes: which results are wanted and what has changed since the last; ASE keeps track.

        Raises:
            TypeError: the model gives no tensor, or one without a gradient.
            ValueError: there are no atoms, positions or cell are not finite, the cell is flat or has no vector for a
                periodic direction, the model gives more than one energy, or it or its gradient is not finite.
        """
        super().calculate(atoms, properties, system_changes)
        if self.atoms is None:
            raise ValueError("atoms must be given, got None")
        with torch.inference_mode(False), torch.enable_grad():
            G, x = self._graph(self.atoms)
            energy = _checked_energy(self.model(G))
            (gradient,) = torch.autograd.grad(energy.sum(), x, materialize_grads=True)
        value = energy.item()
        if not (math.isfinite(value) and gradient.isfinite().all()):
            raise ValueError(f"model must give a finite energy with a finite gradient, got {value} for {self.atoms}")
        self.results = {"energy": value, "free_energy": value, "forces": -gradient.double().cpu().numpy()}

    def _graph(self, atoms: Atoms) -> tuple[Graph, torch.Tensor]:
        """The graph of the atoms, and the positions that its fields are made of."""
        if not np.isfinite(atoms.positions).all():
            raise ValueError("atoms must have finite positions")
        _check_cell(atoms, self.cutoff)
        parameter = next(self.model.parameters())
        dst, src, offset = neighbor_list("ijS", atoms, self.cutoff)
        src, dst = (torch.from_numpy(ends).long().to(parameter.device) for ends in (src, dst))
        offset, x = (torch.from_numpy(v).to(parameter) for v in (offset @ atoms.cell.array, atoms.positions))
        x.requires_grad_()
        G = Graph(src, dst, len(atoms))
        G.ndata["x"], G.ndata["z"] = x.unsqueeze(1), torch.from_numpy(atoms.numbers).long().to(parameter.device)
        G.edata["d"] = x[dst] - x[src] - offset
        if self.envelope is not None:
            r, _ = length_and_direction(G.edata["d"])
            G.edata["envelope"] = polynomial_envelope(r, self.cutoff, self.envelope)
        return G, x


def _check_cell(atoms: Atoms, cutoff: float) -> None:
    """Refuse a cell that is not finite, or so flat that ASE fails or finds images without end within the cutoff."""
    cell = atoms.cell.array
    if not (np.abs(cell) <= LARGEST_DISTANCE).all():
        raise ValueError(f"atoms.cell must be finite and at most {LARGEST_DISTANCE:.0e}, got {cell.tolist()}")
    if (atoms.pbc & ~cell.any(1)).any():
        raise ValueError(f"atoms.cell must have a vector for every periodic direction, got {cell.tolist()}")
    vectors = cell[cell.any(1)]  # ASE puts others in the place of those that are zero
    if not len(vectors):
        return
    largest = np.abs(vectors).max(1, keepdims=True)
    flatness = np.linalg.svd(vectors / largest, compute_uv=False).min()  # 0 where they lie in a plane or line
    if largest.min() * flatness < FLATTEST * cutoff:
        raise ValueError(
            f"atoms.cell must have vectors that no plane or line holds, each far longer than {FLATTEST} of the cutoff, "
            f"{cutoff}, got {cell.tolist()}"
        )


def _checked_energy(energy: Any) -> torch.Tensor:
    if not isinstance(energy, torch.Tensor) or not energy.requires_grad:
        got = "one without" if isinstance(energy, torch.Tensor) else type(energy).__name__
        raise TypeError(f"model must give a tensor with a gradient, got {got}")
    if energy.numel() != 1:
        raise ValueError(f"model must give one energy, a tensor of one number, got {list(energy.shape)}")
    return energy
