import math

import pytest
import torch

from equivariant_attention.nvidia import (
    get_all_clebsch_gordon,
    get_basis,
    get_spherical_harmonics,
    update_basis_with_fused,
)
from equivariant_attention.nvidia.basis import GivenBasis
from tests.equivariant_attention.nvidia import oracle

DEGREES = range(4)


@pytest.fixture
def rel_pos():
    return torch.randn(6, 3, dtype=torch.float64, requires_grad=True)


def test_it_is_that_of_the_equation(rel_pos):
    basis = get_basis(rel_pos, 3)
    assert set(basis) == {f"{k},{l}" for k in DEGREES for l in DEGREES}
    for k in DEGREES:
        for l in DEGREES:
            expected = oracle.kernels(rel_pos, k, l).permute(0, 2, 3, 1)
            torch.testing.assert_close(basis[f"{k},{l}"], expected.detach())
    assert torch.allclose(basis["0,0"], torch.tensor(1 / math.sqrt(4 * math.pi), dtype=torch.float64))


def test_couplings_are_wigner_3j_symbols_of_e3nn():
    o3 = pytest.importorskip("e3nn.o3")
    couplings = iter(get_all_clebsch_gordon(3))
    for k in DEGREES:
        for l in DEGREES:
            for J, Q in enumerate(next(couplings), abs(k - l)):
                expected = o3.wigner_3j(J, k, l, dtype=torch.float64).permute(2, 1, 0)
                torch.testing.assert_close(Q, expected)


def test_gradients_flow_where_they_are_asked_for(rel_pos):
    assert not any(value.requires_grad for value in get_basis(rel_pos, 2).values())
    assert get_basis(rel_pos, 2, compute_gradients=True)["1,2"].requires_grad


def test_harmonics_by_degree(rel_pos):
    assert [tuple(Y.shape) for Y in get_spherical_harmonics(rel_pos, 2)] == [(6, 2 * J + 1) for J in range(5)]


def test_of_length_zero_all_harmonics_vanish_but_the_first():
    basis = get_basis(torch.zeros(1, 3), 1)
    assert basis["0,0"].any()
    assert not basis["0,1"].any()


def test_padding_and_half_precision(rel_pos):
    padded = get_basis(rel_pos, 1, use_pad_trick=True, amp=True)
    assert padded["0,1"].shape == (6, 1, 1, 4)
    assert not padded["0,1"][..., 3].any()
    assert padded["0,1"].dtype == torch.float16


@pytest.mark.parametrize("use_pad_trick", [True, False])
def test_fused_tensors(rel_pos, use_pad_trick):
    basis = get_basis(rel_pos, 1, use_pad_trick=use_pad_trick)
    fused = update_basis_with_fused(basis, 1, use_pad_trick, fully_fused=True)
    assert "0,0" in basis
    assert "0,0" not in fused
    assert fused["out1_fused"].shape == (6, 4, 4, 3)
    assert fused["in0_fused"].shape == (6, 1, 2, 4)
    assert fused["fully_fused"].shape == (6, 4, 6, 4)
    torch.testing.assert_close(fused["out1_fused"][:, 1:, 1:], basis["1,1"][..., :3])
    assert not fused["out1_fused"][:, 1:, :1].any()
    torch.testing.assert_close(fused["fully_fused"][:, 1:, 3:, 1:], basis["1,1"][..., :3])
    assert "fully_fused" not in update_basis_with_fused(basis, 1, use_pad_trick, fully_fused=False)


def test_a_given_basis_is_viewed(rel_pos):
    basis = get_basis(rel_pos, 2)
    given = GivenBasis({**basis, "out1_fused": rel_pos}, 1.0, rel_pos)
    assert set(given) == set(basis)
    assert len(given) == 9
    assert given["1,2"].shape == (6, 1, 5, 1, 3, 3)
    assert given["1,2"].data_ptr() == basis["1,2"].data_ptr()
    torch.testing.assert_close(given["1,2"][:, 0, :, 0], basis["1,2"].permute(0, 3, 1, 2))
    assert (GivenBasis({}, 2.0, rel_pos)["0,0"] == 2).all()
