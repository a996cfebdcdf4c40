"""Elements as messages name them."""

import pytest

from equivariant_attention.models.elements import LARGEST_ATOMIC_NUMBER, SYMBOLS, symbols


def test_symbols():
    assert (SYMBOLS[0], SYMBOLS[28], SYMBOLS[-1], LARGEST_ATOMIC_NUMBER) == ("H", "Cu", "Og", 118)
    assert symbols([29, 13, 29]) == "Al (13), Cu (29)"


def test_they_are_those_of_ase():
    assert pytest.importorskip("ase.data").chemical_symbols[1:119] == SYMBOLS
