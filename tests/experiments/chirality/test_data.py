import numpy as np
import pytest
import torch

from experiments.chirality import data
from experiments.chirality.data import Handed, Molecules, collate, embedded, from_arrays, handedness, without_hydrogen

# Aminofluoromethanol: C with F, O, N and H about it, then the hydrogen atoms of O and N.
NUMBERS = np.array([6, 9, 8, 7, 1, 1, 1, 1])
POSITIONS = np.array([
    [0.0, 0.0, 0.0], [-0.65, 1.13, -0.45], [0.0, 0.0, 1.4], [-0.68, -1.18, -0.48], [1.02, 0.0, -0.36],
    [0.91, 0.0, 1.71], [-0.18, -1.95, 0.07], [-1.62, -1.06, -0.2],
])  # fmt: skip


def ragged(signs=(1,), splits=(0,)):
    """Molecules as above, with those signs of the carbon."""
    return Molecules(
        np.full(len(signs), 8), np.tile(NUMBERS, len(signs)), np.concatenate([sign * POSITIONS for sign in signs]),
        np.concatenate([[sign, *[0] * 7] for sign in signs]), np.array(splits),
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------- labels


def test_handedness_is_that_of_the_rules():
    """F before O before N before H: seen with H behind, from F to O to N clockwise is R."""
    to_viewer = POSITIONS[0] - POSITIONS[4]
    F, O, N = POSITIONS[1:4]
    clockwise = np.dot(np.cross(O - F, N - O), to_viewer) < 0
    signs = handedness(NUMBERS, POSITIONS)
    np.testing.assert_array_equal(signs, [1 if clockwise else -1, *[0] * 7])
    np.testing.assert_array_equal(handedness(NUMBERS, -POSITIONS), -signs)


def test_rotations_keep_hands():
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    np.testing.assert_array_equal(handedness(NUMBERS, POSITIONS @ turn.T), handedness(NUMBERS, POSITIONS))


def test_what_has_no_bonds_that_make_sense_has_no_label():
    assert handedness(np.array([6, 6, 6]), np.zeros((3, 3)) + np.arange(3)[:, None] * 5) is None


# -------------------------------------------------------------------------------------------------------- sources


def write(path, count=12, **change):
    R = np.concatenate([POSITIONS * (-1) ** i for i in range(count)])
    arrays = {"N": np.full(count, 8), "Z": np.tile(NUMBERS, count), "R": R, "validation": np.arange(count) < 3}
    np.savez(path, **{name: value for name, value in {**arrays, **change}.items() if value is not None})
    return path


def test_molecules_of_a_file(tmp_path, monkeypatch):
    path = write(tmp_path / "a.npz", 40)
    molecules = from_arrays(path, None, 0, tmp_path)
    assert len(molecules.num_atoms) == 40
    assert np.count_nonzero(molecules.split == 2) == 3
    assert {*molecules.split.tolist()} == {0, 1, 2}
    x = molecules.positions.reshape(40, 8, 3)
    hand = handedness(NUMBERS, POSITIONS)[0]
    np.testing.assert_array_equal(molecules.signs.reshape(40, 8)[:, 0], np.sign(x[:, 4, 0]) * hand)
    monkeypatch.setattr(data, "handedness", None)  # found again
    np.testing.assert_array_equal(from_arrays(path, None, 0, tmp_path).signs, molecules.signs)


def test_some_molecules_of_a_file(tmp_path):
    molecules = from_arrays(write(tmp_path / "a.npz", 40, validation=None), 10, 0, tmp_path)
    assert len(molecules.num_atoms) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Z": None}, r"expected 'N', 'Z' and 'R', got no \['Z'\]"),
        ({"R": np.zeros((3, 3))}, r"R: expected shape \[96, 3\]"),
        ({"R": np.full((96, 3), np.nan)}, "Z, R: expected finite"),
        ({"Z": np.full(96, 17)}, r"Z: expected atomic numbers among .* got also \[17\]"),
        ({"validation": np.ones(2, bool)}, "validation: expected shape"),
    ],
)
def test_wrong_files_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=rf"a\.npz: {message}"):
        from_arrays(write(tmp_path / "a.npz", **change), None, 0, tmp_path)


def test_no_stereocentre_at_all_is_refused(tmp_path):
    flat = {"N": np.array([2]), "Z": np.array([1, 1]), "R": np.array([[0, 0, 0], [0.74, 0, 0]]), "validation": None}
    with pytest.raises(ValueError, match=r"^molecules: expected some with stereocentres, got none among 1"):
        from_arrays(write(tmp_path / "a.npz", **flat), None, 0, tmp_path)


def test_embedded_molecules_have_both_hands_and_no_molecule_is_in_two_splits(tmp_path):
    molecules = embedded(3, 60, 0, tmp_path)
    assert {1, -1} <= {*molecules.signs.tolist()}
    owner = np.repeat(np.arange(len(molecules.num_atoms)), molecules.num_atoms)
    formulas = [tuple(molecules.numbers[owner == i]) for i in range(len(molecules.num_atoms))]
    names = [{f for f, s in zip(formulas, molecules.split, strict=True) if s == split} for split in range(3)]
    assert all(names)
    assert len(formulas) > len({*formulas})  # conformers of one are neighbours, and in one split
    changes = sum(a != b for a, b in zip(molecules.split, molecules.split[1:], strict=False))
    assert changes <= 2 * len({*formulas})


# -------------------------------------------------------------------------------------------------------- samples


def test_hydrogen_atoms_are_counted():
    features, positions, bonds, signs = without_hydrogen(NUMBERS, POSITIONS, np.array([1, *[0] * 7]))
    np.testing.assert_array_equal(features[:, :4].argmax(1), [0, 3, 2, 1])
    np.testing.assert_array_equal(features[:, :4].sum(1), 1)
    np.testing.assert_array_equal(4 * features[:, 4], [1, 0, 1, 2])
    np.testing.assert_allclose(positions, POSITIONS[:4], rtol=1e-6)
    assert {tuple(sorted(bond)) for bond in bonds.tolist()} == {(0, 1), (0, 2), (0, 3)}
    np.testing.assert_array_equal(signs, [1, 0, 0, 0])


def test_tests_have_both_mirror_images_and_training_draws_one():
    both = Handed(ragged(splits=(2,)), "test")
    (_, x, _, signs), (_, other, _, signs_of_other) = both
    np.testing.assert_array_equal(other, -x)
    np.testing.assert_array_equal(signs_of_other, -signs)
    training = Handed(ragged(signs=[1] * 50, splits=[0] * 50), "train")
    epochs = []
    for epoch in range(2):
        training.set_epoch(epoch)
        for _, x, _, signs in training:
            np.testing.assert_allclose(x, signs[0] * POSITIONS[:4], rtol=1e-6)
        epochs.append([int(signs[0]) for *_, signs in training])
    assert {*epochs[0]} == {1, -1}
    assert epochs[0] != epochs[1]


def test_a_split_without_molecules_is_refused():
    with pytest.raises(ValueError, match=r"^molecules: expected some with stereocentres for 'valid', got none"):
        Handed(ragged(), "valid")


@pytest.mark.parametrize("kind", ["own", "dgl"])
def test_batches(kind):
    if kind == "dgl":
        pytest.importorskip("dgl")
    dataset = Handed(ragged(signs=(1, -1), splits=(2, 2)), "test")
    G, _, centres, target = collate([dataset[i] for i in range(4)], kind)
    assert G.batch_num_nodes().tolist() == [4] * 4
    assert G.num_edges() == 24
    src, dst = (end.long() for end in G.edges())
    x = G.ndata["x"].squeeze(1)
    torch.testing.assert_close(G.edata["d"], x[dst] - x[src])
    assert centres.tolist() == [0, 4, 8, 12]
    assert target.tolist() == [1, 0, 0, 1]
