import pytest
import torch

from equivariant_attention.modules import PairwiseConv, get_basis_and_r
from equivariant_attention.so3 import random_rotation, wigner_d
from tests.cases import random_graph


@pytest.mark.parametrize(("k", "l"), [(0, 0), (1, 0), (2, 3), (3, 3)])
def test_the_kernel_turns_with_the_edge(k, l, dtype):
    """W(R x) = D_l(R) W(x) D_k(R)^T, equation (5) of the paper."""
    G = random_graph(dtype)
    conv = PairwiseConv(k, 3, l, 2).to(dtype)
    R = random_rotation(dtype=torch.float64)
    basis, r = get_basis_and_r(G, 3)
    W = conv(r, basis)
    assert W.shape == (G.num_edges(), 2 * (2 * l + 1), 3 * (2 * k + 1))
    left = torch.kron(torch.eye(2, dtype=torch.float64), wigner_d(l, R)).to(dtype)
    right = torch.kron(torch.eye(3, dtype=torch.float64), wigner_d(k, R)).to(dtype)
    G.edata["d"] = G.edata["d"] @ R.T.to(dtype)
    basis, r = get_basis_and_r(G, 3)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(conv(r, basis), left @ W @ right.T, rtol=0, atol=tolerance)
