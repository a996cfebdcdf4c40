import numpy as np
import pytest
import torch

from experiments.qm9.molecules import SPLITS
from experiments.qm9.published import from_published
from experiments.qm9.targets import HARTREE, free_atoms
from tests.experiments.qm9.cases import table


def pieces(flat, sizes):
    return np.split(flat, np.cumsum(sizes)[:-1])


def padded(flat, sizes):
    array = np.full((len(sizes), sizes.max() + 2, *flat.shape[1:]), -1, dtype=flat.dtype)
    array[np.arange(array.shape[1]) < sizes[:, None]] = flat
    return array


def content_of(molecules, layout=padded):
    """A published file's content; energies in Hartree, u0 with one Hartree of atomisation energy."""
    content = {}
    for split in SPLITS:
        part = molecules.part(split)
        edges = np.column_stack([part.bonds, part.bond_types])
        u0 = free_atoms("u0", part.num_atoms, part.numbers) / HARTREE - 1.0
        content[split] = {
            "mol_id": np.arange(len(part)) + 1,
            "num_atoms": part.num_atoms,
            "num_bonds": part.num_bonds,
            "x": layout(part.positions, part.num_atoms),
            "one_hot": layout(part.numbers[:, None] == [1, 6, 7, 8, 9], part.num_atoms),
            "atomic_numbers": layout(part.numbers[:, None], part.num_atoms),
            "edge": layout(edges, part.num_bonds),
            "homo": part.targets["homo"] / HARTREE,
            "u0": u0,
            "mu": part.targets["homo"] + 10,
            "A": part.targets["homo"],
        }
    return content


def save(folder, content):
    torch.save(content, folder / "QM9_data.pt")
    return folder / "QM9_data.pt"


def bonds_in(molecules):
    return sorted((*sorted(pair), t) for pair, t in zip(molecules.bonds, molecules.bond_types, strict=True))


def assert_equal(found, molecules, tolerance=1e-12):
    parts = [molecules.part(split) for split in SPLITS]
    assert [*found.names] == [f"gdb_{n + 1}" for part in parts for n in range(len(part))]
    assert found.split.tolist() == [number for number, part in enumerate(parts) for _ in range(len(part))]
    for name in ("num_atoms", "numbers", "num_bonds"):
        np.testing.assert_array_equal(getattr(found, name), np.concatenate([getattr(part, name) for part in parts]))
    np.testing.assert_allclose(
        found.positions, np.concatenate([part.positions for part in parts]), rtol=tolerance, atol=tolerance
    )
    np.testing.assert_allclose(
        found.targets["homo"], np.concatenate([part.targets["homo"] for part in parts]), rtol=tolerance
    )
    expected = [
        sorted((*sorted(pair), t) for pair, t in zip(part.bonds, part.bond_types, strict=True)) for part in parts
    ]
    for number, rows in enumerate(expected):
        part = found.take(found.split == number)
        assert sorted((*pair, t) for pair, t in zip(part.bonds, part.bond_types, strict=True)) == rows


def cast(content, integers, floats):
    def convert(array):
        return array.astype(floats if array.dtype.kind == "f" else integers)

    return {split: {name: convert(array) for name, array in part.items()} for split, part in content.items()}


@pytest.mark.parametrize(
    ("integers", "floats"),
    [("int64", "float64"), ("int8", "float32"), ("float32", "float64"), ("float16", "float16"), ("int32", "float32")],
)
def test_arrays_of_any_type_are_cast(tmp_path, integers, floats):
    molecules = table()
    found = from_published(save(tmp_path, cast(content_of(molecules), integers, floats)))
    assert_equal(found, molecules, 5 * np.finfo(floats).eps)
    assert (found.positions.dtype, found.numbers.dtype) == (np.float64, np.int64)
    assert {*found.targets} == {"homo", "u0", "mu"}


@pytest.mark.parametrize("layout", [padded, lambda flat, sizes: flat, pieces], ids=["padded", "concatenated", "list"])
def test_layouts_that_can_be_told_apart(tmp_path, layout):
    molecules = table()
    assert_equal(from_published(save(tmp_path, content_of(molecules, layout))), molecules)


def test_tensors_and_atomic_numbers_without_a_last_dimension(tmp_path):
    molecules = table()
    content = content_of(molecules)
    for part in content.values():
        part["atomic_numbers"] = part["atomic_numbers"][..., 0]
        part.update({name: torch.as_tensor(array) for name, array in part.items()})
        part["edge"] = part["edge"].to(torch.bfloat16)
    assert_equal(from_published(save(tmp_path, content)), molecules)


def test_bonds_in_both_directions_count_once(tmp_path):
    molecules = table()
    content = content_of(molecules, pieces)
    for part in content.values():
        part["edge"] = [np.concatenate([edges, edges[:, [1, 0, 2]]]) for edges in part["edge"]]
        part["num_bonds"] = 2 * part["num_bonds"]
    assert_equal(from_published(save(tmp_path, content)), molecules)


@pytest.mark.parametrize("unit", [1.0, HARTREE])
def test_energies_in_hartree_and_in_ev(tmp_path, unit):
    molecules = table()
    content = content_of(molecules)
    for part in content.values():
        part["homo"], part["u0"] = part["homo"] * unit, part["u0"] * unit
    targets = from_published(save(tmp_path, content)).targets
    np.testing.assert_allclose(np.sort(targets["homo"]), np.sort(molecules.targets["homo"]))
    np.testing.assert_allclose(targets["u0"], -HARTREE)
    np.testing.assert_allclose(np.sort(targets["mu"]), np.sort(molecules.targets["homo"] + 10))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, r"valid: expected .*'x'.*without \['x'\]"),
        ({"x": np.zeros((2, 3))}, r"valid: x: expected shape \[2, 7 or more, 3\] or \[12, 3\], got \[2, 3\]"),
        ({"x": [np.zeros((2, 3))] * 2}, "valid: x: expected an array for each molecule"),
        ({"x": "positions"}, "valid: x: expected an array of real numbers, got str"),
        ({"edge": np.full((2, 11, 3), 2.5)}, "valid: edge: expected whole numbers"),
        ({"edge": np.full((2, 11, 3), 28)}, "valid: bonds: expected two atoms"),
        ({"edge": np.zeros((2, 11, 6))}, r"valid: edge: expected shape"),
        ({"atomic_numbers": np.full((2, 7), 16)}, "valid: numbers: expected"),
        ({"homo": np.zeros(3)}, r"valid: targets\['homo'\]: expected shape \[2\]"),
        ({"homo": None}, "parts: expected the same targets"),
    ],
)
def test_wrong_content_is_refused_by_name(tmp_path, change, message):
    content = content_of(table())
    content["valid"].update(change)
    content["valid"] = {name: array for name, array in content["valid"].items() if array is not None}
    with pytest.raises(ValueError, match=f"QM9_data.pt: {message}"):
        from_published(save(tmp_path, content))


@pytest.mark.parametrize("content", [{"train": {}}, [1, 2], {"train": 1, "valid": 1, "test": 1}])
def test_other_files_are_refused_by_name(tmp_path, content):
    with pytest.raises(ValueError, match=r"QM9_data.pt: "):
        from_published(save(tmp_path, content))
    (tmp_path / "QM9_data.pt").write_bytes(b"no torch file")
    with pytest.raises(ValueError, match=r"QM9_data.pt: expected a whole torch file"):
        from_published(tmp_path / "QM9_data.pt")
