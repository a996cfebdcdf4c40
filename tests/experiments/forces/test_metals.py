"""Structures of metals to try a potential on."""

import numpy as np
import pytest
from ase.calculators.emt import EMT

from experiments.forces import metals
from experiments.forces.frames import Frames, read_frames
from utils.cli import UsageError


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(metals, "EQUILIBRATION", 2)
    monkeypatch.setattr(metals, "INTERVAL", 1)


def test_three_files_with_labels(tmp_path, capsys):
    metals.main([str(tmp_path / "metals"), "--structures", "18"])
    parts = {split: read_frames(str(tmp_path / "metals" / f"{split}.extxyz")) for split in ("train", "valid", "test")}
    assert [len(frames) for frames in parts.values()] == [14, 2, 2]
    frames = [atoms for part in parts.values() for atoms in part]
    assert {len(atoms) for atoms in frames} == {31, 32}
    assert {atoms.symbols[0] for atoms in frames} == {"Cu", "Al"}
    assert Frames(parts["train"], "train", 5.0).forces.any()
    atoms = frames[0].copy()
    atoms.calc = EMT()
    np.testing.assert_allclose(atoms.get_stress(), frames[0].get_stress(), atol=1e-6)
    assert "14 structures in" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"train\.extxyz is there already"):
        metals.main([str(tmp_path / "metals")])


def test_a_seed_makes_them_the_same():
    first, second, other = (metals.structures(16, seed) for seed in (1, 1, 2))
    assert np.array_equal(first[3].positions, second[3].positions)
    assert not np.array_equal(first[3].positions, other[3].positions)
