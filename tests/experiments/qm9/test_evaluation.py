from dataclasses import replace

import numpy as np

from experiments.qm9.evaluation import Predictions, linear_in_atoms
from tests.experiments.qm9.cases import table


def counts_of(molecules):
    ends = np.cumsum(molecules.num_atoms)
    parts = np.split(molecules.numbers, ends[:-1])
    return np.array([[np.count_nonzero(part == z) for z in (1, 6, 7, 8, 9)] for part in parts])


def test_what_is_linear_in_the_atoms_is_found():
    molecules = table()
    energies = counts_of(molecules) @ np.array([[-1.0], [-40.0], [-55.0], [-75.0], [-100.0]]) + 3.0
    np.testing.assert_allclose(linear_in_atoms(molecules, energies, molecules), energies)


def test_fit_is_of_the_training_molecules_alone():
    molecules = table()
    targets = np.arange(6.0)[:, None] ** 2
    some = molecules.take(np.arange(5))
    design = np.insert(counts_of(molecules), 0, 1, axis=1)
    expected = design[5:] @ np.linalg.pinv(design[:5]) @ targets[:5]
    np.testing.assert_allclose(linear_in_atoms(some, targets[:5], molecules.take(np.array([5]))), expected)


def test_errors_of_baselines():
    true = np.array([[1.0], [2.0]])
    baselines = {"mean": np.full((2, 1), 1.5), "linear": true + 0.1}
    predictions = Predictions("homo", np.array(["a", "b"]), true, true + 0.2, baselines)
    assert predictions.metrics["mae_of_mean"] == 500  # meV
    assert "linear in the atoms   100 meV, 0.50 times as much" in predictions.table()
    assert "linear" not in replace(predictions, baselines={}).table()
