"""A model of the energy as a calculator of ASE, the Atomic Simulation Environment, which it needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import EllipsisType

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from torch import nn

from .checks import check_positive, check_whole_number
from .forces import Prediction, energy_forces_stress
from .models import AtomicEnergies
from .periodic import check_cell


class ModelCalculator(Calculator):
    r"""Energy, forces and, in a cell, stress of atoms, from a model of the energy.

    .. math:: F_i = -\frac{\partial E}{\partial x_i}, \qquad
              \sigma = \frac{1}{V} \frac{\partial E}{\partial \varepsilon}

    with a strain :math:`\varepsilon` of the cell and all in it. Signs and order (xx, yy, zz, yz, xz, xy) are those of
    ASE. There is stress where the cell has a volume and repeats along a vector at least.

    The model gets the :class:`~equivariant_attention.graphs.Graph` of all atoms within the cutoff of each other, images
    across periodic boundaries included, in the type and on the device of its parameters::

        ndata['x']         positions, [atoms, 1, 3]
        ndata['z']         atomic numbers, int64 [atoms]
        edata['d']         x_dst - x_src, of the nearest or of other images, [edges, 3]
        edata['offset']    in a cell, from an atom to the image that sends, [edges, 3]
        edata['envelope']  the smooth cutoff, [edges, 1]

    Results are kept until the atoms move; call ``reset()`` when the weights have changed.

    Args:
        model: a :class:`~equivariant_attention.models.Potential` or ``ManyBodyPotential``; or what maps a graph to its
            energy, a tensor of one number, and lets gradients flow through its basis
            (``get_basis_and_r(..., compute_gradients=True)``). In the units that ASE is to have: eV and Å, usually.
        cutoff: how far edges reach, finite and larger than 0. That of a potential need not be given.
        envelope: p of the :func:`~equivariant_attention.envelope.polynomial_envelope`, at least 1; None for edges that
            end sharply, where energies jump. By default that of a potential, or 6.

    Raises:
        TypeError: ``model`` is not a module with parameters.
        ValueError: ``cutoff`` or ``envelope`` is not as above, or not that of the potential.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 (as ASE has it)

    def __init__(
        self, model: nn.Module, cutoff: float | None = None, envelope: int | EllipsisType | None = ...
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module) or next(model.parameters(), None) is None:
            raise TypeError(f"model must be a torch.nn.Module with parameters, got {type(model).__name__}")
        if isinstance(model, AtomicEnergies):
            if cutoff not in (None, model.cutoff):
                raise ValueError(f"cutoff must be that of the model, {model.cutoff}, got {cutoff}")
            if envelope not in (..., model.envelope):
                raise ValueError(f"envelope must be that of the model, {model.envelope}, got {envelope}")
            cutoff, envelope = model.cutoff, model.envelope
        check_positive(cutoff, "cutoff")
        assert cutoff is not None  # or it was refused
        if cutoff == math.inf:
            raise ValueError(f"cutoff must be finite, got {cutoff}")
        envelope = 6 if envelope is ... else envelope
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
            ValueError: no atoms were given, positions or cell are not finite, the cell is flat or has no vector for a
                periodic direction, the model gives more than one energy, or it or its gradient is not finite.
        """
        super().calculate(atoms, properties, system_changes)
        if self.atoms is None:
            raise ValueError("atoms must be given, got None")
        found = self._predicted(self.atoms)
        value, stress = found.energy.item(), found.stress
        if not (math.isfinite(value) and all(v is None or v.isfinite().all() for v in found)):
            raise ValueError(f"model must give a finite energy with a finite gradient, got {value} for {self.atoms}")
        self.results = {"energy": value, "free_energy": value, "forces": found.forces.double().cpu().numpy()}
        if stress is not None and self.atoms.cell.rank == 3:
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress[0].double().cpu().numpy())

    def _predicted(self, atoms: Atoms) -> Prediction:
        if not np.isfinite(atoms.positions).all():
            raise ValueError("atoms must have finite positions")
        check_cell(atoms.cell.array, atoms.pbc, self.cutoff, "atoms.cell")
        parameter = next(self.model.parameters())
        # Without gradients nothing is kept for second derivatives.
        with torch.inference_mode(False), torch.no_grad():
            x, cell = (torch.from_numpy(v).to(parameter) for v in (atoms.positions, atoms.cell.array))
            return energy_forces_stress(
                self.model,
                torch.from_numpy(atoms.numbers).long().to(parameter.device),
                x,
                self.cutoff,
                cell=cell if atoms.pbc.any() else None,
                pbc=torch.from_numpy(atoms.pbc),
                envelope=self.envelope,
            )
