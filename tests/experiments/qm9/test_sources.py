import numpy as np
import pytest

from experiments.qm9 import bonds
from experiments.qm9.sources import from_arrays
from experiments.qm9.targets import HARTREE, free_atoms
from tests.experiments.qm9.cases import SHARED, table

shared = pytest.mark.skipif(not SHARED.exists(), reason="shared data absent")


@pytest.fixture
def in_this_process(monkeypatch):
    """Bonds without worker processes, which take seconds to start."""
    monkeypatch.setattr(
        bonds, "_in_workers", lambda molecules, *_: map(bonds.perceive_one, *zip(*molecules, strict=True))
    )


# ---------------------------------------------------------------------------------------------------- ragged arrays


def ragged(molecules, **more):
    """The content of a file of ragged arrays."""
    return {
        "N": molecules.num_atoms,
        "Z": molecules.numbers,
        "R": molecules.positions,
        "idx": np.arange(len(molecules)) + 1,
        "validation": molecules.split == 1,
        "homo": molecules.targets["homo"] / HARTREE,
        **more,
    }


def write(folder, content):
    path = folder / "molecules.npz"
    np.savez(path, **content)
    return path


@pytest.mark.parametrize(
    ("integers", "floats"),
    [("int64", "float64"), ("uint8", "float32"), ("float16", "float16"), ("float64", "longdouble")],
)
def test_ragged_arrays_of_any_type(tmp_path, in_this_process, integers, floats):
    expected = table()
    content = {
        name: array if array.dtype == bool else array.astype(floats if name in ("R", "homo") else integers)
        for name, array in ragged(expected).items()
    }
    found = from_arrays(write(tmp_path, content), None)
    assert [*found.names] == [f"gdb_{number}" for number in range(1, 7)]
    np.testing.assert_array_equal(found.split, expected.split == 1)
    for name in ("num_atoms", "numbers", "num_bonds"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    tolerance = 5 * max(np.finfo(floats).eps, np.finfo(float).eps)
    np.testing.assert_allclose(found.positions, expected.positions, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found.targets["homo"], expected.targets["homo"], rtol=tolerance)
    assert found.perceived.all()
    assert (found.positions.dtype, found.numbers.dtype) == (np.float64, np.int64)


def test_validation_rows_serve_for_the_test_as_well(tmp_path, in_this_process):
    found = from_arrays(write(tmp_path, ragged(table())), None)
    assert [*found.part("test").names] == [*found.part("valid").names] == ["gdb_2", "gdb_5"]
    assert len(found.part("train")) == 4


def test_without_validation_rows_a_tenth_each_is_drawn(tmp_path, in_this_process):
    content = ragged(table(("O",) * 20))
    del content["validation"]
    found = from_arrays(write(tmp_path, content), None)
    assert np.bincount(found.split).tolist() == [16, 2, 2]


def test_rows_without_numbers_in_qm9_have_none(tmp_path, in_this_process):
    content = ragged(table())
    del content["idx"]
    found = from_arrays(write(tmp_path, content), None)
    assert [*found.names] == [f"row_{row}" for row in range(6)]
    with pytest.raises(ValueError, match="ids: expected numbers of some of the molecules"):
        found.hold_out(np.arange(6))


def test_other_methods_names_and_units(tmp_path, in_this_process):
    molecules, dipole = table(), np.random.default_rng(0).normal(size=(6, 3))
    content = ragged(molecules, dip_hf=dipole, lumo_hf=np.ones(6), g4mp2_atom=np.full(6, -2.0), u0=np.full(6, -100.0))
    targets = from_arrays(write(tmp_path, content), None).targets
    np.testing.assert_allclose(targets["dipole"], 2.541746 * dipole, rtol=1e-6)
    np.testing.assert_allclose(targets["mu"], 2.541746 * np.linalg.norm(dipole, axis=1), rtol=1e-6)
    np.testing.assert_allclose(targets["gap"], 27.211386 - molecules.targets["homo"], rtol=1e-6)
    np.testing.assert_allclose(targets["atomisation"], -2 * 27.211386, rtol=1e-6)
    atoms = free_atoms("u0", molecules.num_atoms, molecules.numbers)
    np.testing.assert_allclose(targets["u0"], -2721.1386 - atoms, rtol=1e-6)


def test_energies_in_ev(tmp_path, in_this_process):
    """As in DimeNet's file, which has the same names."""
    molecules = table()
    content = {name: array for name, array in ragged(molecules).items() if name in ("N", "Z", "R")}
    found = from_arrays(write(tmp_path, {**content, "homo": molecules.targets["homo"]}), None)
    np.testing.assert_allclose(found.targets["homo"], molecules.targets["homo"])


def test_limit_spreads_over_the_file_and_must_be_positive(tmp_path, in_this_process):
    path = write(tmp_path, ragged(table()))
    assert [*from_arrays(path, None, limit=3).names] == ["gdb_1", "gdb_3", "gdb_6"]
    assert len(from_arrays(path, None, limit=7)) == 6
    with pytest.raises(ValueError, match="limit: expected at least 1, got 0"):
        from_arrays(path, None, limit=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"R": None}, "without .'R'."),
        ({"R": np.zeros((3, 3))}, r"positions: expected shape \[40, 3\]"),
        ({"R": np.full((40, 3), np.nan)}, "positions: expected finite"),
        ({"Z": np.full(40, 17)}, "numbers: expected"),
        ({"Z": np.full(40, 1.5)}, "Z: expected whole numbers"),
        ({"N": np.array(["3"] * 6)}, "N: expected an array of real numbers"),
        ({"validation": np.full(6, 7)}, "split: expected"),
        ({"homo": np.full(6, 150.0)}, "homo: expected energies in Hartree or in eV"),
        ({"R": table().positions / 0.529}, "positions: expected Å"),
        ({"N": np.array([10**6]), "Z": np.ones(10**6), "R": np.zeros((10**6, 3))}, "expected shape"),
        ({"homo": np.zeros(5)}, r"'homo'.*shape \[6\]"),
        ({"idx": np.zeros(5)}, "expected shape"),
    ],
)
def test_wrong_arrays_are_refused_by_name(tmp_path, change, message):
    content = {name: array for name, array in ragged(table(), **change).items() if array is not None}
    with pytest.raises(ValueError, match=f"molecules.npz: .*{message}"):
        from_arrays(write(tmp_path, content), None)


@shared
def test_the_shared_targets_are_those_of_the_data_set(tmp_path, in_this_process):
    content = np.load(SHARED / "qm9_all_targets.npz")
    limit = 50
    rows = np.linspace(0, len(content["N"]) - 1, limit).round().astype(int)
    targets = from_arrays(SHARED / "qm9_all_targets.npz", None, limit=limit).targets
    for name in ("mu", "alpha", "r2", "cv"):
        np.testing.assert_array_equal(targets[name], content[name][rows])
    for name in ("u0", "u298", "h298", "g298"):  # the file holds these in kcal/mol as well
        np.testing.assert_allclose(targets[name], content[f"{name}_atom"][rows] * 0.0433641, rtol=2e-5, equal_nan=True)
    np.testing.assert_allclose(targets["gap"], targets["lumo"] - targets["homo"], atol=0.004)
