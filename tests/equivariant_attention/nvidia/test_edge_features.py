import pytest
import torch

from equivariant_attention.nvidia import get_populated_edge_features
from tests.equivariant_attention.nvidia import oracle


@pytest.mark.parametrize("name", oracle.LENGTHS)
def test_a_function_of_the_length_is_the_last_scalar(name):
    rel_pos = 3 * torch.randn(9, 3, dtype=torch.float64)
    edge = {"0": torch.randn(9, 2, 1, dtype=torch.float64), "1": torch.randn(9, 1, 3, dtype=torch.float64)}
    found = get_populated_edge_features(rel_pos, edge, name)
    torch.testing.assert_close(found["0"][:, 2, 0], oracle.LENGTHS[name](rel_pos.norm(dim=-1)))
    assert torch.equal(found["0"][:, :2], edge["0"])
    assert found["1"] is edge["1"]
    assert edge["0"].shape == (9, 2, 1)


def test_without_features_the_length_is_all():
    rel_pos = torch.randn(9, 3, requires_grad=True)
    found = get_populated_edge_features(rel_pos)
    assert found["0"].shape == (9, 1, 1)
    assert found["0"].requires_grad


def test_edges_of_length_zero_have_finite_gradients():
    rel_pos = torch.zeros(2, 3, requires_grad=True)
    get_populated_edge_features(rel_pos)["0"].sum().backward()
    assert not rel_pos.grad.any()


def test_other_names_are_refused():
    with pytest.raises(ValueError, match="populate_edge must be one of"):
        get_populated_edge_features(torch.zeros(1, 3), populate_edge="exp")
