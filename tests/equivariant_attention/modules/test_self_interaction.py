import copy

import pytest
import torch

from equivariant_attention.fibers import Fiber
from equivariant_attention.modules import GAttentiveSelfInt
from tests.cases import FULL, MIXED, random_features


def test_outputs_are_weighted_means_of_the_channels():
    layer = GAttentiveSelfInt(FULL, MIXED)
    same = {d: v[:, :1].repeat(1, 4, 1) for d, v in random_features(FULL, 5, torch.float32).items()}
    for degree, value in layer(same).items():
        torch.testing.assert_close(value, same[degree][:, :1].expand_as(value))


def test_small_inner_products_are_as_published_but_for_rounding(dtype):
    """The published code raises them to 1e-12 with their sign."""
    layer = GAttentiveSelfInt(MIXED, MIXED).to(dtype)
    for degree, value in random_features(MIXED, 5, dtype).items():
        for size in (1e-20, 1e-8, 1e-6, 1):
            value[:, 0] *= size
            products = (value @ value.mT).flatten(1)
            raised = torch.sign(products) * products.abs().clamp_min(1e-12)
            weights = layer.transform[degree](raised).unflatten(-1, (-1, value.shape[1])).softmax(dim=-1)
            found = layer({d: value if d == degree else v for d, v in random_features(MIXED, 5, dtype).items()})[degree]
            torch.testing.assert_close(found, weights @ value, rtol=0, atol=1e-9 if dtype == torch.float64 else 1e-6)


def test_noise_in_place_of_zero_changes_neither_value_nor_derivative():
    """A channel that is 0 by symmetry is rounding noise once the input is turned."""
    layer, results = GAttentiveSelfInt(Fiber(structure=[(4, 1)]), Fiber(structure=[(2, 1)])).double(), []
    for noise in (0, 1e-17):
        torch.manual_seed(1)
        value = torch.randn(5, 4, 3, dtype=torch.float64)
        value[:, 0] = noise * torch.randn(5, 3, dtype=torch.float64)
        value.requires_grad_()
        output = layer({"1": value})["1"]
        (gradient,) = torch.autograd.grad(output.square().sum(), value)
        results.append((output, gradient))
    torch.testing.assert_close(*results, rtol=0, atol=1e-14)


def test_parameter_names():
    layer = GAttentiveSelfInt(Fiber(1, 3), Fiber(1, 2))
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "transform.0.0.weight": (9,),
        "transform.0.0.bias": (9,),
        "transform.0.2.weight": (6, 9),
        "transform.0.2.bias": (6,),
    }


def test_a_degree_from_nowhere_is_refused():
    with pytest.raises(ValueError, match=r"f_out also has degrees \[3\]"):
        GAttentiveSelfInt(MIXED, FULL)


def test_zero_features(dtype):
    layer = GAttentiveSelfInt(FULL, MIXED).to(dtype)
    zeros = {d: torch.zeros_like(v).requires_grad_() for d, v in random_features(FULL, 5, dtype).items()}
    output = layer(zeros)
    gradients = torch.autograd.grad(sum(v.sum() for v in output.values()), list(zeros.values()), allow_unused=True)
    assert not any(v.any() for v in output.values())
    assert all(g is None or torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("size", [1e3, 1e6, 1e9, 1e18])
def test_large_features(size):
    """Their inner products squared, as LayerNorm does, are beyond float32."""
    layer, features = GAttentiveSelfInt(MIXED, MIXED), random_features(MIXED, 7, torch.float32)
    large = {d: (size * v).requires_grad_() for d, v in features.items()}
    found = layer(large)
    exact = copy.deepcopy(layer).double()({d: v.detach().double() for d, v in large.items()})
    for d, value in exact.items():
        torch.testing.assert_close(found[d].double(), value, rtol=0, atol=1e-5 * float(value.detach().abs().max()))
    sum((v / size).sum() for v in found.values()).backward()
    assert all(v.grad.isfinite().all() for v in (*large.values(), *layer.parameters()))
