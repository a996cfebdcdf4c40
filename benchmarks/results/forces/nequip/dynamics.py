"""Dynamics of 32 copper atoms with NequIP, as experiments/forces/dynamics.py has them with a potential of this library.

python dynamics.py MODEL STEPS       MODEL of nequip-compile; where nequip is installed, which nothing here needs
"""

import sys
import time

import numpy as np
import torch
from ase import units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet
from nequip.ase import NequIPCalculator

TEMPERATURE, SEED, INTERVAL = 600, 43, 10  # kelvin; what dynamics.py makes of its --seed 42; steps from row to row

path, steps = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
atoms = bulk("Cu", cubic=True) * (2, 2, 2)
atoms.calc = NequIPCalculator.from_compiled_model(path, device="cpu", chemical_species_to_atom_type_map={"Cu": "Cu"})
atoms.get_potential_energy()
spread = np.sqrt(atoms.get_masses() * units.kB * TEMPERATURE)
atoms.set_momenta(spread[:, None] * np.random.default_rng(SEED).standard_normal((len(atoms), 3)))

rows: list[tuple[float, float]] = []
dynamics = VelocityVerlet(atoms, timestep=units.fs)
dynamics.attach(lambda: rows.append((dynamics.get_time(), atoms.get_total_energy())), interval=INTERVAL)
started = time.perf_counter()
dynamics.run(steps)
milliseconds = 1e3 * (time.perf_counter() - started) / steps

times, energies = np.array(rows).T
drift, _ = np.polyfit(times / (1000 * units.fs), 1e3 * energies / len(atoms), 1)
print(f"{milliseconds:.1f} ms a step; the energy drifts by {drift:.5f} meV/atom/ps")
