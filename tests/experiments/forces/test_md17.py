import numpy as np
import pytest

from experiments.forces.frames import labels, read_frames
from experiments.forces.md17 import NAMES, read_md17
from experiments.forces.run import main
from tests.experiments.qm9.cases import SHARED

KCAL = 0.0433641  # eV per kcal/mol


def arrays(frames=12):
    """Those of a trajectory of water."""
    noise = np.random.default_rng(0).normal(scale=0.05, size=(frames, 3, 3))
    still = np.array([[0, 0, 0.1], [0, 0.8, -0.5], [0, -0.8, -0.5]])
    return {
        "numbers": np.array([8, 1, 1], dtype=np.uint8),
        "positions": still + noise,
        "energies": -47_000 + noise.sum(axis=(1, 2)),
        "forces": -noise,
    }


def write(path, content, names):
    np.savez(path, **{NAMES[name][names]: values for name, values in content.items()}, name=np.array("water"))
    return str(path)


@pytest.mark.parametrize("names", [0, 1])
def test_frames_come_in_electronvolts(tmp_path, names):
    content = arrays()
    if names == 1:
        content["energies"] = content["energies"][:, None]  # as sGDML has them
    frames = read_frames(write(tmp_path / "water.npz", content, names))
    assert len(frames) == 12
    for i in (0, 11):
        found = labels(frames[i], "here")
        assert frames[i].get_chemical_formula() == "H2O"
        np.testing.assert_array_equal(frames[i].positions, content["positions"][i])
        assert found["energy"] == pytest.approx(KCAL * content["energies"].ravel()[i], rel=1e-5)
        np.testing.assert_allclose(found["forces"], KCAL * content["forces"][i], rtol=1e-5)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"forces": np.zeros((12, 2, 3))}, "forces"),
        ({"positions": np.zeros((11, 3, 3))}, "positions"),
        ({"numbers": np.zeros((3, 1), dtype=np.uint8)}, "numbers"),
        ({"numbers": np.array(["O", "H", "H"])}, "numbers"),
        ({"energies": None}, "energies"),
    ],
)
def test_other_arrays_are_refused_by_name(tmp_path, changed, named):
    content = {name: values for name, values in {**arrays(), **changed}.items() if values is not None}
    with pytest.raises(ValueError, match=rf"water\.npz: .*{named}"):
        read_md17(write(tmp_path / "water.npz", content, 0))


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "water.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"water\.npz: expected a whole \.npz"):
        read_md17(str(tmp_path / "water.npz"))


def test_a_run_takes_it(tmp_path):
    path = write(tmp_path / "water.npz", arrays(), 0)
    metrics = main(["--data", path, "--num_epochs", "1", "--output", str(tmp_path / "run")])
    assert metrics["test_forces_mae"] > 0
    assert (tmp_path / "run" / "model.pt").exists()


@pytest.mark.skipif(not (SHARED / "rmd17").is_dir(), reason="the real data are not there")
def test_revised_md17():
    frames = read_md17(str(SHARED / "rmd17" / "ethanol_train_01.npz"))
    assert len(frames) == 1000
    assert frames[0].get_chemical_formula() == "C2H6O"
    forces = np.stack([atoms.get_forces() for atoms in frames])
    assert 0.5 < forces.std() < 2  # eV/Å, as at 500 K
