"""The page of forces says what its record says."""

import csv
import json
import re

import numpy as np
import pytest

from equivariant_attention.models import ManyBodyPotential
from tests.docs.pages import ROOT
from tests.weights import needs_weights

PAGE = (ROOT / "docs" / "forces.md").read_text()
RECORD = ROOT / "benchmarks" / "results" / "forces"
MOLECULES = {  # and the elements in them
    "ethanol": [1, 6, 8],
    "malonaldehyde": [1, 6, 8],
    "uracil": [1, 6, 7, 8],
    "aspirin": [1, 6, 8],
    "benzene": [1, 6],
}


def test_errors_of_the_default_run():
    found = json.loads((RECORD / "metrics.json").read_text())
    (row,) = re.findall(r"^\| `run.py --data`.*16 epochs \| \d+ \| (.*)\|$", PAGE, re.MULTILINE)
    forces, stress, energy, parameters, _ = (cell.strip() for cell in row.split("|"))
    assert forces == f"{found['test_forces_mae']:.1f}"
    assert stress == f"{found['test_stress_mae']:.2f}"
    assert energy == f"{found['test_energy_mae']:.1f}"
    assert parameters == f"{found['parameters']:,}"
    assert found["epochs"] == 16


def test_errors_of_nequip():
    found = json.loads((RECORD / "nequip" / "metrics.json").read_text())
    (row,) = re.findall(r"^\| NequIP, 14 epochs \| (.*)\|$", PAGE, re.MULTILINE)
    seconds, forces, stress, energy, parameters, _ = (cell.strip() for cell in row.split("|"))
    assert (seconds, found["epochs"]) == (f"{found['seconds']:.0f}", 14)
    assert forces == f"{found['test_forces_mae']:.1f}"
    assert stress == f"{found['test_stress_mae']:.2f}"
    assert energy == f"{found['test_energy_mae']:.1f}"
    assert parameters == f"{found['parameters']:,}"


def test_drift_of_the_energy():
    """A straight line through the energy over the time, in meV per atom and picosecond."""
    with (RECORD / "dynamics.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    slope, _ = np.polyfit([row["time"] for row in rows], [1000 * row["energy"] for row in rows], 1)
    assert rows[-1]["time"] == 4
    assert rows[0]["temperature"] > 500
    assert abs(slope) < 1e-3
    assert "drifts by less than 0.001 meV/atom/ps at 1 fs in 4 ps" in PAGE


def test_errors_of_clusters():
    found = json.loads((RECORD / "clusters" / "metrics.json").read_text())
    table = PAGE.split("## What it learns")[1].split("## ")[0]
    told = [float(number) for number in re.findall(r"^\| (?:forces|energies), .* \| ([\d.]+) \|$", table, re.MULTILINE)]
    names = "force_error_of_zero", "force_error", "energy_error_of_mean", "energy_error"
    assert told == [round(found[name], 3) for name in names]


@pytest.mark.parametrize("molecule", MOLECULES)
def test_errors_of_molecules(molecule):
    found = json.loads((RECORD / molecule / "metrics.json").read_text())
    (row,) = re.findall(rf"^\| \[{molecule}\]\(.*\) \| (.*)\|$", PAGE, re.MULTILINE)
    epochs, forces, energy, parameters = (cell.strip() for cell in row.split("|"))
    assert epochs == f"{found['epochs']}"
    assert forces == f"{found['valid_forces_error']:.2f}"
    assert energy == f"{found['valid_energy_error']:.2f}"
    assert parameters == f"{found['parameters']:,}"
    with (RECORD / molecule / "metrics.csv").open() as file:
        curve = [float(row["valid_forces_error"]) for row in csv.DictReader(file)]
    assert len(curve) == found["epochs"]
    assert curve[found["best_epoch"] - 1] == pytest.approx(found["valid_forces_error"], rel=1e-3)


@needs_weights
@pytest.mark.parametrize("molecule", MOLECULES)
def test_potentials_of_molecules_are_shipped(molecule):
    model = ManyBodyPotential.from_pretrained(RECORD / molecule / "model.pt")
    assert model.known.nonzero().flatten().tolist() == MOLECULES[molecule]
    assert (RECORD / molecule / "model.pt").stat().st_size < 1e6


@needs_weights
def test_forces_in_a_symmetric_benzene():
    """They point along the radii, and hardly change where the atoms hardly move."""
    ase = pytest.importorskip("ase")
    from equivariant_attention.ase_calculator import ModelCalculator

    model = ManyBodyPotential.from_pretrained(RECORD / "benzene" / "model.pt").double()
    angle = np.arange(12) * np.pi / 3
    direction = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    x = direction * np.repeat([1.397, 1.397 + 1.085], 6)[:, None]

    def forces(x):
        return ase.Atoms("C6H6", positions=x, calculator=ModelCalculator(model)).get_forces()

    found = forces(x)
    along = (found * direction).sum(axis=1, keepdims=True)
    assert np.abs(along).min() > 0.1
    np.testing.assert_allclose(found, along * direction, atol=1e-12, rtol=0)
    moved = forces(x + 1e-6 * np.random.default_rng(0).normal(size=x.shape))
    assert np.abs(moved - found).max() < 2e-4
