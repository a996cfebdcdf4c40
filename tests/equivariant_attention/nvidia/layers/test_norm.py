import pytest
import torch
from torch import nn

from equivariant_attention.contraction import use_backend
from equivariant_attention.nvidia import Fiber, NormSE3
from equivariant_attention.so3 import random_rotation, wigner_d
from tests.equivariant_attention.nvidia import oracle
from tests.equivariant_attention.nvidia.cases import with_other_norms

FIBERS = [{0: 8, 1: 8, 2: 8}, {0: 8, 1: 3, 2: 2}, {2: 4}]


def features(fiber, dtype=torch.float64):
    return {str(d): torch.randn(6, m, 2 * d + 1, dtype=dtype, requires_grad=True) for d, m in fiber.items()}


@pytest.mark.parametrize("backend", [None, "oracle"])
@pytest.mark.parametrize("fiber", FIBERS)
def test_it_is_that_of_the_oracle(fiber, backend):
    layer = with_other_norms(NormSE3(Fiber(fiber))).double()
    h = features(fiber)
    with use_backend(backend):
        found = layer(h)
    expected = oracle.norm(dict(layer.named_parameters()), {int(d): v for d, v in h.items()})
    leaves = [*h.values(), *layer.parameters()]
    both = [
        torch.autograd.grad(sum(output[d].square().sum() for d in h), leaves)
        for output in (found, {str(d): v for d, v in expected.items()})
    ]
    for degree, value in expected.items():
        torch.testing.assert_close(found[str(degree)], value)
    torch.testing.assert_close(*both)


@pytest.mark.parametrize("fiber", FIBERS)
def test_it_is_equivariant(fiber, dtype):
    layer = with_other_norms(NormSE3(Fiber(fiber))).to(dtype)
    turn = random_rotation(dtype=torch.float64)
    h = features(fiber, dtype)
    turned = {d: v @ wigner_d(int(d), turn).T.to(dtype) for d, v in h.items()}
    for d, value in layer(turned).items():
        expected = layer(h)[d] @ wigner_d(int(d), turn).T.to(dtype)
        torch.testing.assert_close(value, expected)


def test_names():
    assert set(NormSE3(Fiber(FIBERS[0])).state_dict()) == {"group_norm.weight", "group_norm.bias"}
    assert set(NormSE3(Fiber(FIBERS[1])).state_dict()) == {
        f"layer_norms.{d}.{kind}" for d in range(3) for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("fiber", FIBERS)
def test_zero_stays_zero_with_finite_derivatives(fiber):
    layer = with_other_norms(NormSE3(Fiber(fiber)))
    h = {str(d): torch.zeros(3, m, 2 * d + 1, requires_grad=True) for d, m in fiber.items()}
    output = layer(h)
    assert not any(v.any() for v in output.values())
    for gradient in torch.autograd.grad(sum(v.sum() for v in output.values()), [*h.values()]):
        assert gradient.isfinite().all()


def test_another_nonlinearity():
    layer = NormSE3(Fiber({0: 8}), nn.ELU())
    assert (layer({"0": torch.rand(5, 8, 1)})["0"] < 0).any()


def test_wrong_features_are_refused():
    with pytest.raises(ValueError, match="features must have the degrees"):
        NormSE3(Fiber({0: 8}))({"1": torch.zeros(3, 8, 3)})
