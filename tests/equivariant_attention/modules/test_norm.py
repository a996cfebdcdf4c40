import pytest
import torch

from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.modules import GNormBias, GNormSE3
from tests.cases import MIXED, random_features


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_norms_change_and_directions_stay(num_layers):
    layer = GNormSE3(MIXED, num_layers=num_layers)
    features = random_features(MIXED, 5, torch.float32)
    for degree, value in layer(features).items():
        norm = features[degree].norm(dim=-1)
        expected = layer.transform[degree](norm).unsqueeze(-1) * features[degree] / norm.unsqueeze(-1)
        torch.testing.assert_close(value, expected)


def test_only_the_last_linear_has_a_bias():
    names = {name for name, _ in GNormSE3(Fiber(1, 4), num_layers=2).named_parameters()}
    assert names == {
        "transform.0.0.bn.weight", "transform.0.0.bn.bias", "transform.0.2.weight",
        "transform.0.3.bn.weight", "transform.0.3.bn.bias", "transform.0.5.weight", "transform.0.5.bias",
    }  # fmt: skip


NORMS = {
    "GNormSE3-0": lambda: GNormSE3(MIXED),
    "GNormSE3-1": lambda: GNormSE3(MIXED, num_layers=1),
    "GNormBias": lambda: GNormBias(MIXED),
}
every_norm = pytest.mark.parametrize("make", NORMS.values(), ids=NORMS)


def with_a_short(features, degree, part):
    """The features, where channel 0 of a degree has this part of the largest other norm of its node."""
    short = features[degree].clone()
    others = {**features, degree: short[:, 1:]}
    largest = torch.cat([v.norm(dim=-1) for v in others.values()], dim=1).amax(1)
    short[:, 0] *= (part * largest / short[:, 0].norm(dim=-1))[:, None]
    return {**features, degree: short}


@pytest.mark.parametrize("backend", ["frame", None])
@every_norm
def test_a_norm_that_is_noise_counts_as_zero(make, backend, dtype):
    layer = make().to(dtype)
    features = random_features(MIXED, 5, dtype)
    for degree, part in (("0", 4 * torch.finfo(dtype).eps), ("1", 2e-5), ("1", 1e-4), ("2", 1e-4)):
        noisy = {d: v.requires_grad_() for d, v in with_a_short(features, degree, part).items()}
        with use_backend(backend):
            output, expected = layer(noisy), layer(with_a_short(features, degree, 0))
            gradient = torch.autograd.grad(output[degree].sum(), noisy[degree])[0]
        assert not output[degree][:, 0].any()
        assert not gradient[:, 0].any()
        assert gradient[:, 1:].any() or type(layer) is GNormSE3
        for d, v in output.items():
            assert torch.equal(v, expected[d])


@every_norm
def test_ordinary_short_features_are_no_noise(make, dtype):
    layer = make().to(dtype)
    features = random_features(MIXED, 5, dtype)
    for degree, part in (("0", 1e-5), ("1", 2e-4), ("2", 2e-4)):
        short = with_a_short(features, degree, part)
        if isinstance(layer, GNormBias):
            torch.nn.init.ones_(layer.bias[degree])
            length = layer(short)[degree][:, 0].norm(dim=-1)
            torch.testing.assert_close(length, short[degree][:, 0].norm(dim=-1) + 1)
        else:
            expected = layer.transform[degree](short[degree].norm(dim=-1))[:, 0].abs()
            torch.testing.assert_close(layer(short)[degree][:, 0].norm(dim=-1), expected, rtol=1e-4, atol=1e-5)


def test_features_that_are_small_altogether_are_no_noise():
    layer, features = GNormBias(MIXED), random_features(MIXED, 5, torch.float32)
    for degree, value in layer({d: 1e-9 * v for d, v in features.items()}).items():
        direction = features[degree] / features[degree].norm(dim=-1, keepdim=True)
        torch.testing.assert_close(value, layer.bias[degree].relu().unsqueeze(-1) * direction)


@pytest.mark.parametrize("kind", [GNormSE3, GNormBias])
def test_the_nonlinearity_may_be_a_module(kind):
    torch.manual_seed(0)
    layer = kind(MIXED, torch.nn.SiLU(), num_layers=1)
    torch.manual_seed(0)
    other = kind(MIXED, torch.nn.SiLU, num_layers=1)
    assert layer.state_dict().keys() == other.state_dict().keys()
    features = random_features(MIXED, 5, torch.float32)
    for ours, theirs in zip(layer(features).values(), other(features).values(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_nonlinearity_is_an_argument():
    assert isinstance(GNormSE3(MIXED, nonlin=torch.nn.SiLU).transform["1"][1], torch.nn.SiLU)
    assert isinstance(GNormBias(MIXED, nonlin=torch.nn.SiLU).nonlin, torch.nn.SiLU)


def test_norm_bias():
    layer = GNormBias(MIXED)
    features = random_features(MIXED, 5, torch.float32)
    for degree, value in layer(features).items():
        norm = features[degree].norm(dim=-1, keepdim=True)
        expected = (norm + layer.bias[degree].unsqueeze(-1)).relu() * features[degree] / norm
        torch.testing.assert_close(value, expected)
    assert abs(GNormBias(Fiber(1, 4096)).bias["0"].std() - 1) < 0.05


class Mean(torch.nn.Module):
    """Of all nodes, one for all of them; ``shapes`` are those of what it was given."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, norms):
        self.shapes.append(tuple(norms.shape))
        return norms.mean(0, keepdim=True)


@pytest.mark.parametrize("kind", [GNormSE3, GNormBias])
def test_a_nonlinearity_may_give_all_nodes_the_same_norms(kind, dtype):
    layer = kind(MIXED, nonlin=Mean).to(dtype)
    for v in layer(random_features(MIXED, 7, dtype)).values():
        norms = v.norm(dim=-1)
        torch.testing.assert_close(norms, norms[:1].expand_as(norms))


def test_the_nonlinearity_of_a_bias_is_given_channels_and_one_order():
    layer = GNormBias(MIXED, nonlin=Mean)
    layer(random_features(MIXED, 7, torch.float32))
    assert layer.nonlin.shapes == [(7, m, 1) for m, _ in MIXED.structure]


@pytest.mark.parametrize("scale", [0, 1e-4, 1])
@pytest.mark.parametrize("make", [lambda: GNormSE3(MIXED), lambda: GNormBias(MIXED)])
def test_half_precision(make, scale):
    features = {d: (scale * v).half() for d, v in random_features(MIXED, 5, torch.float32).items()}
    layer = make()
    expected = layer({d: v.float() for d, v in features.items()})
    for degree, value in layer.half()(features).items():
        torch.testing.assert_close(value.float(), expected[degree], rtol=0.01, atol=0.01)


@pytest.mark.parametrize("make", [lambda: GNormSE3(MIXED, num_layers=1), lambda: GNormBias(MIXED)])
def test_zero_features_stay_zero_with_finite_gradients(make, dtype):
    layer = make().to(dtype)
    features = {d: torch.zeros_like(v).requires_grad_() for d, v in random_features(MIXED, 5, dtype).items()}
    output = layer(features)
    assert not any(v.any() for v in output.values())
    total = sum(v.square().sum() + v.sum() for v in output.values())
    gradients = torch.autograd.grad(total, [*features.values(), *layer.parameters()], create_graph=True)
    assert all(torch.isfinite(g).all() for g in gradients)
    assert not any(g.any() for g in gradients[: len(features)])
    second = torch.autograd.grad(sum(g.sum() for g in gradients), list(features.values()), allow_unused=True)
    assert all(g is None or torch.isfinite(g).all() for g in second)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="num_layers must be a whole number of at least 0, got -1"):
        GNormSE3(MIXED, num_layers=-1)
    with pytest.raises(TypeError, match="fiber must be a Fiber, got dict"):
        GNormBias({0: 4})
    with pytest.raises(TypeError, match=r"features\['0'\] must be torch.float32, as the layer is, got torch.float64"):
        GNormBias(MIXED)(random_features(MIXED, 5, torch.float64))
    with pytest.raises(TypeError, match="features must be a dict"):
        GNormBias(MIXED)([])
    with pytest.raises(ValueError, match="must have the degrees"):
        GNormBias(MIXED)({})
