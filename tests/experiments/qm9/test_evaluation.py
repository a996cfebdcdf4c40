from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.qm9.evaluation import Predictions, loss_of_tensors, loss_together, predicted_by_atoms
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
    batch = None, None, torch.tensor([[0.0, 10.0], [0.0, 10.0]])
    metrics, size = loss_together(model, batch, tasks=["mu", "cv"], weights=[1, 1])
    assert size == 2
    weighted, _ = loss_together(model, batch, tasks=["mu", "cv"], weights=[6, 2])
    assert weighted == {**metrics, "loss": 1.25}
    assert {name: value.item() for name, value in metrics.items()} == {"loss": 1.5, "mae": 2, "mae_cv": 10}


def test_errors_of_tensors_are_from_the_nearest_that_a_molecule_may_have():
    one, other = np.diag([1.0, 2.0, 3.0]), np.diag([1.0, 2.0, 3.0]) + 0.5 * np.eye(3)[::-1]
    possible = torch.from_numpy(np.stack([[one + 9, other, one + 9, one + 9]]))
    predicted = torch.from_numpy(np.stack([other + 0.2 * np.eye(3)] * 2)).flatten(1)  # the last of padding
    model = lambda G, plan: predicted  # noqa: E731
    model.std = torch.tensor([2.0])
    metrics, size = loss_of_tensors(model, (None, None, possible))
    assert size == 1
    found = {name: value.item() for name, value in metrics.items()}
    norm = 0.2 * 3**0.5
    assert found == pytest.approx({"loss": norm / 2, "mae": norm, "mae_isotropic": 0.2, "mae_anisotropy": 0}, abs=1e-12)


def test_the_loss_of_tensors_adds_the_norms_of_both_parts_of_the_error():
    true, error = np.diag([10.0, 12.0, 15.0]), np.array([[0.3, 0.1, 0.0], [0.1, 0.0, 0.2], [0.0, 0.2, 0.6]])
    model = lambda G, plan: torch.from_numpy((true + error).reshape(1, 9))  # noqa: E731
    model.std = torch.tensor([1.0])
    metrics, _ = loss_of_tensors(model, (None, None, torch.from_numpy(np.stack([[true] * 4]))))
    isotropic = np.trace(error) / 3 * np.eye(3)
    expected = np.linalg.norm(isotropic) + np.linalg.norm(error - isotropic)
    assert metrics["loss"].item() == pytest.approx(expected)


def test_tables_of_tensors_have_six_columns_and_errors_of_both_parts():
    true = np.arange(9.0).reshape(1, 9)
    tensors = Predictions("polarizability", np.array(["a"]), true, true + np.eye(3).ravel(), {"linear": true + 2.0})
    expected = {"mae": 3**0.5, "rmse": 3**0.5, "mae_of_linear": 6, "mae_isotropic": 1, "mae_anisotropy": 0}
    assert tensors.metrics == pytest.approx({"molecules": 1, **expected})
    columns = {name: column.item() for name, column in tensors.columns.items() if name.startswith("true")}
    names = {"xx": 0, "xy": 1, "xz": 2, "yy": 4, "yz": 5, "zz": 8}
    assert columns == {f"true polarizability {name} (a0^3)": value for name, value in names.items()}
    lines = [line.split("  ") for line in tensors.table().splitlines()]
    assert [line[-1].strip() for line in lines[1:3]] == ["1 a0^3", "0 a0^3"]


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


def test_the_mean_of_tensors_has_a_nearest_one_of_its_own():
    one, other = (np.diag([1.0, 2.0, 3.0]) + shift * np.ones((3, 3)) for shift in (-1, 1))
    possible = np.stack([[one, other, one, other]])
    predicted = [(one + 0.9).reshape(1, 9), (other + 2.0).reshape(1, 9)]  # nearer to the first, and to the second
    alone = [Predictions("polarizability", np.array(["a"]), one.reshape(1, 9), p, {}, possible) for p in predicted]
    both = alone[0].with_others(alone[1:])
    np.testing.assert_allclose(both.predicted, np.mean(predicted, axis=0))
    np.testing.assert_array_equal(both.true, other.reshape(1, 9))
    assert both.metrics["mae"] == pytest.approx(3 * 0.45)
