import csv

import pytest

from utils.history import Mean, write_csv


def test_csv_keeps_every_digit(tmp_path):
    rows = [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": 1e-300}]
    write_csv(tmp_path / "metrics.csv", rows)
    with open(tmp_path / "metrics.csv", newline="") as file:
        assert [{"epoch": int(r["epoch"]), "loss": float(r["loss"])} for r in csv.DictReader(file)] == rows


def test_csv_without_rows(tmp_path):
    write_csv(tmp_path / "steps.csv", [])
    assert (tmp_path / "steps.csv").read_text().strip() == ""


def test_csv_of_different_columns_leaves_the_old_file(tmp_path):
    write_csv(tmp_path / "metrics.csv", [{"epoch": 1}])
    with pytest.raises(ValueError, match="loss"):
        write_csv(tmp_path / "metrics.csv", [{"epoch": 1}, {"epoch": 2, "loss": 3.0}])
    assert (tmp_path / "metrics.csv").read_text() == "epoch\n1\n"


def test_mean_is_weighted():
    mean = Mean()
    mean.add({"loss": 1.0, "error": 2.0}, 3)
    mean.add({"loss": 5.0, "error": 2.0}, 1)
    assert mean.result("valid_") == {"valid_loss": 2.0, "valid_error": 2.0}


def test_mean_of_nothing():
    with pytest.raises(ValueError, match="no batches"):
        Mean().result()
