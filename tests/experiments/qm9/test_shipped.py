"""The shipped weights on symmetric molecules, which are the hardest to be equivariant on."""

import numpy as np
import pytest
import torch

from equivariant_attention.so3 import random_rotation
from equivariant_attention.symmetric_structures import symmetric_graphs
from experiments.qm9 import bonds, predict
from tests.weights import needs_weights

pytestmark = needs_weights
MOLECULES = ("tetrahedron", "CO2", "allene", "benzene", "CF4", "CH3")
ROTATIONS = 4
LIMITS = {"qm9-homo": 1e-3, "qm9-dipole": 1e-3, "qm9-multitask": 1e-3}  # eV, D, and the units of all six targets


def predicted(model, displacement, folder, monkeypatch):
    """Of each molecule the predictions in every orientation, turned back: ``[molecules, orientations, 1, 3 or 6]``."""
    monkeypatch.setattr(
        bonds, "_in_workers", lambda molecules, *_: map(bonds.perceive_one, *zip(*molecules, strict=True))
    )
    generator = torch.Generator().manual_seed(0)
    turns = [torch.eye(3, dtype=torch.float64)]
    turns += [random_rotation(generator=generator, dtype=torch.float64, device="cpu") for _ in range(ROTATIONS)]
    graphs = symmetric_graphs(torch.float64, displacement)
    lines = []
    for name in MOLECULES:
        numbers, x = graphs[name].ndata["z"].tolist(), graphs[name].ndata["x"].squeeze(1)
        for R in turns:
            lines += [str(len(numbers)), name]
            lines += [f"{z} {a:.9f} {b:.9f} {c:.9f}" for z, (a, b, c) in zip(numbers, (x @ R.T).tolist(), strict=True)]
    (folder / "molecules.xyz").write_text("\n".join(lines))
    weights = ["--checkpoint", model, "--device", "cpu"]
    each = predict.main([str(folder / "molecules.xyz"), *weights, "--output", str(folder / "out.csv")])
    found = np.concatenate([one.predicted for one in each], axis=1).reshape(len(MOLECULES), len(turns), -1)
    return np.einsum("rji,mrj->mri", torch.stack(turns).numpy(), found) if found.shape[2] == 3 else found


@pytest.mark.parametrize("displacement", [0, 1e-6, 1e-3])
@pytest.mark.parametrize("model", LIMITS)
def test_predictions_do_not_depend_on_the_orientation(model, displacement, tmp_path, monkeypatch):
    found = predicted(model, displacement, tmp_path, monkeypatch)
    assert np.abs(found - found[:, :1]).max() < LIMITS[model]


@pytest.mark.parametrize("model", LIMITS)
def test_predictions_move_as_far_as_the_atoms_do(model, tmp_path, monkeypatch):
    still = predicted(model, 0, tmp_path, monkeypatch)[:, 0]
    for displacement in (1e-6, 1e-3):
        moved = predicted(model, displacement, tmp_path, monkeypatch)[:, 0]
        # In eV or D per ångström; of fluorine, which is steepest, the energies were not trained on.
        assert np.abs(moved - still).max() < 1e-5 + 100 * displacement


def test_no_dipole_where_there_is_none(tmp_path, monkeypatch):
    assert np.abs(predicted("qm9-dipole", 0, tmp_path, monkeypatch)).max() < 1e-4


def test_the_length_of_a_dipole_is_zero_where_there_is_none(tmp_path, monkeypatch):
    *_, mu = np.moveaxis(predicted("qm9-multitask", 0, tmp_path, monkeypatch), 2, 0)
    assert np.abs(mu).max() < 1e-4
