"""Molecular dynamics with a trained model, and what it conserves.

python experiments/forces/dynamics.py model.pt structure.xyz                                      energy is constant
python experiments/forces/dynamics.py model.pt structure.xyz --ensemble nvt --temperature 500     as in a bath
python experiments/forces/dynamics.py model.pt structure.xyz --ensemble npt --pressure 1          and under pressure
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from utils.cli import UsageError, answer_help, blame, run
from utils.config import RULES, Count, CountOrZero, Folder, Positive
from utils.flags import make_parser


@dataclass(frozen=True, kw_only=True, config=RULES)
class Dynamics:
    """How atoms move."""

    model: str
    """model.pt of run.py --data or of trajectory.py, or of Potential.save_pretrained"""
    structure: str
    """where the atoms start, of any format that ASE reads; of several structures the last"""
    ensemble: Literal["nve", "nvt", "npt"] = "nve"
    """what is constant: energy and volume, temperature, pressure"""
    temperature: Positive = 300.0
    """of the first velocities and of the bath, in kelvin"""
    pressure: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """in gigapascal (npt)"""
    timestep: Positive = 1.0
    """in femtoseconds"""
    steps: Count = 1000
    """how many"""
    interval: Count = 10
    """steps from one structure of the trajectory to the next"""
    seed: CountOrZero = 42
    """of velocities and bath"""
    device: str = "cpu"
    """of the model"""
    output: Folder = "dynamics"
    """for trajectory, table and plot; without a trajectory in it so far"""


def build_parser() -> ArgumentParser:
    """The parser of the command line."""
    return make_parser(__doc__, Dynamics, with_defaults=True)


if __name__ == "__main__":
    answer_help(build_parser)  # PyTorch takes seconds to import

import time

import numpy as np
from ase import Atoms, units
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.verlet import VelocityVerlet

from equivariant_attention.ase_calculator import ModelCalculator
from equivariant_attention.models import AtomicEnergies
from experiments.forces.data import ARGON
from experiments.forces.frames import read_frames
from experiments.forces.models import ENVELOPE, SE3Transformer
from utils.files import make_folder
from utils.history import Row, write_csv
from utils.plots import Figure, save_figure
from utils.training import checked_device

FRICTION = 0.01  # of the bath, per femtosecond
THERMOSTAT, BAROSTAT = 100, 1000  # periods of them, in time steps
TRAJECTORY = "trajectory.extxyz"


def moving_atoms(model: SE3Transformer, x: np.ndarray, temperature: float, seed: int) -> Atoms:
    """A cluster with random velocities whose forces come from a model, in eV and Å.

    Args:
        model: of the energy; float64, or nothing is conserved beyond float32 rounding.
        x: positions ``[atoms, 3]``.
        temperature: of the Maxwell-Boltzmann distribution of the velocities, in kelvin.
        seed: of the velocities.
    """
    atoms = Atoms(numbers=[ARGON] * len(x), positions=x, calculator=ModelCalculator(model, model.cutoff, ENVELOPE))
    heat(atoms, temperature, seed)
    return atoms


def heat(atoms: Atoms, temperature: float, seed: int) -> None:
    """Give atoms velocities of a Maxwell-Boltzmann distribution.

    Args:
        atoms: changed.
        temperature: in kelvin.
        seed: of the velocities.
    """
    spread = np.sqrt(atoms.get_masses() * units.kB * temperature)
    atoms.set_momenta(spread[:, None] * np.random.default_rng(seed).standard_normal((len(atoms), 3)))


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


def integrator(atoms: Atoms, config: Dynamics) -> MolecularDynamics:
    """What moves atoms, in an ensemble.

    Args:
        atoms: with a calculator and velocities.
        config: says which.

    Raises:
        UsageError: pressure is to be constant of atoms that are not periodic.
    """
    step = config.timestep * units.fs
    if config.ensemble == "nve":
        return VelocityVerlet(atoms, timestep=step)
    if config.ensemble == "nvt":
        bath = {"temperature_K": config.temperature, "friction": FRICTION / units.fs, "fixcm": False}
        return Langevin(atoms, timestep=step, rng=np.random.default_rng(config.seed), **bath)
    if not atoms.pbc.all():
        raise UsageError("--ensemble npt: expected a structure that is periodic in all directions")
    bath = {"temperature_K": config.temperature, "tdamp": THERMOSTAT * step, "pdamp": BAROSTAT * step}
    return IsotropicMTKNPT(atoms, timestep=step, pressure_au=config.pressure * units.GPa, **bath)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.

    Returns:
        ``'drift'``, of the total energy in meV per atom and picosecond, ``'temperature'``, mean, in kelvin, and
        ``'milliseconds'`` per step.

    Raises:
        UsageError: flags ask for what cannot be done.
    """
    given = vars(build_parser().parse_args(arguments))
    config = Dynamics(**given)
    if "pressure" in given and config.ensemble != "npt":
        raise UsageError(f"--pressure has no effect with --ensemble {config.ensemble}")
    if config.interval > config.steps:
        raise UsageError(f"--interval: expected at most --steps, {config.steps}, got {config.interval}")
    with blame("--device", device="--device"):
        device = checked_device(config.device)
    with blame("MODEL"):
        model = AtomicEnergies.from_pretrained(config.model, device).double()
    with blame("STRUCTURE"):
        atoms = read_frames(config.structure)[-1]
        atoms.calc = ModelCalculator(model)
        atoms.get_potential_energy()
    dynamics = integrator(atoms, config)
    folder = Path(config.output)
    if (folder / TRAJECTORY).exists():
        raise UsageError(f"--output {folder} already holds a {TRAJECTORY}; name another")
    make_folder(folder)
    heat(atoms, config.temperature, config.seed + 1)
    rows: list[Row] = []

    def record() -> None:
        write(folder / TRAJECTORY, atoms, append=True)
        rows.append(state(atoms, dynamics.get_time() / (1000 * units.fs)))

    dynamics.attach(record, interval=config.interval)
    started = time.perf_counter()
    dynamics.run(config.steps)
    found = {
        "drift": float(np.polyfit([row["time"] for row in rows], [1e3 * row["energy"] for row in rows], 1)[0]),
        "temperature": float(np.mean([row["temperature"] for row in rows])),
        "milliseconds": 1e3 * (time.perf_counter() - started) / config.steps,
    }
    write_csv(folder / "dynamics.csv", rows)
    draw(rows, folder / "dynamics.png")
    print(f"steps               {config.steps} of {config.timestep} fs, {found['milliseconds']:.1f} ms each")
    print(f"temperature         {found['temperature']:.0f} K (mean)")
    if config.ensemble == "nve":
        print(f"drift of energy     {found['drift']:.3f} meV/atom/ps")
    print(f"everything is in    {folder}")
    return found


def state(atoms: Atoms, picoseconds: float) -> Row:
    """Time in ps, total and potential energy in eV per atom, temperature in K and, in a cell, volume in Å^3 per atom.

    Args:
        atoms: with a calculator and velocities.
        picoseconds: since the start.
    """
    potential, n = atoms.get_potential_energy(), len(atoms)
    row = {"time": picoseconds, "energy": (potential + atoms.get_kinetic_energy()) / n, "potential": potential / n}
    row["temperature"] = atoms.get_temperature()
    return {**row, "volume": atoms.get_volume() / n} if atoms.cell.rank == 3 else row


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw all that is recorded over the time, one panel each.

    Args:
        rows: of :func:`state`.
        path: PNG file to write.
    """
    units_of = {"energy": "eV/atom", "potential": "eV/atom", "temperature": "K", "volume": "Å³/atom"}
    names = [name for name in units_of if name in rows[0]]
    figure = Figure(figsize=(7, 2 * len(names)), layout="constrained")
    for axes, name in zip(figure.subplots(len(names), 1, sharex=True), names, strict=True):
        axes.plot([row["time"] for row in rows], [row[name] for row in rows], linewidth=1)
        axes.set_ylabel(f"{name} ({units_of[name]})")
    axes.set_xlabel("time (ps)")
    save_figure(figure, path)


if __name__ == "__main__":
    run(main)
