"""Dynamics with a model file, in every ensemble."""

import csv

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.io import read, write

from equivariant_attention.models import Potential
from experiments.forces.dynamics import main
from utils.cli import UsageError


@pytest.fixture
def files(tmp_path):
    torch.manual_seed(0)
    model = Potential(3.0, {0: 4, 1: 4}, num_embedding=4, num_radial=4, div=2)
    model.set_references(torch.tensor([8, 1, 29]), torch.arange(3), torch.zeros(3), scale=0.1)
    model.save_pretrained(tmp_path / "model.pt")
    write(tmp_path / "copper.xyz", bulk("Cu", cubic=True))
    write(tmp_path / "water.xyz", molecule("H2O"))
    return tmp_path


def move(files, structure, *arguments, output="out"):
    return main([str(files / "model.pt"), str(files / structure), "--output", str(files / output), *arguments])


@pytest.mark.pictures
@pytest.mark.parametrize("structure", ["copper.xyz", "water.xyz"])
def test_energy_is_conserved(files, structure, capsys):
    found = move(files, structure, "--steps", "40", "--interval", "10", "--timestep", "0.2")
    assert len(read(files / "out" / "trajectory.extxyz", ":")) == 5
    assert (files / "out" / "dynamics.png").read_bytes().startswith(b"\x89PNG")
    with open(files / "out" / "dynamics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["time"]) for row in rows] == pytest.approx([0, 0.002, 0.004, 0.006, 0.008])
    assert ("volume" in rows[0]) == (structure == "copper.xyz")
    energies = np.array([float(row["energy"]) for row in rows])
    potentials = np.array([float(row["potential"]) for row in rows])
    assert np.ptp(potentials) > 0
    assert np.ptp(energies) < 0.05 * np.ptp(potentials) + 1e-6
    assert "meV/atom/ps" in capsys.readouterr().out
    assert found["temperature"] > 0


@pytest.mark.parametrize("ensemble", ["nvt", "npt"])
def test_baths_are_seeded_and_pressure_changes_the_volume(files, ensemble):
    arguments = ["--ensemble", ensemble, "--steps", "20", "--interval", "5"]
    arguments += ["--pressure", "20"] if ensemble == "npt" else []
    for output in ("out", "again"):
        move(files, "copper.xyz", *arguments, output=output)
    first, again = (read(files / output / "trajectory.extxyz", ":") for output in ("out", "again"))
    np.testing.assert_array_equal(first[-1].positions, again[-1].positions)
    change = first[-1].get_volume() - first[0].get_volume()
    assert change < -1e-4 if ensemble == "npt" else change == 0


def test_what_cannot_be_done_is_refused(files):
    with pytest.raises(UsageError, match=r"^--ensemble npt: expected a structure that is periodic in all directions"):
        move(files, "water.xyz", "--ensemble", "npt")
    with pytest.raises(UsageError, match=r"^MODEL: .*no\.pt: there is no such file"):
        main([str(files / "no.pt"), str(files / "water.xyz")])
    write(files / "ammonia.xyz", molecule("NH3"))
    with pytest.raises(UsageError, match=r"^STRUCTURE: z must be of the elements that the model was trained on"):
        move(files, "ammonia.xyz")
    with pytest.raises(UsageError, match="--interval: expected at most --steps, 1, got 10"):
        move(files, "water.xyz", "--steps", "1")
    short = ["--steps", "1", "--interval", "1"]
    move(files, "water.xyz", *short)
    with pytest.raises(UsageError, match=r"^--output .* already holds a trajectory\.extxyz; name another"):
        move(files, "water.xyz", *short)
