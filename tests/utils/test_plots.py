import numpy as np

from utils.plots import learning_curves, parity

PNG = b"\x89PNG"


def test_learning_curves(tmp_path):
    rows = [{"epoch": 1, "train_loss": 0.5, "valid_loss": 0.6}, {"epoch": 2, "train_loss": 0.3, "valid_loss": 0.4}]
    learning_curves(rows, ["loss"], tmp_path / "curves.png", {"baseline": {"loss": 0.9}, "other": {"loss": 0.9}})
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)


def test_learning_curves_without_validation(tmp_path):
    rows = [{"epoch": 1, "train_loss": 0.5, "train_error": 1.0}]
    learning_curves(rows, ["loss", "error"], tmp_path / "curves.png", over="samples seen", per_epoch=1000)
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)


def test_parity(tmp_path):
    parity(np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.0, 3.0]), "gap (eV)", tmp_path / "parity.png")
    assert (tmp_path / "parity.png").read_bytes().startswith(PNG)
