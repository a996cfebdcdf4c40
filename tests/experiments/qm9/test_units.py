from dataclasses import replace

import numpy as np
import pytest

from experiments.qm9.targets import HARTREE, free_atoms
from experiments.qm9.units import in_table_units
from tests.experiments.qm9.cases import table

BOHR = 0.529177
KCAL = 627.5


@pytest.fixture
def molecules():
    """As a file of QM9 holds them: energies in Hartree, total ones with those of the atoms."""
    rng, plain = np.random.default_rng(0), table()
    of_atoms = {"atomisation": -0.15, "zpve": 0.008, "alpha": 4.0, "cv": 1.7}
    sizes = {"homo": -0.24, "lumo": 0.01, "gap": 0.25} | {name: n * plain.num_atoms for name, n in of_atoms.items()}
    targets = {name: size * rng.uniform(0.7, 1.4, len(plain)) for name, size in sizes.items()}
    totals = {name: free_atoms(name, plain.num_atoms, plain.numbers) / HARTREE - 1.0 for name in ("u0", "g298")}
    return replace(plain, targets={**targets, **totals, "dipole": plain.targets["dipole"]})


def scaled(molecules, names, factor):
    return replace(molecules, targets={**molecules.targets, **{n: factor * molecules.targets[n] for n in names}})


ENERGIES = ("homo", "lumo", "gap", "atomisation", "zpve", "u0", "g298")


@pytest.mark.parametrize("unit", [1.0, HARTREE])
@pytest.mark.parametrize("names", [ENERGIES, ENERGIES[:1], ENERGIES[-1:], ("lumo",), ("zpve",)])
def test_hartree_and_ev_are_told_apart(molecules, unit, names):
    kept = {name: molecules.targets[name] for name in (*names, "cv", "dipole")}
    found = in_table_units(scaled(replace(molecules, targets=kept), names, unit)).targets
    for name in names:
        expected = -HARTREE if name in ("u0", "g298") else HARTREE * kept[name]
        np.testing.assert_allclose(found[name], expected, atol=1e-6)
    for name in ("cv", "dipole"):
        np.testing.assert_array_equal(found[name], kept[name])


@pytest.mark.parametrize(
    ("names", "factor", "message"),
    [
        (("homo",), KCAL, "homo: expected energies in Hartree or in eV, got "),
        (("zpve",), 1000 * HARTREE, "zpve: expected energies in Hartree or in eV"),
        (("u0",), 0.001, "u0: expected energies in Hartree or in eV"),
        (("homo",), HARTREE, "expected energies in one unit, got .* in Hartree, .*homo in eV"),
        (("cv",), 4.184, r"cv: expected it in cal/\(mol K\)"),
        (("alpha",), BOHR**3, r"alpha: expected it in a0\^3"),
    ],
)
def test_other_units_are_refused_by_name(molecules, names, factor, message):
    with pytest.raises(ValueError, match=message):
        in_table_units(scaled(molecules, names, factor))


@pytest.mark.parametrize("factor", [1 / BOHR, 0.1, 100.0])
def test_positions_in_other_units_are_refused(molecules, factor):
    with pytest.raises(ValueError, match="positions: expected Å, got molecules whose nearest atoms are"):
        in_table_units(replace(molecules, positions=factor * molecules.positions))


def test_unknown_targets_tell_nothing(molecules):
    unknown = np.full(len(molecules), np.nan)
    found = in_table_units(replace(molecules, targets={"homo": unknown, "gap": molecules.targets["gap"]})).targets
    np.testing.assert_allclose(found["gap"], HARTREE * molecules.targets["gap"])
    assert np.isnan(found["homo"]).all()
    assert in_table_units(replace(molecules, targets={})).targets == {}
