import json
from pathlib import Path

import pytest
import torch

from equivariant_attention.so3 import coupling, random_rotation, wigner_d
from equivariant_attention.so3.couplings import published_sign

SIGNS = Path(__file__).parents[3].parent / "shared" / "conformance" / "basis_signs.json"
TRIPLES = [(l, k, J) for l in range(7) for k in range(7) for J in range(abs(l - k), l + k + 1)]


@pytest.mark.skipif(not SIGNS.exists(), reason="the recorded signs are not here")
def test_signs_are_the_recorded_ones():
    for pair, sign in json.loads(SIGNS.read_text())["signs"].items():
        assert published_sign(*map(int, pair.split(","))) == sign, pair


@pytest.mark.parametrize(("l", "k", "J"), TRIPLES)
def test_couplings_are_e3nns_up_to_the_published_sign(l, k, J):
    o3 = pytest.importorskip("e3nn.o3")
    if J > 11:
        pytest.skip("e3nn stops at degree 11")
    Q = coupling(l, k, J)
    torch.testing.assert_close(
        Q, published_sign(k, l, J) * o3.wigner_3j(l, k, J, dtype=torch.float64), rtol=0, atol=1e-15
    )


@pytest.mark.parametrize(("l", "k"), [(l, k) for l in range(7) for k in range(7)])
def test_couplings_are_orthonormal_and_equivariant(l, k):
    Q = [coupling(l, k, J) for J in range(abs(l - k), l + k + 1)]
    R = random_rotation(dtype=torch.float64)
    for J, q in zip(range(abs(l - k), l + k + 1), Q, strict=True):
        turned = torch.einsum("abc,ia,jb,kc->ijk", q, wigner_d(l, R), wigner_d(k, R), wigner_d(J, R))
        torch.testing.assert_close(turned, q, rtol=0, atol=1e-14)
    # Over all J, scaled by sqrt(2J + 1), the couplings are an orthogonal matrix.
    matrix = torch.cat([(2 * J + 1) ** 0.5 * q.flatten(0, 1) for J, q in enumerate(Q, abs(l - k))], dim=1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix), dtype=torch.float64), rtol=0, atol=1e-14)


def test_a_coupling_outside_the_triangle_is_refused():
    with pytest.raises(ValueError, match=r"J must lie between .* got 4"):
        coupling(1, 2, 4)
