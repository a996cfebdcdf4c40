from concurrent.futures import TimeoutError as TookTooLong

import numpy as np
import pytest

from experiments.qm9 import bonds
from experiments.qm9.bonds import bonds_of, perceive, perceive_one, single_bonds
from tests.experiments.qm9.cases import SHARED, SMILES, arrays_of, rdkit_molecule, table

# Each of these has bonds that only the positions tell: multiple, aromatic, in strained rings, between charged atoms.
RINGS = ("c1ccncc1", "c1c[nH]cn1", "O=C1C=CC(=O)N1", "C1C2CC12", "C1C2CC1C2")
OTHERS = ("C", "C#C", "C=C=O", "C[N+](=O)[O-]", "CN=[N+]=[N-]")


def as_set(pairs, types):
    return {(*sorted(pair), int(t)) for pair, t in zip(pairs.tolist(), types, strict=True)}


@pytest.mark.parametrize("smiles", [*SMILES, *RINGS, *OTHERS])
def test_positions_give_the_bonds_that_were_written(smiles):
    pairs, types, perceived = perceive_one(*arrays_of(smiles))
    assert perceived
    assert as_set(pairs, types) == as_set(*bonds_of(rdkit_molecule(smiles)))


def test_what_cannot_be_bonded_keeps_single_bonds_by_distance():
    numbers, positions = arrays_of("C=O")
    radical = np.array([0, 1, 2])  # HCO has no assignment of bond orders
    pairs, types, perceived = perceive_one(numbers[radical], positions[radical])
    assert not perceived
    assert pairs.tolist() == [[0, 1], [0, 2]]
    assert types.tolist() == [0, 0]
    far = single_bonds(numbers, 10 * positions)
    assert [array.shape for array in far] == [(0, 2), (0,)]


def arguments(molecules):
    return molecules.num_atoms, molecules.numbers, molecules.positions


def test_workers_find_what_this_process_finds_and_the_cache_keeps_it(tmp_path, monkeypatch):
    molecules = table()
    found = perceive(*arguments(molecules), tmp_path / "new", workers=1)
    here = [perceive_one(*arrays_of(smiles)) for smiles in SMILES]
    np.testing.assert_array_equal(found.pairs, np.concatenate([pairs for pairs, *_ in here]))
    np.testing.assert_array_equal(found.types, np.concatenate([types for _, types, _ in here]))
    np.testing.assert_array_equal(found.num_bonds, molecules.num_bonds)
    assert found.perceived.all()
    monkeypatch.setattr(bonds, "_in_workers", None)
    for array, again in zip(found, perceive(*arguments(molecules), tmp_path / "new"), strict=True):
        np.testing.assert_array_equal(array, again)


@pytest.fixture
def counted(monkeypatch):
    """Bonds without worker processes, and of how many molecules they were perceived."""
    counts = []

    def in_this_process(molecules, *_):
        counts.append(len(molecules))
        return [perceive_one(*molecule) for molecule in molecules]

    monkeypatch.setattr(bonds, "_in_workers", in_this_process)
    return counts


def test_whatever_the_bonds_depend_on_has_its_own_cache(tmp_path, counted, monkeypatch):
    numbers, positions = arrays_of("C=O")
    one = np.array([len(numbers)])
    perceive(one, numbers, positions, tmp_path)
    perceive(one.astype(np.int16), numbers.astype(np.uint8), positions.copy(), tmp_path)  # the same
    assert len(counted) == 1
    perceive(one, numbers, positions + 0.01, tmp_path)
    perceive(one, numbers, positions, tmp_path, time_limit=5.0)
    monkeypatch.setattr(bonds, "VERSION", bonds.VERSION + 1)
    perceive(one, numbers, positions, tmp_path)
    assert len(counted) == len([*tmp_path.iterdir()]) == 4


@pytest.mark.parametrize("how", ["truncated", "empty", "foreign"])
def test_spoiled_cache_is_reported_and_made_anew(tmp_path, counted, how):
    molecules = table()
    first = perceive(*arguments(molecules), tmp_path)
    (path,) = tmp_path.iterdir()
    if how == "foreign":
        np.savez(path, key="other", **first._asdict())
    else:
        path.write_bytes(path.read_bytes()[: 200 * (how == "truncated")])
    with pytest.warns(UserWarning, match="is not the cache it should be, perceiving bonds again"):
        second = perceive(*arguments(molecules), tmp_path)
    np.testing.assert_array_equal(first.pairs, second.pairs)
    perceive(*arguments(molecules), tmp_path)  # whole again
    assert counted == [6, 6]


def test_no_molecules_have_no_bonds(counted):
    found = perceive(np.empty(0, dtype=int), np.empty(0, dtype=int), np.empty((0, 3)))
    assert [array.shape for array in found] == [(0,), (0, 2), (0,), (0,)]


class Pool:
    """Runs at once; whatever has more than three atoms takes too long."""

    def __init__(self, **_): ...

    def __enter__(self):
        return self

    def __exit__(self, *_): ...

    def schedule(self, function, args, timeout):
        molecules = args[0] if function is bonds._perceive_chunk else [args]
        self.value = None if any(len(numbers) > 3 for numbers, _ in molecules) else function(*args)
        return type("Future", (), {"result": lambda _, value=self.value: value if value is not None else late()})()


def late():
    raise TookTooLong


def test_molecules_that_take_too_long_keep_single_bonds_and_no_other_does(monkeypatch):
    monkeypatch.setattr(bonds, "ProcessPool", Pool)
    molecules = table()
    found = perceive(*arguments(molecules))
    np.testing.assert_array_equal(found.perceived, molecules.num_atoms <= 3)
    np.testing.assert_array_equal(found.num_bonds, molecules.num_bonds)
    late = np.repeat(~found.perceived, found.num_bonds)
    assert (found.types[late] == 0).all()
    np.testing.assert_array_equal(found.types[~late], molecules.bond_types[~late])


@pytest.mark.skipif(not SHARED.exists(), reason="shared data absent")
def test_nearly_all_of_the_data_set_can_be_bonded():
    content = np.load(SHARED / "qm9_all_targets.npz")
    first = np.concatenate([[0], np.cumsum(content["N"])])
    rows = range(0, len(content["N"]), 40)
    found = [perceive_one(*(content[name][first[row] : first[row + 1]] for name in "ZR")) for row in rows]
    assert np.mean([perceived for *_, perceived in found]) > 0.99
    assert all(len(pairs) >= content["N"][row] - 1 for row, (pairs, *_) in zip(rows, found, strict=True))
