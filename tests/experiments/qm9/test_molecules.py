from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.qm9.molecules import ARRAYS, Molecules, draw_split, join
from tests.experiments.qm9.cases import SMILES, table


def assert_same(found, expected):
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert found.targets.keys() == expected.targets.keys()
    for name, values in expected.targets.items():
        np.testing.assert_array_equal(found.targets[name], values)


def test_saved_and_loaded(tmp_path):
    table().save(tmp_path / "molecules.npz")
    assert_same(Molecules.load(tmp_path / "molecules.npz"), table())


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(-6, 5), max_size=8))
def test_rows_taken_are_those_molecules(rows):
    molecules = table()
    taken = molecules.take(np.array(rows, dtype=int))
    assert taken.names.tolist() == [SMILES[row] for row in rows]
    for number, row in enumerate(rows):
        one, same = taken.take(np.array([number])), molecules.take(np.array([row]))
        assert_same(one, same)
        first, end = molecules.first_atom[row % 6 :][:2]
        np.testing.assert_array_equal(same.positions, molecules.positions[first:end])
        first, end = molecules.first_bond[row % 6 :][:2]
        np.testing.assert_array_equal(same.bonds, molecules.bonds[first:end])
    if rows:
        assert_same(join([taken.take(np.array([number])) for number in range(len(rows))]), taken)


def test_masks_parts_and_summary():
    molecules = table()
    assert molecules.take(molecules.num_atoms == 3).names.tolist() == ["O", "C#N"]
    assert [molecules.part(split).names.tolist() for split in ("train", "valid", "test")] == [
        ["O", "c1ccoc1"], ["CC=O", "FC(F)F"], ["C#N", "CC(N)C(=O)O"],
    ]  # fmt: skip
    without_test = molecules.take(molecules.split < 2)
    assert_same(without_test.part("test"), without_test.part("valid"))
    guessed = replace(molecules, perceived=molecules.num_atoms > 3)
    assert guessed.summary == ("6 molecules (2 train, 2 valid, 2 test), 2 of them with single bonds by distance alone")


def test_different_targets_cannot_be_joined():
    molecules = table()
    with pytest.raises(ValueError, match="parts: expected the same targets"):
        join([molecules, replace(molecules, targets={})])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("split", lambda a: a + 3, "split: expected indices"),
        ("split", lambda a: a[1:], r"split: expected shape \[6\], got \(5,\)"),
        ("num_atoms", lambda a: a - np.array([a[0], -a[0], 0, 0, 0, 0]), "num_atoms: expected at least 1"),
        (
            "num_bonds",
            lambda a: a * np.array([-1, 1, 1, 1, 1, 1]) + np.array([0, 4, 0, 0, 0, 0]),
            "num_bonds: expected at least 0",
        ),
        ("numbers", lambda a: a + 9, "numbers: expected"),
        ("positions", lambda a: a[:, :2], "positions: expected shape"),
        ("positions", lambda a: a * np.inf, "positions: expected finite"),
        ("bonds", lambda a: a + 1, "bonds: expected two atoms of the molecule"),
        ("bonds", lambda a: a * 0, "bonds: expected two atoms of the molecule"),
        ("bonds", lambda a: a - 1, "bonds: expected two atoms of the molecule"),
        ("bond_types", lambda a: a + 4, "bond_types: expected 0 to 3"),
        ("targets", lambda t: {"colour": t["homo"]}, r"targets\['colour'\]: expected one of"),
        ("targets", lambda t: {"dipole": t["homo"]}, r"targets\['dipole'\]: expected shape \[6, 3\]"),
        ("targets", lambda t: {"homo": t["dipole"]}, r"targets\['homo'\]: expected shape \[6\]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(name, change, message):
    molecules = table()
    with pytest.raises(ValueError, match=message), np.errstate(invalid="ignore"):
        replace(molecules, **{name: change(getattr(molecules, name))})


def test_files_that_are_no_table_are_refused_by_name(tmp_path):
    path = tmp_path / "molecules.npz"
    np.savez(path, names=np.array(["a"]))
    with pytest.raises(ValueError, match=r"molecules.npz: no table of molecules, without .*'bonds'"):
        Molecules.load(path)
    table().save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"molecules.npz: expected a whole .npz"):
        Molecules.load(path)


def test_drawn_splits_are_the_same_for_a_seed():
    split = draw_split(1000, 800, 100)
    assert np.bincount(split).tolist() == [800, 100, 100]
    np.testing.assert_array_equal(split, draw_split(1000, 800, 100, seed=0))
    assert (split != draw_split(1000, 800, 100, seed=1)).any()


def test_molecules_held_out_are_the_test_split_and_no_others():
    """Those that leave the test split take the places in the training set that become free."""
    many = join([table()] * 5)
    split = np.array([0] * 20 + [1] * 5 + [2] * 5, dtype=np.int8)
    many = replace(many, names=np.array([f"gdb_{number}" for number in range(100, 130)]), split=split)
    ids = np.array([100, 101, 120, 129, 7])
    held = many.hold_out(ids)
    assert [*held.part("test").names] == ["gdb_100", "gdb_101", "gdb_120", "gdb_129"]
    assert np.bincount(held.split).tolist() == [20, 6, 4]
    kept = (held.split == split) | np.isin(np.arange(30), [0, 1, 20, *range(25, 29)])
    assert kept.all()
    np.testing.assert_array_equal(many.hold_out(ids[::-1]).split, held.split)
    with pytest.raises(ValueError, match="ids: expected numbers of some of the molecules, got 1 others"):
        many.hold_out(np.array([7]))


def test_atoms_of_each_element_are_counted():
    counts = table().element_counts  # H C N O F
    assert counts[SMILES.index("CC=O")].tolist() == [4, 2, 0, 1, 0]
    assert counts[SMILES.index("FC(F)F")].tolist() == [1, 1, 0, 0, 3]
    assert table().take(np.array([], dtype=int)).element_counts.shape == (0, 5)
