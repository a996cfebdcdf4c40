from dataclasses import replace
from importlib.util import find_spec
from itertools import product

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from experiments.qm9 import packaged
from experiments.qm9.packaged import from_qm9pack
from experiments.qm9.polarizability import (
    HALF_TURNS,
    charge_axes,
    isotropic_and_anisotropy,
    nearest,
    possible_tensors,
)
from tests.experiments.qm9.cases import table, with_tensors

ASYMMETRIC = ("CC=O", "CC(N)C(=O)O", "NC=O")
TENSOR = np.array([[30.0, 2.0, -1.0], [2.0, 25.0, 3.0], [-1.0, 3.0, 20.0]])


def turned(molecules, R):
    return replace(molecules, positions=molecules.positions @ R.T + np.array([1.0, -2.0, 3.0]))


def test_water_is_long_from_hydrogen_to_hydrogen_and_flat():
    water = table(("O",))
    oxygen, a, b = water.positions
    bisector = (a + b) / 2 - oxygen
    spreads, axes = charge_axes(water)
    along, in_plane, across = (axes[0, :, k] for k in range(3))
    assert abs(along @ (a - b)) == pytest.approx(np.linalg.norm(a - b))
    assert abs(in_plane @ bisector) == pytest.approx(np.linalg.norm(bisector), rel=1e-3)  # the conformer is not exact
    assert np.abs(across @ np.stack([a - b, bisector], axis=1)).max() < 1e-9
    height = np.linalg.norm(bisector)
    expected = [2 * (np.linalg.norm(a - b) / 2) ** 2 / 10, 2 * 8 / 10**2 * height**2, 0]
    np.testing.assert_allclose(spreads[0], expected, atol=1e-3)


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_one_of_the_possible_tensors_is_the_true_one_however_the_molecule_is_turned(seed):
    R = np.eye(3) if seed is None else Rotation.random(random_state=seed).as_matrix()
    molecules = table(ASYMMETRIC)
    in_axes = with_tensors(molecules, np.stack([TENSOR] * 3)).targets
    possible = possible_tensors(replace(turned(molecules, R), targets=in_axes))
    assert possible.shape == (3, 4, 3, 3)
    apart = np.abs(possible - R @ TENSOR @ R.T).max(axis=(2, 3))
    assert (np.sort(apart, axis=1)[:, 0] < 1e-9).all()
    assert (np.sort(apart, axis=1)[:, 1] > 0.1).all()


def test_the_possible_tensors_are_those_of_half_turns_about_the_axes():
    molecules = with_tensors(table(ASYMMETRIC))
    _, axes = charge_axes(molecules)
    along_axes = np.einsum("nia,nkij,njb->nkab", axes, possible_tensors(molecules), axes)
    known = molecules.targets["polarizability"]
    for k, signs in enumerate(HALF_TURNS):
        assert np.prod(signs) == 1  # proper
        np.testing.assert_allclose(along_axes[:, k], known * np.outer(signs, signs), atol=1e-9)


METHANE = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1.0]])
ANGLES = np.radians([0, 120, 240, 60, 180, 300])
ETHANE = np.concatenate(
    [[[0, 0, 0.76], [0, 0, -0.76]], np.stack([np.cos(ANGLES), np.sin(ANGLES), 1.1 * np.repeat([1, -1], 3)], axis=1)]
)
# Conformers are not exactly symmetric.
NO_AXES = {
    "an atom": ("[F]", None),
    "linear": ("C#N", None),
    "a spherical top": ("C", METHANE),
    "a top": ("CC", ETHANE),
}


@pytest.mark.parametrize("kind", NO_AXES)
def test_molecules_whose_charges_tell_no_axes_are_left_out(kind):
    smiles, symmetric = NO_AXES[kind]
    molecules = table(("CC=O", smiles))
    if symmetric is not None:
        acetaldehyde = molecules.positions[: molecules.num_atoms[0]]
        molecules = replace(molecules, positions=np.concatenate([acetaldehyde, symmetric]))
    possible = possible_tensors(with_tensors(molecules))
    assert np.isfinite(possible[0]).all()
    assert np.isnan(possible[1]).all()


def test_tensors_that_do_not_show_their_axes_or_are_of_another_molecule_are_left_out():
    molecules = with_tensors(table(("CC=O",) * 4))
    tensors, alpha = molecules.targets["polarizability"].copy(), molecules.targets["alpha"].copy()
    tensors[1] = np.diag(np.diagonal(tensors[1]))
    alpha[2] += 0.1
    tensors[3] = np.nan
    possible = possible_tensors(replace(molecules, targets={"polarizability": tensors, "alpha": alpha}))
    assert np.isfinite(possible).all(axis=(1, 2, 3)).tolist() == [True, False, False, False]


def test_without_tensors_nothing_is_known():
    assert np.isnan(possible_tensors(table())).all()


def test_errors_do_not_depend_on_which_way_the_axes_point():
    molecules = with_tensors(table(ASYMMETRIC))
    possible = torch.from_numpy(possible_tensors(molecules))
    predicted = possible[:, 2].flatten(1) + 0.1 * torch.randn(3, 9, dtype=torch.float64)
    errors = (predicted - nearest(predicted, possible)).norm(dim=1)
    torch.testing.assert_close(errors, (predicted - possible[:, 2].flatten(1)).norm(dim=1))
    each = (predicted.unsqueeze(1) - possible.flatten(2)).norm(dim=2)
    torch.testing.assert_close(errors, each.min(dim=1).values)
    # The file of another run of the calculation, whose axes point the other way.
    for signs in HALF_TURNS:
        known = molecules.targets["polarizability"] * np.outer(signs, signs)
        others = possible_tensors(replace(molecules, targets={**molecules.targets, "polarizability": known}))
        again = (predicted - nearest(predicted, torch.from_numpy(others))).norm(dim=1)
        torch.testing.assert_close(again, errors)


def test_isotropic_part_and_anisotropy_of_a_tensor_with_one_axis():
    R = Rotation.random(random_state=0).as_matrix()
    tensors = torch.from_numpy(np.stack([R @ np.diag([4.0, 4.0, 10.0]) @ R.T, 5 * np.eye(3)])).flatten(1)
    isotropic, anisotropy = isotropic_and_anisotropy(tensors)
    torch.testing.assert_close(isotropic, torch.tensor([6.0, 5.0], dtype=torch.float64))
    torch.testing.assert_close(anisotropy, torch.tensor([6.0, 0.0], dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("qm9pack") is None, reason="needs qm9pack")
def test_what_symmetry_makes_zero_vanishes_along_the_axes_of_charge(monkeypatch):
    """Of QM9's molecules: the tensors are along these axes, in this order, but for those of very few."""
    monkeypatch.setattr(packaged, "with_bonds", lambda molecules, *_: molecules)  # which take minutes
    molecules = from_qm9pack(None)
    molecules = molecules.take(np.isfinite(possible_tensors(molecules)).all(axis=(1, 2, 3)))
    assert len(molecules) > 0.98 * packaged.MOLECULES
    molecules = molecules.take(np.arange(0, len(molecules), 4))
    tensors, first = molecules.targets["polarizability"], molecules.first_atom
    _, axes = charge_axes(molecules)
    found, others = np.zeros(3, dtype=int), 0
    for row in range(len(molecules)):
        atoms = slice(*first[row : row + 2])
        x, numbers = molecules.positions[atoms] @ axes[row], molecules.numbers[atoms]
        x = x - (numbers @ x) / numbers.sum()
        other = 1e3 * (numbers[:, None] != numbers)
        for k, mirror in product(range(3), (True, False)):
            image = x * np.where((np.arange(3) == k) == mirror, -1, 1)
            apart = (np.linalg.norm(image[:, None] - x, axis=2) + other).min(axis=1).max()
            if apart < 0.02:
                found[k] += 1
                others += np.abs(np.delete(tensors[row, k], k)).max() > 0.1
    assert (found > 100).all()
    assert others <= 0.001 * found.sum()
