import numpy as np
import pytest

from experiments.qm9.targets import DEBYE, FREE_ATOMS, HARTREE, TARGETS, check_task, free_atoms, names_of


def test_units():
    assert pytest.approx(27.211386, rel=1e-7) == HARTREE
    assert pytest.approx(2.541746, rel=1e-6) == DEBYE
    assert {name for name, target in TARGETS.items() if target.report_unit == "meV"} == {
        "homo", "lumo", "gap", "zpve", "u0", "u298", "h298", "g298", "atomisation",
    }  # fmt: skip
    assert all(target.report_factor == (1000 if target.unit == "eV" else 1) for target in TARGETS.values())


def test_free_atoms_of_each_molecule():
    num_atoms, numbers = np.array([3, 1, 5]), np.array([8, 1, 1, 9, 6, 1, 1, 1, 1])
    atoms = FREE_ATOMS["u0"]
    expected = HARTREE * np.array([atoms[8] + 2 * atoms[1], atoms[9], atoms[6] + 4 * atoms[1]])
    np.testing.assert_allclose(free_atoms("u0", num_atoms, numbers), expected)
    np.testing.assert_array_equal(free_atoms("homo", num_atoms, numbers), np.zeros(3))


def test_thermal_energies_of_free_atoms_are_those_of_an_ideal_gas():
    kt = 8.617333e-5 * 298.15 / HARTREE
    for number, u0 in FREE_ATOMS["u0"].items():
        assert FREE_ATOMS["u298"][number] == pytest.approx(u0 + 1.5 * kt, abs=2e-6)
        assert FREE_ATOMS["h298"][number] == pytest.approx(u0 + 2.5 * kt, abs=2e-6)
        assert FREE_ATOMS["g298"][number] < u0  # by the entropy


@pytest.mark.parametrize("task", ["homo", "dipole", "polarizability", "homo,lumo,gap,alpha,cv,mu"])
def test_tasks(task):
    assert check_task(task) == task
    assert ",".join(names_of(task)) == task


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("colour", "targets among mu, .*, got 'colour'"),
        ("", "targets among"),
        ("homo, lumo", "targets among"),
        ("homo,", "targets among"),
        ("homo,lumo,homo", "each once, got 'homo,lumo,homo'"),
        ("homo,dipole", "numbers alone to be learnt together, got dipole, a vector, among homo,dipole"),
        ("polarizability,alpha", "got polarizability, a tensor, among polarizability,alpha"),
    ],
)
def test_wrong_tasks(task, message):
    with pytest.raises(ValueError, match=message):
        check_task(task)
