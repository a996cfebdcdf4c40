import pytest
import torch

from equivariant_attention.modules import GGate
from tests.cases import MIXED, random_features


def norms(features):
    return torch.cat([v.norm(dim=-1) for v in features.values()], dim=1)


def test_every_channel_is_scaled_by_the_network():
    layer, features = GGate(MIXED), random_features(MIXED, 5, torch.float32)
    invariants = [v.squeeze(-1) if d == "0" else (1 + v.square().sum(-1)).sqrt() - 1 for d, v in features.items()]
    gates = layer.net(torch.cat(invariants, dim=1))
    factor = gates / (1 + norms(features).square()).sqrt()
    values = torch.cat([v.flatten(1) for v in layer(features).values()], dim=1)
    sizes = torch.tensor([2 * d + 1 for m, d in MIXED.structure for _ in range(m)])
    expected = factor.repeat_interleave(sizes, dim=1) * torch.cat([v.flatten(1) for v in features.values()], dim=1)
    torch.testing.assert_close(values, expected)


def test_long_features_come_out_as_long_as_the_network_says(dtype):
    layer, features = GGate(MIXED).to(dtype), random_features(MIXED, 5, dtype)
    long, longer = ({d: scale * v for d, v in features.items()} for scale in (1e4, 1e6))
    torch.testing.assert_close(norms(layer(long)), norms(layer(longer)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("degree", ["0", "1", "2"])
def test_a_feature_that_vanishes_stays_zero_and_almost_does_stays_small(degree):
    layer, features = GGate(MIXED).double(), random_features(MIXED, 5, torch.float64)
    sizes = []
    for size in (0, 1e-9, 1e-6, 1e-3):
        output = layer({**features, degree: size * features[degree]})[degree]
        sizes.append(output.abs().max().item())
    assert sizes[0] == 0
    assert sizes[1] == pytest.approx(1e-3 * sizes[2], rel=1e-3)
    assert sizes[2] == pytest.approx(1e-3 * sizes[3], rel=1e-1)


def test_derivatives_exist_at_zero():
    layer = GGate(MIXED).double()
    features = random_features(MIXED, 3, torch.float64)
    leaves = [(v * (torch.arange(v.shape[1]) > 0)[:, None]).requires_grad_() for v in features.values()]

    def function(*values):
        return tuple(layer(dict(zip(features, values, strict=True))).values())

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="fiber must be a Fiber, got dict"):
        GGate({0: 4})
    with pytest.raises(TypeError, match=r"features\['0'\] must be torch.float32, as the layer is, got torch.float64"):
        GGate(MIXED)(random_features(MIXED, 5, torch.float64))
