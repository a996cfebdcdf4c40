import pytest
import torch

from equivariant_attention.contraction import use_backend
from equivariant_attention.nvidia import Fiber, LinearSE3


@pytest.mark.parametrize("backend", [None, "oracle"])
def test_channels_are_mixed_degree_by_degree(dtype, backend):
    layer = LinearSE3(Fiber({0: 4, 1: 3, 2: 2}), Fiber({1: 5, 0: 2})).to(dtype)
    features = {str(d): torch.randn(6, m, 2 * d + 1, dtype=dtype) for d, m in {0: 4, 1: 3, 2: 2}.items()}
    with use_backend(backend):
        found = layer(features, {}, graph=None)
    assert set(found) == {"0", "1"}
    for degree, value in found.items():
        torch.testing.assert_close(value, layer.weights[degree] @ features[degree])


def test_names_and_initialisation():
    layer = LinearSE3(Fiber({0: 400}), Fiber({0: 300}))
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {"weights.0": (300, 400)}
    assert list(LinearSE3(Fiber({0: 4, 1: 2}), Fiber({1: 2, 0: 4})).weights) == ["0", "1"]
    assert abs(float(layer.weights["0"].detach().std()) * 20 - 1) < 0.02


def test_wrong_fibers_and_features_are_refused():
    with pytest.raises(ValueError, match="f_out must have degrees that f_in has"):
        LinearSE3(Fiber({0: 4}), Fiber({1: 4}))
    with pytest.raises(ValueError, match=r"features\['0'\] must have shape"):
        LinearSE3(Fiber({0: 4}), Fiber({0: 4}))({"0": torch.zeros(3, 5, 1)})
