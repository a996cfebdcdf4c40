"""What is done to modules by PyTorch's own means is done, or refused by name."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.flop_counter import FlopCounterMode

from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.models import TFN, SE3Transformer
from equivariant_attention.modules import (
    GMABSE3,
    G1x1SE3,
    GAttentiveSelfInt,
    GCat,
    GConvSE3,
    GConvSE3Partial,
    GNormSE3,
    GSE3Res,
    get_basis_and_r,
)
from equivariant_attention.neighbors import knn_graph
from equivariant_attention.plain_modules import has_hooks_of_all, is_plain
from tests.cases import random_features, random_graph

HOOKS = (
    "register_forward_pre_hook",
    "register_forward_hook",
    "register_full_backward_pre_hook",
    "register_full_backward_hook",
)
FIBER = Fiber(2, 2)
CONTAINERS = (nn.ModuleDict, nn.ModuleList, nn.ParameterDict)
ATTENTION = (GSE3Res, GConvSE3Partial, GMABSE3, G1x1SE3, GCat, GAttentiveSelfInt)
ON_FEATURES = (SE3Transformer, TFN, GConvSE3, GNormSE3, *ATTENTION)
MODELS = {
    "attention": lambda: SE3Transformer({0: 2}, {0: 2, 1: 2}, {0: 2, 1: 2}, 1, edge_dim=1, x_ij="cat", selfint="att"),
    "attention, pooled": lambda: SE3Transformer({0: 2}, {0: 2, 1: 2}, {0: 1}, 1, edge_dim=1, pooling="avg"),
    "convolutions": lambda: TFN({0: 2}, {0: 2, 1: 2}, {0: 2}, 2, edge_dim=1),
}


@pytest.fixture
def inputs():
    G = knn_graph(torch.randn(6, 3), 3)
    G.edata["w"] = torch.randn(G.num_edges(), 1, requires_grad=True)
    return G, {"0": torch.randn(6, 2, 1, requires_grad=True)}


@pytest.mark.parametrize("register", HOOKS)
@pytest.mark.parametrize("model", MODELS)
def test_hooks_of_every_module_fire_once_or_are_refused(model, register, inputs):
    model = MODELS[model]()
    expected = model(*inputs)
    for module in model.modules():
        fired = []
        handle = getattr(module, register)(lambda *_, fired=fired: fired.append(True))
        if isinstance(module, CONTAINERS):
            with pytest.raises(ValueError, match="must have no hooks, as it is never called"):
                model(*inputs)
        elif "backward" in register and isinstance(module, ON_FEATURES):
            with pytest.raises(ValueError, match="must have no backward hooks, as it returns a dict"):
                model(*inputs)
        else:
            output = model(*inputs)
            sum(v.sum() for v in output.values()).backward()
            assert fired == [True]
            for d in expected:
                torch.testing.assert_close(output[d], expected[d], rtol=1e-4, atol=1e-5)
        handle.remove()


@pytest.mark.parametrize("name", ["v", "attn"])
def test_hooks_within_an_attention_layer_change_its_output(name):
    """Values, which one pass over the edges makes together with keys, enter linearly."""
    G, layer = random_graph(torch.float32), GSE3Res(FIBER, FIBER, div=1, skip=None)
    features = random_features(FIBER, G.num_nodes(), torch.float32)
    basis, r = get_basis_and_r(G, 1)
    expected = layer(features, G=G, r=r, basis=basis)
    layer.GMAB[name].register_forward_hook(lambda _, args, output: {d: 2 * v for d, v in output.items()})
    for d, v in layer(features, G=G, r=r, basis=basis).items():
        torch.testing.assert_close(v, 2 * expected[d], rtol=1e-4, atol=1e-5)


def test_a_part_of_an_attention_layer_that_was_replaced_is_called():
    class Doubled(GConvSE3Partial):
        def forward(self, *args, **kwargs):
            return {d: 2 * v for d, v in super().forward(*args, **kwargs).items()}

    G, layer = random_graph(torch.float32), GSE3Res(FIBER, FIBER, div=1, skip=None)
    features = random_features(FIBER, G.num_nodes(), torch.float32)
    basis, r = get_basis_and_r(G, 1)
    expected = layer(features, G=G, r=r, basis=basis)
    layer.GMAB["v"].__class__ = Doubled
    for d, v in layer(features, G=G, r=r, basis=basis).items():
        torch.testing.assert_close(v, 2 * expected[d], rtol=1e-4, atol=1e-5)


def test_hooks_of_all_modules_fire(inputs):
    model, seen = MODELS["attention"](), set()
    expected = model(*inputs)
    with torch.nn.modules.module.register_module_forward_hook(lambda module, *_: seen.add(module)):
        assert has_hooks_of_all()
        output = model(*inputs)
        with use_backend("frame"), pytest.raises(ValueError, match="every module, by a hook of them all"):
            model(*inputs)
    assert seen == {m for m in model.modules() if not isinstance(m, CONTAINERS)}
    for d in expected:
        torch.testing.assert_close(output[d], expected[d], rtol=1e-4, atol=1e-5)


def test_what_pytorch_itself_hooks_to_note_which_module_runs_changes_nothing(inputs):
    with FlopCounterMode(display=False) as counter, use_backend("frame"):
        MODELS["attention"]()(*inputs)
    assert counter.get_total_flops() > 0
    assert not has_hooks_of_all()


@pytest.mark.parametrize(
    ("layer", "container"),
    [
        (G1x1SE3(FIBER, FIBER), "transform"),
        (GConvSE3(FIBER, FIBER, self_interaction=True), "kernel_self"),
    ],
)
def test_masks_of_parameters_in_containers_are_refused(layer, container):
    """The hooks that make them anew would never be called: the second step would be one of other weights."""
    prune.l1_unstructured(getattr(layer, container), "0", 0.5)
    G = random_graph(torch.float32)
    basis, r = get_basis_and_r(G, 1)
    with pytest.raises(ValueError, match=f"{container} must have no hooks, as it is never called"):
        layer(random_features(FIBER, G.num_nodes(), torch.float32), G=G, r=r, basis=basis)


def test_what_is_plain():
    class Other(nn.Linear):
        pass

    def with_forward(module):
        module.forward = lambda x: x
        return module

    def with_hook(module, register):
        getattr(module, register)(lambda *_: None)
        return module

    assert is_plain(nn.Linear(2, 2), nn.Linear)
    assert is_plain(parametrizations.weight_norm(nn.Linear(2, 2)), nn.Linear)
    assert not is_plain(Other(2, 2), nn.Linear)
    assert not is_plain(parametrizations.weight_norm(Other(2, 2)), nn.Linear)
    assert not is_plain(with_forward(nn.Linear(2, 2)), nn.Linear)
    for register in HOOKS:
        assert not is_plain(with_hook(nn.Linear(2, 2), register), nn.Linear)
