from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.qm9.evaluation import Predictions, loss_together, predicted_by_atoms
from tests.experiments.qm9.cases import table


def counts_of(molecules):
    ends = np.cumsum(molecules.num_atoms)
    parts = np.split(molecules.numbers, ends[:-1])
    return np.array([[np.count_nonzero(part == z) for z in (1, 6, 7, 8, 9)] for part in parts])


def test_what_is_linear_in_the_atoms_is_found():
    molecules = table()
    energies = counts_of(molecules) @ np.array([[-1.0], [-40.0], [-55.0], [-75.0], [-100.0]]) + 3.0
    np.testing.assert_allclose(predicted_by_atoms(molecules, energies, molecules), energies)


def test_fit_is_of_the_training_molecules_alone():
    molecules = table()
    targets = np.arange(6.0)[:, None] ** 2
    some = molecules.take(np.arange(5))
    design = np.insert(counts_of(molecules), 0, 1, axis=1)
    expected = design[5:] @ np.linalg.pinv(design[:5]) @ targets[:5]
    np.testing.assert_allclose(predicted_by_atoms(some, targets[:5], molecules.take(np.array([5]))), expected)


def test_errors_of_baselines():
    true = np.array([[1.0], [2.0]])
    baselines = {"mean": np.full((2, 1), 1.5), "linear": true + 0.1}
    predictions = Predictions("homo", np.array(["a", "b"]), true, true + 0.2, baselines)
    assert predictions.metrics["mae_of_mean"] == 500  # meV
    assert "linear in the atoms   100 meV, 0.50 times as much" in predictions.table()
    assert "linear" not in replace(predictions, baselines={}).table()


def test_of_several_targets_the_first_is_the_error_and_the_loss_is_of_all():
    predicted = torch.tensor([[1.0, 10.0], [3.0, 30.0], [9.0, 9.0]])  # the last of padding
    model = lambda G, plan: predicted  # noqa: E731
    model.std = torch.tensor([2.0, 5.0])
    metrics, size = loss_together(model, (None, None, torch.tensor([[0.0, 10.0], [0.0, 10.0]])), tasks=["mu", "cv"])
    assert size == 2
    assert {name: value.item() for name, value in metrics.items()} == {"loss": 1.5, "mae": 2, "mae_cv": 10}


def test_tables_of_several_targets_have_a_line_and_columns_for_each():
    true = np.array([[1.0, 10.0], [2.0, 20.0]])
    together = Predictions("homo,cv", np.array(["a", "b"]), true, true + np.array([0.2, 3.0]), {"linear": true + 1.0})
    assert [one.task for one in together.each] == ["homo", "cv"]
    assert together.metrics == pytest.approx(
        {"molecules": 2, "mae": 200, "rmse": 200, "mae_of_linear": 1000, "mae_cv": 3}
    )
    assert together.unit == "meV,cal/(mol K)"
    assert [*together.columns] == [
        f"{kind} {name}" for name in ("homo (eV)", "cv (cal/(mol K))") for kind in ("predicted", "true")
    ]
    np.testing.assert_array_equal(together.columns["true cv (cal/(mol K))"], true[:, 1])
    title, homo, cv = together.table().splitlines()
    assert title.split() == ["mean", "absolute", "error", "root", "mean", "square", "linear", "in", "the", "atoms"]
    assert homo.split() == ["homo", "(meV)", "200", "200", "1000"]
    assert cv.split() == ["cv", "(cal/(mol", "K))", "3", "3", "1"]
