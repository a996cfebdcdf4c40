"""Molecular dynamics with a trained model, and what it conserves."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

from equivariant_attention.ase_calculator import ModelCalculator
from experiments.forces.data import ARGON
from experiments.forces.models import ENVELOPE, SE3Transformer
from utils.history import Row


def moving_atoms(model: SE3Transformer, x: np.ndarray, temperature: float, seed: int) -> Atoms:
    """A cluster with random velocities whose forces come from a model, in eV and Å.

    Args:
        model: of the energy; float64, or nothing is conserved beyond float32 rounding.
        x: positions ``[atoms, 3]``.
        temperature: of the Maxwell-Boltzmann distribution of the velocities, in kelvin.
        seed: of the velocities.
    """
    atoms = Atoms(numbers=[ARGON] * len(x), positions=x, calculator=ModelCalculator(model, model.cutoff, ENVELOPE))
    spread = np.sqrt(atoms.get_masses() * units.kB * temperature)
    atoms.set_momenta(spread[:, None] * np.random.default_rng(seed).standard_normal((len(x), 3)))
    return atoms


def conservation(atoms: Atoms, timestep: float, steps: int) -> Row:
    """Let atoms move, by velocity Verlet, and see what changes that should not.

    Args:
        atoms: with a calculator and velocities; moved.
        timestep: in femtoseconds.
        steps: how many.

    Returns:
        ``'kinetic_energy'``, mean; the largest changes of ``'energy'`` (in eV), ``'momentum'`` and
        ``'angular_momentum'`` from the start on, the last two relative to the sum over the atoms of their magnitudes.
    """
    dynamics = VelocityVerlet(atoms, timestep=timestep * units.fs, logfile=None)
    states = []
    for _ in dynamics.irun(steps):
        p, x = atoms.get_momenta(), atoms.positions
        states.append((atoms.get_kinetic_energy(), atoms.get_total_energy(), p, np.cross(x, p)))
    kinetic, energy, momentum, angular = map(np.array, zip(*states, strict=True))
    return {
        "kinetic_energy": float(kinetic.mean()),
        "energy": float(np.abs(energy - energy[0]).max()),
        **{
            name: float(np.abs(v.sum(1) - v[0].sum(0)).max() / np.linalg.norm(v, axis=2).sum(1).max())
            for name, v in (("momentum", momentum), ("angular_momentum", angular))
        },
    }
